"""What ``gradual: true`` goes with and what it does not: the contract, other methods, no training, the dry run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import secateurs
from secateurs.errors import RecipeError
from secateurs.latency import fresh_processes
from secateurs.pipeline import contract, one_target
from secateurs.pipeline.dry_run import dry_run_table
from tiny import WORDS, write_rows
from tiny_gradual import FOLDERS, family, masks
from tiny_latency import by_parameters


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gradual")


def test_the_contract_holds_in_every_step(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes that steer are cut from the dense model, groups that are gone included; a model that misses is built again."""
    monkeypatch.setattr(fresh_processes, "run_process", by_parameters)
    monkeypatch.setattr(one_target, "measured_here", lambda *_: True)
    judged: list[float] = []

    def misses_once_at_2x(target: float, confirmed: Any) -> bool:
        judged.append(target)
        return judged.count(target) > (target == 2.0)

    monkeypatch.setattr(contract, "is_met", misses_once_at_2x)
    recipe = family(place, method="magnitude", hyperparameters={}, speedup=(1.5, 2.0, 2.8), timing_processes=3)
    report = secateurs.run(recipe, tmp_path / "out")
    assert judged == [1.5, 2.0, 2.0, 2.8]
    for model in report.models:
        assert model.met
        last = model.trials[model.attempts - 1]
        assert last.steering is not None and last.confirmed is not None
        assert last.steering.median == pytest.approx(last.confirmed.median), "other shapes were timed than were built"
        assert last.confirmed.median >= model.target
        assert last.confirmed.median == pytest.approx(model.dense_parameters / model.parameters)
        assert set(last.kept) == set(report.models[0].kept)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a method that trains": ({"method": "cofi", "hyperparameters": {}}, "cofi trains its masks instead: use ziplm"),
    "keep": ({"speedup": (), "keep": (0.9,), "recover_steps": 0, "recover_epochs": 0.0}, "keep tries its speed-ups"),
    "minutes": ({"minutes": 5.0, "recover_steps": None}, "give gradual with recover_epochs or recover_steps"),
    "no training": ({"recover_steps": None}, "say for how long, with --recover-epochs 1 or --recover-steps 500"),
    "two lengths": ({"recover_epochs": 1.0}, "give one of them"),
    "ranks": ({"hyperparameters": {"allow": "rank"}}, "gradual removes heads and neurons, and allow=rank"),
    "a sparsity": ({"speedup": (), "sparsity": (0.5,)}, "give it a speed-up, not a sparsity"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_go_step_by_step_is_refused(place: Path, tmp_path: Path, case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(RecipeError, match=message):
        secateurs.run(family(place).model_copy(update=changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_targets_belong_to_gradual_runs_only(place: Path, tmp_path: Path) -> None:
    one = family(place, gradual=False, recover_steps=0, speedup=(1.5,))
    secateurs.run(one, tmp_path / "out")
    with pytest.raises(RecipeError, match="speedup differ"):
        secateurs.run(one.model_copy(update={"speedup": (1.5, 2.0)}), tmp_path / "out", resume=True)
    with pytest.raises(RecipeError, match="gradual, recover_steps differ"):
        secateurs.run(one.model_copy(update={"gradual": True, "recover_steps": 4}), tmp_path / "out", resume=True)


@pytest.mark.parametrize("method", ["uniform", "magnitude", "random-units"])
def test_other_methods_go_step_by_step_too_without_labels(place: Path, tmp_path: Path, method: str) -> None:
    texts = [" ".join(WORDS[i % 9 : i % 9 + 3 + i % 7]) for i in range(40)]
    for split in ("train", "validation"):
        write_rows(tmp_path / "texts" / f"{split}.parquet", text=texts)
    changes = {"method": method, "hyperparameters": {}, "data": str(tmp_path / "texts"), "speedup": (1.5, 2.5)}
    report = secateurs.run(family(place).model_copy(update=changes), tmp_path / "out")
    slow, fast = masks(tmp_path / "out").values()
    assert slow & fast == fast
    assert report.models[0].metric is None
    assert report.models[1].start == FOLDERS[0]
    assert "recover" in report.models[1].seconds
    shares = [kept.kept / kept.size for kept in report.models[1].kept.values()]
    assert max(shares) - min(shares) <= 0.5, "the even share is not that of the dense model"


def test_without_training_the_report_says_so(place: Path, tmp_path: Path) -> None:
    changes = {"recover_steps": None, "recover_epochs": 0.0, "speedup": (1.5, 2.0)}
    report = secateurs.run(family(place).model_copy(update=changes), tmp_path / "out")
    assert any("finished one before it, and not trained" in note for note in report.notes)
    assert "recover" not in report.models[1].seconds


def test_the_dry_run_counts_a_preparation_for_each_target(place: Path) -> None:
    table = dry_run_table(family(place))
    what = {str(stage): str(cell) for stage, cell in zip(table.columns[0].cells, table.columns[1].cells, strict=True)}
    assert what["prepare"].endswith("groups, each target")
    assert what["recover"] == "4 steps, each target"
