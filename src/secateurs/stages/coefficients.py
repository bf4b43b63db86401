"""The search of the paper: layer errors as prices, with a random coefficient in front of every group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from secateurs.allocation import Costs, Found, Menu, Profile, cheapest

__all__ = ["coefficient_search"]


def coefficient_search(
    loss: Callable[[Mapping[str, int]], Float[Tensor, " rows"]],
    menus: Mapping[str, Menu],
    prior: Costs,
    limit: float,
    *,
    inits: int,
    steps: int,
    probability: float,
    seed: int,
    track: Callable[..., Iterable[Any]] = lambda items, title, total=None: items,
) -> Found:
    """The paper's search: minimise the loss over ``c`` in ``argmin sum_l c_l p_{l,k}`` with ``c_l`` in U(0, 1).

    ``inits`` random vectors, the best is kept; then ``steps`` times every ``c_l`` is drawn again with ``probability``
    and the new vector is kept if the loss is strictly lower. Profiles seen before are not evaluated again.

    Raises:
        TargetUnreachable: no choice of levels fits.
    """
    generator = np.random.default_rng(seed)
    names = list(menus)
    seen: dict[tuple[int, ...], float] = {}

    def value(coefficients: np.ndarray) -> tuple[float, Profile]:
        profile = cheapest(
            menus, {name: c * np.asarray(prior[name]) for name, c in zip(names, coefficients, strict=True)}, limit
        )
        key = tuple(profile.values())
        if key not in seen:
            seen[key] = float(loss(profile).mean())
        return seen[key], profile

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
    _, profile = value(coefficients)
    weighted = {name: c * np.asarray(prior[name]) for name, c in zip(names, coefficients, strict=True)}
    return Found(profile, best, best, len(seen), weighted)
