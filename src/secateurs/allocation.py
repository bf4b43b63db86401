"""What every group may take, what each choice costs, and the cheapest choice within the time: the exact knapsack by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from secateurs.errors import TargetUnreachable
from secateurs.numerics.knapsack import Infeasible, solve

__all__ = ["Costs", "Found", "Menu", "Profile", "cheapest", "nearby"]

Profile = dict[str, int]
Costs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Menu:
    """The levels one group may take.

    Args:
        kept: kept counts, ascending.
        ms: time of each, in the unit of the budget.
        error: relative layer error of each, descending from about 1 to 0; the scale on which costs are interpolated.
    """

    kept: tuple[int, ...]
    ms: tuple[float, ...]
    error: tuple[float, ...]

    def pick(self, values: Sequence[float], larger: Menu) -> list[float]:
        """Of one value per level of a larger menu, those of the levels of this one."""
        return [values[larger.kept.index(kept)] for kept in self.kept]


@dataclass(frozen=True)
class Found:
    """A profile and how it was found.

    Args:
        profile: group name -> kept units.
        value: mean objective on the search texts.
        held_out: mean objective on the held-out texts.
        evaluations: models tried.
        costs: what the knapsack was last solved with; a search for a similar budget may start from them.
    """

    profile: Profile
    value: float
    held_out: float
    evaluations: int
    costs: Costs


def cheapest(menus: Mapping[str, Menu], costs: Costs, limit: float) -> Profile:
    """The exact optimum: least total cost within ``limit``.

    Raises:
        TargetUnreachable: even the cheapest levels take longer.
    """
    names = list(menus)
    try:
        chosen = solve([menus[name].ms for name in names], [costs[name].tolist() for name in names], limit)
    except Infeasible as error:
        raise TargetUnreachable(f"no choice of levels fits: {error}") from None
    return {name: menus[name].kept[index] for name, index in zip(names, chosen, strict=True)}


def nearby(menus: Mapping[str, Menu], profile: Mapping[str, int], reach: int) -> dict[str, Menu]:
    """The menus cut down to the levels at most ``reach`` away from a profile."""
    cut = {}
    for name, menu in menus.items():
        here = menu.kept.index(profile[name])
        part = slice(max(0, here - reach), here + reach + 1)
        cut[name] = Menu(menu.kept[part], menu.ms[part], menu.error[part])
    return cut
