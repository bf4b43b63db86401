"""The last round of the search: a few near-optimal choices are really fitted, and the best of them wins.

Candidates of the search have weights that were fitted to the dense model, and what is handed over is fitted once more behind
its pruned layers (``_context``). The two do not rank alike: profiles that look the same before that fit can be a third apart
after it. So other choices are made by solving the knapsack with costs that are a little off, group by group, all of them
are fitted on some of the texts, and compared on texts that neither fit nor solution saw.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from secateurs.allocation import Costs, Found, Menu, Profile, cheapest

__all__ = ["best_fitted"]

logger = logging.getLogger(__name__)

OFF = (0.4, 0.2)
"""How far costs are off, as the standard deviation of their logarithm: in a first half of the tries, and around its best."""


def best_fitted(
    found: Found,
    menus: Mapping[str, Menu],
    limit: float,
    fitted: Callable[[Profile], Float[Tensor, " rows"]],
    *,
    tries: int,
    seed: int,
    track: Callable[..., Iterable[Any]] = lambda items, title, total=None: items,
) -> Found:
    """The best choice after its fit.

    Args:
        found: what the search found; it is tried first.
        menus: what may be chosen.
        limit: time for the groups.
        fitted: fits a profile and returns its divergence, by row.
        tries: profiles to fit, that one among them.
        seed: of the costs.
        track: shows progress.

    Returns:
        The best, with the costs that led to it: a corrected budget is solved for with those.
    """
    generator = np.random.default_rng(seed)
    best, value = found, float("inf")
    seen: set[tuple[int, ...]] = set()
    for number in track(range(tries), "fit finalists"):
        costs = found.costs if number == 0 else _off(best.costs, OFF[2 * number >= tries], generator)
        profile = found.profile if number == 0 else cheapest(menus, costs, limit)
        if (key := tuple(profile.values())) in seen:
            continue
        seen.add(key)
        divergence = float(fitted(profile).mean())
        logger.info("finalist %d: divergence %.5f after its fit", number + 1, divergence)
        if divergence < value:
            best, value = replace(found, profile=profile, costs=costs, held_out=divergence), divergence
    return best


def _off(costs: Costs, deviation: float, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Every group's costs times one factor: which of them is cheap is what the search knows least."""
    return {name: np.asarray(values) * np.exp(deviation * generator.normal()) for name, values in costs.items()}
