"""Slow reference implementations of the numerics, short enough to verify by reading."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


@dataclasses.dataclass
class NaiveStep:
    """State of the one-at-a-time elimination after one removal."""

    unit: int
    score: float  # increase of the error
    error: float  # tr(E^T G E) of the refitted weight
    survivors: list[int]
    weight: Tensor  # refitted, zero at the removed columns


def columns_of(units: Sequence[int], width: int) -> list[int]:
    return [unit * width + offset for unit in units for offset in range(width)]


def refit(weight: Tensor, hessian: Tensor, columns: list[int]) -> Tensor:
    """The weight on ``columns`` alone with the output nearest to the output of ``weight``, from the normal equations."""
    fitted = torch.zeros_like(weight)
    if columns:
        gram = hessian[columns][:, columns]
        fitted[:, columns] = torch.linalg.solve(gram, (weight @ hessian[:, columns]).T).T
    return fitted


def output_error(weight: Tensor, fitted: Tensor, hessian: Tensor) -> float:
    """The squared change of the output: ``tr(E H E^T)`` with ``E`` the change of the weight."""
    change = weight - fitted
    return float((change @ hessian @ change.T).trace())


def eliminate(weight: Tensor, hessian: Tensor, width: int = 1) -> list[NaiveStep]:
    """Remove the unit with the least error after a refit, found by trying every unit; repeat until no unit is left."""
    weight, hessian = weight.double(), hessian.double()
    survivors = list(range(weight.shape[1] // width))
    steps: list[NaiveStep] = []
    before = 0.0
    while survivors:
        errors = []
        for unit in survivors:
            left = [other for other in survivors if other != unit]
            fitted = refit(weight, hessian, columns_of(left, width))
            errors.append(output_error(weight, fitted, hessian))
        cheapest = min(range(len(survivors)), key=errors.__getitem__)
        unit, error = survivors.pop(cheapest), errors[cheapest]
        fitted = refit(weight, hessian, columns_of(survivors, width))
        steps.append(NaiveStep(unit, error - before, error, list(survivors), fitted))
        before = error
    return steps


def downdates(weight: Tensor, hessian: Tensor, width: int = 1) -> tuple[list[int], list[float]]:
    """Order and scores of the textbook recursion: score all units, remove one, downdate inverse and weight."""
    weight, inverse = weight.double().clone(), torch.linalg.inv(hessian.double())
    survivors = list(range(weight.shape[1] // width))
    order, scores = [], []
    while survivors:
        columns = torch.tensor(columns_of(survivors, width)).reshape(-1, width)
        diagonal = inverse[columns[:, :, None], columns[:, None, :]]
        blocks = weight[:, columns].permute(1, 2, 0)
        rises = (torch.linalg.solve(diagonal, blocks) * blocks).sum((1, 2))
        cheapest = int(rises.argmin())
        here = columns[cheapest]
        ratio = torch.linalg.solve(inverse[here][:, here], inverse[here])
        weight -= weight[:, here] @ ratio
        inverse -= inverse[:, here] @ ratio
        order.append(survivors.pop(cheapest))
        scores.append(float(rises[cheapest]))
    return order, scores


def moments(inputs: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor, float]:
    """Gram matrix, total and count, summed token by token."""
    size = inputs.shape[1]
    gram, total, count = torch.zeros(size, size).double(), torch.zeros(size).double(), 0.0
    for token, row in enumerate(inputs.double()):
        share = 1.0 if weights is None else float(weights[token])
        gram += share * torch.outer(row, row)
        total += share * row
        count += share
    return gram, total, count


def best_choice(
    times: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], budget: float
) -> tuple[float, tuple[int, ...]] | None:
    """The least cost within the budget and a choice with that cost, by exhaustive search; ``None`` if no choice fits."""
    best = None
    for choice in itertools.product(*(range(len(group)) for group in times)):
        time = sum(group[level] for group, level in zip(times, choice, strict=True))
        cost = sum(group[level] for group, level in zip(costs, choice, strict=True))
        if time <= budget and (best is None or cost < best[0]):
            best = (cost, choice)
    return best


@dataclasses.dataclass
class RawLayer:
    """A linear module and everything it read: the outputs are ``inputs @ weight.T + bias``, tokens count by ``counts``."""

    weight: Tensor
    bias: Tensor | None
    inputs: Tensor
    counts: Tensor
    width: int
    refits_bias: bool
    damping: float

    @property
    def dead(self) -> list[bool]:
        """Inputs that have one value on all tokens (with a refitted bias), or the value 0."""
        low, high = self.inputs.amin(0), self.inputs.amax(0)
        return [bool(a == b and (self.refits_bias or a == 0)) for a, b in zip(low, high, strict=True)]

    @property
    def dead_units(self) -> list[int]:
        units = self.inputs.shape[1] // self.width
        return [unit for unit in range(units) if all(self.dead[column] for column in columns_of([unit], self.width))]

    @property
    def alive(self) -> list[int]:
        return [column for column, dead in enumerate(self.dead) if not dead]

    @property
    def ridge(self) -> float:
        """The damping times the mean sum of squares of an input that is not dead."""
        x = self.inputs
        if self.refits_bias:
            x = x - (self.counts @ x) / self.counts.sum()
        squares = self.counts @ x.square()
        return self.damping * float(squares[self.alive].mean()) if self.alive else 0.0

    def outputs(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self.inputs @ weight.T + (0.0 if bias is None else bias)

    def error(self, weight: Tensor, bias: Tensor | None) -> float:
        """The squared change of the output."""
        change = self.outputs(weight, bias) - self.outputs(self.weight, self.bias)
        return float((self.counts @ change.square()).sum())

    def fit(self, units: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Ridge regression of the dense output on the columns of some units, with an intercept if the bias is refitted.

        Dead columns get the weight 0, and the ridge holds the other columns to their dense weights.
        """
        kept = [column for column in columns_of(sorted(units), self.width) if not self.dead[column]]
        root = self.counts.sqrt()[:, None]
        rows, targets = [root * self.inputs[:, kept]], root * (self.inputs @ self.weight.T)
        if self.refits_bias:
            rows.append(root)
        held = self.ridge**0.5
        below = torch.zeros(len(kept), len(kept) + self.refits_bias, dtype=torch.float64)
        below[:, : len(kept)] = held * torch.eye(len(kept))
        system = torch.cat([torch.cat(rows, 1), below])
        targets = torch.cat([targets, held * self.weight[:, kept].T])
        solved = torch.linalg.lstsq(system, targets, driver="gelsd").solution.T
        fitted = torch.zeros_like(self.weight)
        fitted[:, kept] = solved[:, : len(kept)]
        if self.bias is None or not self.refits_bias:
            return fitted, self.bias
        return fitted, self.bias + solved[:, -1]

    def cost(self, units: Sequence[int]) -> float:
        """What the fit on some units minimises: the squared change of the output, and the ridge times that of the weight."""
        weight, bias = self.fit(units)
        change = (weight - self.weight)[:, self.alive]
        return self.error(weight, bias) + self.ridge * float(change.square().sum())
