"""``LevelOptions``: the levels a group may take and what each costs; the exact knapsack over the options of all groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from torch import Tensor

from secateurs.errors import TargetUnreachable
from secateurs.numerics.knapsack import Infeasible, solve
from secateurs.structure.allocation import Allocation
from secateurs.structure.cost import Cost
from secateurs.structure.cut import Kind
from secateurs.structure.structure import Group, Structure

__all__ = ["LevelOptions", "QualityCosts", "SearchResult", "cheapest", "level_options", "nearby"]

QualityCosts = Mapping[str, np.ndarray]
"""Group name -> the loss of quality at each of its options, in any unit that adds up over groups."""


@dataclass(frozen=True)
class LevelOptions:
    """The levels that one group may take.

    Args:
        kept: kept counts, ascending. A negative number stands for a low-rank option
            (``secateurs.methods.ziplm.mixed_levels``).
        ms: cost of each option, in the unit of the budget.
        error: relative layer error of each option, from about 1 down to 0; losses of quality are interpolated over it.
    """

    kept: tuple[int, ...]
    ms: tuple[float, ...]
    error: tuple[float, ...]

    def pick(self, values: Sequence[float], larger: LevelOptions) -> list[float]:
        """The values of these options.

        Args:
            values: one value per option of ``larger``.
            larger: options among which these are.
        """
        return [values[larger.kept.index(kept)] for kept in self.kept]


@dataclass(frozen=True)
class SearchResult:
    """An allocation and how it was found.

    Args:
        allocation: group name -> kept units.
        value: mean objective on the search texts.
        held_out: mean objective on the held-out texts.
        evaluations: pruned models that were run.
        costs: the costs that the last knapsack was solved with. A search for a similar budget may start from them.
    """

    allocation: Allocation
    value: float
    held_out: float
    evaluations: int
    costs: QualityCosts


def level_options(
    structure: Structure,
    cost: Cost,
    errors: Mapping[str, Tensor],
    ratio: float,
    snap: bool,
    dense_sizes: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, LevelOptions]:
    """The options of every group: every head count; feed-forward widths that shrink by ``ratio`` from level to level.

    Args:
        structure: the groups.
        cost: price of a group at a kept count.
        errors: group name -> relative layer error by kept count, shape (units + 1).
        ratio: each width is this fraction of the one before.
        snap: round widths to the multiple of the cost.
        dense_sizes: group name -> units from which its widths shrink, if the model was pruned before; widths that it no
            longer has are left out.
    """
    options = {}
    for group in structure:
        size = dense_sizes.get(group.name, group.size)
        kept = _kept_counts(group, size, ratio, cost.multiple(group.name) if snap else 1)
        error = errors[group.name].tolist()
        options[group.name] = LevelOptions(
            kept, tuple(cost.group_cost(group.name, count) for count in kept), tuple(error[count] for count in kept)
        )
    return options


def _kept_counts(group: Group, size: int, ratio: float, multiple: int) -> tuple[int, ...]:
    if group.kind is Kind.HEAD:
        return tuple(range(group.size + 1))
    counts, width = {0, group.size}, float(size)
    while width > max(1, 0.01 * size):  # the paper stops at 99 % removed
        counts.add(min(size, max(1, round(width / multiple)) * multiple) if multiple > 1 else round(width))
        width *= ratio
    return tuple(sorted(count for count in counts if count <= group.size))


def cheapest(options: Mapping[str, LevelOptions], costs: QualityCosts, limit: float) -> Allocation:
    """The exact optimum of the knapsack: least total loss of quality within ``limit``.

    Args:
        options: group name -> options.
        costs: group name -> loss of quality at each option.
        limit: budget of all groups together.

    Raises:
        TargetUnreachable: even the fastest options take longer.
    """
    names = list(options)
    try:
        chosen = solve([options[name].ms for name in names], [costs[name].tolist() for name in names], limit)
    except Infeasible as error:
        raise TargetUnreachable(f"no choice of levels fits: {error}") from None
    return {name: options[name].kept[index] for name, index in zip(names, chosen, strict=True)}


def nearby(options: Mapping[str, LevelOptions], allocation: Mapping[str, int], reach: int) -> dict[str, LevelOptions]:
    """The options at most ``reach`` places away from those of an allocation."""
    near = {}
    for name, own in options.items():
        here = own.kept.index(allocation[name])
        part = slice(max(0, here - reach), here + reach + 1)
        near[name] = LevelOptions(own.kept[part], own.ms[part], own.error[part])
    return near
