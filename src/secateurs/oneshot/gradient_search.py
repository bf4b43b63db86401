"""The search by gradients: allocations that the responses of the outputs price lowest, and a race between them.

One forward and a few backward passes price every level of every group (``secateurs.oneshot.responses``). A price is of first
order and taken on few texts, so several allocations are proposed: with products between groups and without, on all texts and
on random halves of them. Removals that these come near are then measured (``secateurs.oneshot.removals``), and responses that
agree with the measured ones propose again. The allocations that differ race on texts that proposed none of them
(``secateurs.oneshot.race``). The even allocation, which keeps the same share of every group, is taken
where it is far better than the winner.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from secateurs.numerics.joint_price import JointPrice
from secateurs.oneshot.level_options import LevelOptions, SearchResult, cheapest
from secateurs.oneshot.race import Race
from secateurs.oneshot.removals import scaled
from secateurs.structure.allocation import Allocation

__all__ = ["even_allocation", "gradient_search"]

logger = logging.getLogger(__name__)

SEPARATE = (1.0, 0.6, 0.3)
"""Shares of the products between groups that are left out, of the proposals on all texts."""

HALVES = 3
"""Proposals on random halves of the texts; they leave out the last of ``SEPARATE``."""

NEAR_REMOVAL = 0.1
"""A removal is measured if a proposal gives its group a level of this fraction of its price, or removes it."""

EVEN_LEAD = 1.5
"""The even allocation is taken if it is better than the best proposal by this factor: proposals gain more by the last fit."""

SHARES = 201
"""Shares that an even allocation is chosen from."""


def gradient_search(
    responses: Mapping[str, Float[Tensor, "samples options"]],
    measure: Callable[[Collection[str]], Mapping[str, float]],
    options: Mapping[str, LevelOptions],
    limit: float,
    race: Race,
    *,
    seed: int,
) -> SearchResult:
    """The best of the allocations that the responses propose.

    Args:
        responses: group name -> response to each of its options.
        measure: names of groups -> the measured divergence without each of them alone.
        options: group name -> its options.
        limit: budget of all groups together.
        race: compares the proposals.
        seed: seed of the random halves.

    Returns:
        The winner. Its costs are those of moving one group away from it, which do not increase in the kept count.

    Raises:
        TargetUnreachable: no choice of levels fits.
    """
    first_order = [responses[name].double().numpy() for name in options]
    generator = np.random.default_rng(seed)
    prices = [JointPrice(first_order, separate) for separate in SEPARATE]
    for _ in range(HALVES):
        half = generator.permutation(len(first_order[0]))[: max(1, len(first_order[0]) // 2)]
        prices.append(JointPrice([own[half] for own in first_order], SEPARATE[-1]))
    proposals = [_propose(price, options, limit) for price in prices]
    removals: dict[str, float] = {}
    last = proposals
    while near := _near_removals(last, responses, options).difference(removals):
        removals |= measure(near)
        columns = [
            scaled(responses[name], own.kept.index(0), removals[name]).numpy() if name in removals else plain
            for (name, own), plain in zip(options.items(), first_order, strict=True)
        ]
        prices = [JointPrice(columns, separate) for separate in SEPARATE]
        last = [_propose(price, options, limit) for price in prices]
    on_all_texts = prices[-1] if removals else prices[len(SEPARATE) - 1]
    proposals = _distinct([*proposals, *last])
    best, divergence = race(proposals)
    even = even_allocation(options, limit)
    if even not in proposals and race.lead(even, best) > EVEN_LEAD:
        best, divergence = race([even])
    logger.info("the best of %d proposals: divergence %.5f on unseen texts", len(proposals), divergence)
    choice = [own.kept.index(best[name]) for name, own in options.items()]
    costs = {name: _falling(own) for name, own in zip(options, on_all_texts.around(choice), strict=True)}
    return SearchResult(best, on_all_texts(choice), divergence, len(proposals), costs)


def _propose(price: JointPrice, options: Mapping[str, LevelOptions], limit: float) -> Allocation:
    """From the exact knapsack over the prices of single options, by moves that lower the joint price."""
    alone = {name: _falling(own) for name, own in zip(options, price.separately, strict=True)}
    first = cheapest(options, alone, limit)
    start = [own.kept.index(first[name]) for name, own in options.items()]
    chosen = price.improve(start, [own.ms for own in options.values()], limit)
    return {name: own.kept[index] for (name, own), index in zip(options.items(), chosen, strict=True)}


def _near_removals(
    proposals: Sequence[Allocation],
    responses: Mapping[str, Float[Tensor, "samples options"]],
    options: Mapping[str, LevelOptions],
) -> set[str]:
    """The groups that some proposal removes, or gives a level whose price is a considerable part of the removal's."""
    near: set[str] = set()
    for name, own in options.items():
        if 0 not in own.kept:
            continue
        prices = responses[name].double().square().mean(0)
        most = NEAR_REMOVAL * float(prices[own.kept.index(0)])
        for proposal in proposals:
            kept = proposal[name]
            if not kept or (kept < own.kept[-1] and float(prices[own.kept.index(kept)]) >= most):
                near.add(name)
    return near


def _distinct(proposals: Sequence[Allocation]) -> list[Allocation]:
    """The proposals without repetitions, in order."""
    return [one for index, one in enumerate(proposals) if one not in proposals[:index]]


def even_allocation(options: Mapping[str, LevelOptions], limit: float) -> Allocation:
    """The largest share of its units that every group can keep within the budget; counts are rounded down to options.

    Args:
        options: group name -> its options.
        limit: budget of all groups together.

    Raises:
        TargetUnreachable: no choice of levels fits.
    """
    for share in np.linspace(1.0, 0.0, SHARES):
        chosen = {
            name: max(index for index, kept in enumerate(own.kept) if kept <= max(share * own.kept[-1], own.kept[0]))
            for name, own in options.items()
        }
        if sum(own.ms[chosen[name]] for name, own in options.items()) <= limit:
            return {name: own.kept[chosen[name]] for name, own in options.items()}
    return cheapest(options, {name: np.zeros(len(own.kept)) for name, own in options.items()}, limit)


def _falling(costs: Float[np.ndarray, " options"]) -> Float[np.ndarray, " options"]:
    """Costs that do not increase in the kept count, from 0 at the full size: a small rise is noise."""
    falling = np.maximum.accumulate(costs[::-1])[::-1]
    return falling - falling[-1]
