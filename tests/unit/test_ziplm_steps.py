"""ZipLM's steps do shared work once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from secateurs.methods import method
from secateurs.oneshot.levels import LevelDatabase
from secateurs.pipeline.load import load
from secateurs.structure.cost import ParameterCost
from secateurs.structure.target import Budget
from tiny_run import recipe


@pytest.mark.parametrize(("search", "times"), [("probes", 1), ("gradient", 0)])
def test_two_allocations_compute_the_errors_of_a_group_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: str, times: int
) -> None:
    """The contract allocates again for every correction; errors of levels of 3072 neurons take seconds each.

    A search by gradients asks for none.
    """
    loaded = load(recipe(tmp_path))
    asked: Counter[str] = Counter()
    errors = LevelDatabase.errors

    def counted(self: LevelDatabase, name: str) -> object:
        asked[name] += 1
        return errors(self, name)

    monkeypatch.setattr(LevelDatabase, "errors", counted)
    (tmp_path / "stages").mkdir()
    how = {**loaded.recipe.hyperparameters, "search": search}
    fitted = method("ziplm", "default", **how).fit(loaded.context(tmp_path / "stages"))
    cost = ParameterCost.of(loaded.model, loaded.structure)
    dense = float(cost(loaded.structure.sizes))
    for share in (0.8, 0.7):
        fitted.allocate(Budget(cost.fixed + share * (dense - cost.fixed), cost))
    assert asked == Counter({group.name: times for group in loaded.structure if times})
