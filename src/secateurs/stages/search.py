"""The search: which level every group takes, within the time the target leaves.

An exact knapsack over the groups needs one number per level: what that level costs in quality. The paper takes the
relative output error of the layer and randomises coefficients in front of it (``secateurs.stages.coefficients``). Here
the number is measured: the divergence of the whole model from its dense self when only that group is at that level
(``sensitivities``), measured again around the incumbent, where the other groups already are where they will be
(``refine``). Every step is accepted on texts it was not fitted to.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from secateurs.allocation import Costs, Found, Menu, Profile, cheapest

__all__ = ["refine", "sensitivities"]

logger = logging.getLogger(__name__)

Evaluate = Callable[[Mapping[str, int]], Float[Tensor, " rows"]]
Track = Callable[..., Iterable[Any]]


def sensitivities(
    evaluate: Evaluate,
    menus: Mapping[str, Menu],
    around: Mapping[str, int],
    *,
    probes: int,
    track: Track = lambda items, title, total=None: items,
    title: str = "sensitivity",
) -> dict[str, np.ndarray]:
    """What each level of each group costs while all others stay where they are.

    ``cost_g(k) = mean divergence(around with g at k) - mean divergence(around)``, measured at ``probes`` levels a
    group and interpolated on the scale of the layer error (linear there while changes are small), non-increasing in k.

    Returns:
        Group name -> one cost per level of its menu.
    """
    base = float(evaluate(around).mean())
    costs: dict[str, np.ndarray] = {}
    # Last layers first: a probe then runs the model from its own layer on, on the cached states of the incumbent.
    for name in track(list(menus)[::-1], title):
        menu = menus[name]
        indices = _probe_levels(menu, menu.kept.index(around[name]), probes)
        measured = [
            0.0
            if menu.kept[index] == around[name]
            else float(evaluate({**around, name: menu.kept[index]}).mean()) - base
            for index in indices
        ]
        costs[name] = _interpolate(menu, indices, measured)
    return {name: costs[name] for name in menus}


def refine(
    search: Evaluate,
    held_out: Evaluate,
    menus: Mapping[str, Menu],
    costs: Costs,
    limit: float,
    *,
    settle: Callable[[Mapping[str, int]], None],
    rounds: int,
    probes: int,
    steps: int,
    seed: int,
    track: Track = lambda items, title, total=None: items,
) -> Found:
    """From dense sensitivities to a profile: solve, measure again around the answer, solve again, then local moves.

    Args:
        search: divergence by row on the search texts.
        held_out: the same on texts that only accept or reject.
        menus: what may be chosen.
        costs: sensitivities around the dense model.
        limit: time left for the groups.
        settle: told of every new incumbent (so that it can cache hidden states).
        rounds: times the sensitivities are measured again.
        probes: levels measured a group and round.
        steps: local moves tried after that.
        seed: of the local moves.

    Raises:
        TargetUnreachable: no choice of levels fits.
    """
    evaluations = 1
    profile = cheapest(menus, costs, limit)
    settle(profile)
    best, best_held_out = search(profile), held_out(profile)
    logger.info("first knapsack: held-out divergence %.5f", float(best_held_out.mean()))
    current: Costs = costs
    for number in range(rounds):
        local = sensitivities(
            search, menus, profile, probes=probes, track=track, title=f"sensitivity, round {number + 2}"
        )
        evaluations += probes * len(menus)
        improved = False
        # A full step trusts measurements far from the incumbent; a shorter one leans on the earlier costs.
        for trust in (1.0, 0.5):
            mixed = {name: trust * local[name] + (1 - trust) * np.asarray(current[name]) for name in menus}
            candidate = cheapest(menus, mixed, limit)
            if candidate == profile:
                continue
            rows, rows_held_out = search(candidate), held_out(candidate)
            evaluations += 1
            if rows_held_out.mean() < best_held_out.mean() and rows.mean() < best.mean():
                profile, best, best_held_out, current, improved = candidate, rows, rows_held_out, mixed, True
                break
        logger.info("round %d: held-out divergence %.5f", number + 2, float(best_held_out.mean()))
        if not improved:
            break
        settle(profile)
    generator = np.random.default_rng(seed)
    for _ in track(range(steps), "local search"):
        candidate = _move(profile, menus, current, limit, generator)
        if candidate is None:
            continue
        evaluations += 1
        rows = search(candidate)
        if not _better(rows, best):
            continue
        rows_held_out = held_out(candidate)
        if rows_held_out.mean() < best_held_out.mean():
            profile, best, best_held_out = candidate, rows, rows_held_out
            settle(profile)
    logger.info("local moves: held-out divergence %.5f", float(best_held_out.mean()))
    return Found(profile, float(best.mean()), float(best_held_out.mean()), evaluations, current)


def _probe_levels(menu: Menu, here: int, probes: int) -> list[int]:
    """Indices to measure: both ends, the incumbent, and the rest evenly spread over time, denser near the incumbent."""
    count = len(menu.kept)
    if count <= probes:
        return list(range(count))
    ms = np.asarray(menu.ms)
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


def _interpolate(menu: Menu, indices: Sequence[int], measured: Sequence[float]) -> np.ndarray:
    """Costs of all levels from some, non-increasing in the kept count."""
    values = np.maximum.accumulate(np.asarray(measured)[::-1])[::-1]
    error = np.asarray(menu.error)
    scale = error[list(indices)]
    order = np.argsort(scale, kind="stable")
    return np.interp(error, scale[order], values[order])


def _better(candidate: Float[Tensor, " rows"], incumbent: Float[Tensor, " rows"]) -> bool:
    """Lower by more than a standard error of the paired difference: what is less is as likely noise."""
    difference = candidate.double() - incumbent.double()
    return float(difference.mean()) < -float(difference.std()) / len(difference) ** 0.5


def _move(
    profile: Mapping[str, int], menus: Mapping[str, Menu], costs: Costs, limit: float, generator: np.random.Generator
) -> Profile | None:
    """Shift time from one group to another: one or two steps down here, and what fits up there."""
    names = list(menus)
    down, up = generator.choice(len(names), 2, replace=False)
    giver, taker = names[down], names[up]
    menu = menus[giver]
    index = menu.kept.index(profile[giver])
    if index == 0:
        return None
    lower = max(0, index - int(generator.integers(1, 4)))
    spent = sum(menus[name].ms[menus[name].kept.index(kept)] for name, kept in profile.items())
    room = limit - spent + menu.ms[index] - menu.ms[lower]
    menu_up = menus[taker]
    start = menu_up.kept.index(profile[taker])
    fits = [i for i in range(start + 1, len(menu_up.kept)) if menu_up.ms[i] - menu_up.ms[start] <= room]
    if not fits:
        return None
    return {**profile, giver: menu.kept[lower], taker: menu_up.kept[fits[-1]]}
