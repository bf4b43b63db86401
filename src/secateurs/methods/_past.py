"""Searches already done, on disk: a killed run does not search twice, and a similar budget starts where one ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from secateurs.artefact import read_json, write_json

__all__ = ["Past", "Pasts"]

NEAR = 0.2
"""Limits within 20 % of each other have similar answers: a search starts where the other ended."""

SAME_TARGET = 0.05
"""Budgets this close are corrections of one target: another target deserves a search of its own."""

CLOSE = 0.12
"""Within 12 %, as most corrections of the contract are, its costs are good enough to solve with them at once."""


@dataclass(frozen=True)
class Past:
    """What one search found.

    Args:
        limit: time it had for the groups, ms.
        budget: the whole time budget; corrections of one target change it little, another target changes it much.
        profile: group name -> kept units.
        costs: what the knapsack was last solved with.
        value: mean objective on the held-out texts; ``None`` if no model was run.
        evaluations: models tried; 0 if it was solved for with the costs of another search.
    """

    limit: float
    budget: float
    profile: dict[str, int]
    costs: dict[str, list[float]]
    value: float | None
    evaluations: int


class Pasts:
    """All of them, in the order in which they were done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done = [Past(**values) for values in read_json(path)] if path.is_file() else []

    def exactly(self, limit: float) -> Past | None:
        """The search of this very budget."""
        return next((past for past in self.done if past.limit == limit), None)

    def near(self, limit: float, budget: float) -> Past | None:
        """The latest real search for the same target with a similar limit."""
        return self._within(limit, budget, NEAR)

    def close(self, limit: float, budget: float) -> Past | None:
        """The latest real search for the same target with almost this limit."""
        return self._within(limit, budget, CLOSE)

    def _within(self, limit: float, budget: float, share: float) -> Past | None:
        return next(
            (
                past
                for past in reversed(self.done)
                if past.evaluations
                and abs(past.budget / budget - 1) < SAME_TARGET
                and abs(past.limit / limit - 1) < share
            ),
            None,
        )

    def add(self, past: Past) -> None:
        """Remember, on disk first."""
        write_json(self.path, [asdict(one) for one in [*self.done, past]])
        self.done.append(past)
