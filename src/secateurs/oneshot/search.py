"""The search: which level every group takes within the budget, by measured sensitivities.

An exact knapsack over the groups needs one number per level: the loss of quality at that level. The paper takes the
relative output error of the layer and puts random coefficients in front of it (``secateurs.oneshot.paper_search``). This
search measures the number: the divergence of the whole model from the dense model when only that group is at that level
(``sensitivities``). It measures again around the incumbent, where the other groups are already pruned (``refine``). Every
step is accepted on texts that did not propose it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from secateurs.oneshot.candidates import SearchObjective
from secateurs.oneshot.level_options import LevelOptions, QualityCosts, SearchResult, cheapest
from secateurs.progress import Track, silent
from secateurs.structure.allocation import Allocation

__all__ = ["refine", "sensitivities"]

logger = logging.getLogger(__name__)

Evaluate = Callable[[Mapping[str, int]], Float[Tensor, " rows"]]


def sensitivities(
    evaluate: Evaluate,
    options: Mapping[str, LevelOptions],
    around: Mapping[str, int],
    *,
    probes: int,
    track: Track = silent,
    title: str = "sensitivity",
) -> dict[str, np.ndarray]:
    """The loss of quality at each level of each group, while all other groups stay where they are.

    ``cost_g(k) = mean divergence(around with g at k) - mean divergence(around)``. It is measured at ``probes`` levels of a
    group and interpolated over the layer error, in which it is linear while changes are small. It does not increase in k.

    Args:
        evaluate: allocation -> divergence per row.
        options: group name -> its options.
        around: the allocation around which sensitivities are measured.
        probes: levels measured per group.
        track: shows progress.
        title: title of the progress.

    Returns:
        Group name -> one cost per option.
    """
    base = float(evaluate(around).mean())
    costs: dict[str, np.ndarray] = {}
    # Last layers first: a probe then runs the model from its own layer on, from cached hidden states of the incumbent.
    for name in track(list(options)[::-1], title):
        own = options[name]
        indices = _probed_levels(own, own.kept.index(around[name]), probes)
        measured = [
            0.0 if own.kept[index] == around[name] else float(evaluate({**around, name: own.kept[index]}).mean()) - base
            for index in indices
        ]
        costs[name] = _interpolate(own, indices, measured)
    return {name: costs[name] for name in options}


def refine(
    objective: SearchObjective,
    options: Mapping[str, LevelOptions],
    costs: QualityCosts,
    limit: float,
    *,
    rounds: int,
    probes: int,
    steps: int,
    seed: int,
    track: Track = silent,
) -> SearchResult:
    """From the sensitivities of the dense model to an allocation.

    The knapsack is solved, sensitivities are measured again around its answer, it is solved again; then local moves.

    Args:
        objective: divergence on the search texts, which propose, and on the held-out texts, which accept or reject.
        options: group name -> its options.
        costs: sensitivities around the dense model.
        limit: budget of all groups together.
        rounds: how many times the sensitivities are measured again.
        probes: levels measured per group and round.
        steps: local moves tried afterwards.
        seed: seed of the local moves.
        track: shows progress.

    Raises:
        TargetUnreachable: no choice of levels fits.
    """
    search, held_out = objective.search, objective.held_out
    evaluations = 1
    allocation = cheapest(options, costs, limit)
    objective.settle(allocation)
    best, best_held_out = search(allocation), held_out(allocation)
    logger.info("first knapsack: held-out divergence %.5f", float(best_held_out.mean()))
    current: QualityCosts = costs
    for number in range(rounds):
        local = sensitivities(
            search, options, allocation, probes=probes, track=track, title=f"sensitivity, round {number + 2}"
        )
        evaluations += probes * len(options)
        improved = False
        # A full step relies on sensitivities measured far from its answer; a half step keeps half of the earlier costs.
        for trust in (1.0, 0.5):
            mixed = {name: trust * local[name] + (1 - trust) * np.asarray(current[name]) for name in options}
            candidate = cheapest(options, mixed, limit)
            if candidate == allocation:
                continue
            rows, rows_held_out = search(candidate), held_out(candidate)
            evaluations += 1
            if rows_held_out.mean() < best_held_out.mean() and rows.mean() < best.mean():
                allocation, best, best_held_out, current, improved = candidate, rows, rows_held_out, mixed, True
                break
        logger.info("round %d: held-out divergence %.5f", number + 2, float(best_held_out.mean()))
        if not improved:
            break
        objective.settle(allocation)
    generator = np.random.default_rng(seed)
    for _ in track(range(steps), "local search"):
        candidate = _local_move(allocation, options, limit, generator)
        if candidate is None:
            continue
        evaluations += 1
        rows = search(candidate)
        if not _clearly_better(rows, best):
            continue
        rows_held_out = held_out(candidate)
        if rows_held_out.mean() < best_held_out.mean():
            allocation, best, best_held_out = candidate, rows, rows_held_out
            objective.settle(allocation)
    logger.info("local moves: held-out divergence %.5f", float(best_held_out.mean()))
    return SearchResult(allocation, float(best.mean()), float(best_held_out.mean()), evaluations, current)


def _probed_levels(options: LevelOptions, here: int, probes: int) -> list[int]:
    """Indices of the levels to measure: both ends, the incumbent, the rest spread over time and denser near it."""
    count = len(options.kept)
    if count <= probes:
        return list(range(count))
    ms = np.asarray(options.ms)
    span = max(ms[-1] - ms[0], 1e-12)
    offsets = np.linspace(-1, 1, 2 * probes)
    wanted = ms[here] + np.sign(offsets) * offsets**2 * span
    near = {int(np.abs(ms - value).argmin()) for value in wanted if ms[0] <= value <= ms[-1]}
    chosen = sorted({0, here, count - 1} | near)
    while len(chosen) > probes + 1:  # drop the level that its neighbours predict best
        gaps = [
            ms[chosen[i + 1]] - ms[chosen[i - 1]] if chosen[i] != here else np.inf for i in range(1, len(chosen) - 1)
        ]
        chosen.pop(1 + int(np.argmin(gaps)))
    return chosen


def _interpolate(options: LevelOptions, indices: Sequence[int], measured: Sequence[float]) -> np.ndarray:
    """The costs of all levels from those of some; they do not increase in the kept count."""
    values = np.maximum.accumulate(np.asarray(measured)[::-1])[::-1]
    error = np.asarray(options.error)
    scale = error[list(indices)]
    order = np.argsort(scale, kind="stable")
    return np.interp(error, scale[order], values[order])


def _clearly_better(candidate: Float[Tensor, " rows"], incumbent: Float[Tensor, " rows"]) -> bool:
    """The candidate is lower by more than one standard error of the paired difference; less is noise as likely as not."""
    difference = candidate.double() - incumbent.double()
    return float(difference.mean()) < -float(difference.std()) / len(difference) ** 0.5


def _local_move(
    allocation: Mapping[str, int], options: Mapping[str, LevelOptions], limit: float, generator: np.random.Generator
) -> Allocation | None:
    """Shift time from one group to another: one to three levels down in the first, as many up in the second as fit."""
    names = list(options)
    if len(names) < 2:  # there is no other group to shift time to, and the knapsack of one group is exact
        return None
    down, up = generator.choice(len(names), 2, replace=False)
    giver, taker = names[down], names[up]
    giving = options[giver]
    index = giving.kept.index(allocation[giver])
    if index == 0:
        return None
    lower = max(0, index - int(generator.integers(1, 4)))
    spent = sum(options[name].ms[options[name].kept.index(kept)] for name, kept in allocation.items())
    room = limit - spent + giving.ms[index] - giving.ms[lower]
    taking = options[taker]
    start = taking.kept.index(allocation[taker])
    fits = [i for i in range(start + 1, len(taking.kept)) if taking.ms[i] - taking.ms[start] <= room]
    if not fits:
        return None
    return {**allocation, giver: giving.kept[lower], taker: taking.kept[fits[-1]]}
