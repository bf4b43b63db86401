"""The search of the ZipLM paper: layer errors as the loss of quality, with a random coefficient in front of every group."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float
from torch import Tensor

from secateurs.oneshot.level_options import LevelOptions, QualityCosts, SearchResult, cheapest
from secateurs.progress import Track, silent
from secateurs.structure.allocation import Allocation

__all__ = ["coefficient_search"]


def coefficient_search(
    loss: Callable[[Mapping[str, int]], Float[Tensor, " rows"]],
    options: Mapping[str, LevelOptions],
    prior: QualityCosts,
    limit: float,
    *,
    inits: int,
    steps: int,
    probability: float,
    seed: int,
    track: Track = silent,
) -> SearchResult:
    """Minimise the loss over ``c`` in ``argmin sum_l c_l p_{l,k}`` with ``c_l`` in U(0, 1).

    The best of ``inits`` random vectors is kept. Then, ``steps`` times, every ``c_l`` is drawn again with ``probability``,
    and the new vector is kept if its loss is strictly lower. An allocation is evaluated once only.

    Args:
        loss: allocation -> loss per batch.
        options: group name -> its options.
        prior: group name -> ``p_{l,k}``, the relative layer error at each option.
        limit: budget of all groups together.
        inits: random vectors to start from; the vector of ones is tried besides.
        steps: redraws after that.
        probability: probability that a coefficient is drawn again.
        seed: seed of all draws.
        track: shows progress.

    Raises:
        TargetUnreachable: no choice of levels fits.
    """
    generator = np.random.default_rng(seed)
    names = list(options)
    seen: dict[tuple[int, ...], float] = {}

    def value(coefficients: np.ndarray) -> tuple[float, Allocation]:
        allocation = cheapest(
            options, {name: c * np.asarray(prior[name]) for name, c in zip(names, coefficients, strict=True)}, limit
        )
        key = tuple(allocation.values())
        if key not in seen:
            seen[key] = float(loss(allocation).mean())
        return seen[key], allocation

    starts = [np.ones(len(names)), *(generator.uniform(size=len(names)) for _ in range(inits))]
    best, coefficients = np.inf, starts[0]
    for start in track(starts, "search, random starts"):
        found, _ = value(start)
        if found < best:
            best, coefficients = found, start
    for _ in track(range(steps), "search"):
        redraw = generator.uniform(size=len(names)) < probability
        if not redraw.any():
            redraw[generator.integers(len(names))] = True
        trial = np.where(redraw, generator.uniform(size=len(names)), coefficients)
        found, _ = value(trial)
        if found < best:
            best, coefficients = found, trial
    _, allocation = value(coefficients)
    weighted = {name: c * np.asarray(prior[name]) for name, c in zip(names, coefficients, strict=True)}
    return SearchResult(allocation, best, best, len(seen), weighted)
