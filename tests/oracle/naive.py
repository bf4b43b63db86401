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
