"""``SearchCache``: searches on disk. A resumed run does not search twice, a similar budget starts from a cached search."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from secateurs.artifacts import read_json, write_json

__all__ = ["CachedSearch", "SearchCache"]

SAME_TARGET = 0.05
"""Budgets within 5 % are corrections of one target. Another target gets a search of its own."""

SIMILAR = 0.2
"""Limits within 20 % have similar answers: a search starts from the other's costs."""

CLOSE = 0.12
"""Limits within 12 %, as most corrections of the contract are, are solved with the cached costs, without a search."""


@dataclass(frozen=True)
class CachedSearch:
    """The result of one search.

    Args:
        limit: budget of the groups, ms.
        budget: budget of the whole model, ms. Corrections of one target change it little, another target much.
        profile: group name -> option that was chosen (kept units, or a negative number for a low-rank option).
        costs: costs that the last knapsack was solved with.
        value: mean objective on the held-out texts; ``None`` if no model was run.
        evaluations: pruned models that were run; 0 if the answer was solved for with the costs of another search.
    """

    limit: float
    budget: float
    profile: dict[str, int]
    costs: dict[str, list[float]]
    value: float | None
    evaluations: int


class SearchCache:
    """All searches of a run, in the order in which they were done.

    Args:
        path: JSON file that holds them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done = [CachedSearch(**values) for values in read_json(path)] if path.is_file() else []

    def exactly(self, limit: float) -> CachedSearch | None:
        """The search with exactly this limit."""
        return next((cached for cached in self.done if cached.limit == limit), None)

    def similar(self, limit: float, budget: float) -> CachedSearch | None:
        """The latest real search for the same target whose limit is within ``SIMILAR``."""
        return self._within(limit, budget, SIMILAR)

    def close(self, limit: float, budget: float) -> CachedSearch | None:
        """The latest real search for the same target whose limit is within ``CLOSE``."""
        return self._within(limit, budget, CLOSE)

    def _within(self, limit: float, budget: float, share: float) -> CachedSearch | None:
        return next(
            (
                cached
                for cached in reversed(self.done)
                if cached.evaluations
                and abs(cached.budget / budget - 1) < SAME_TARGET
                and abs(cached.limit / limit - 1) < share
            ),
            None,
        )

    def add(self, search: CachedSearch) -> None:
        """Append a search, on disk first."""
        write_json(self.path, [asdict(one) for one in [*self.done, search]])
        self.done.append(search)
