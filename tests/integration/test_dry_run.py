"""``--dry-run``: ranges from counted passes and a measured pass, the largest speed-up, and tables of other environments."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import secateurs
import tiny_run
from secateurs.errors import RecipeError, TargetUnreachable
from secateurs.latency.compare import Speed
from secateurs.latency.environment import machine
from secateurs.latency.table import LatencyTable
from secateurs.pipeline import dry_run
from secateurs.pipeline.dry_run import dry_run_table
from secateurs.pipeline.estimates import Pass, largest_speedup, rows_of, timed_pass
from secateurs.pipeline.load import load
from secateurs.pipeline.recipe import Recipe
from secateurs.pipeline.recipe_targets import CURVE


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dry-run")


def printed(recipe: Recipe, folder: Path | None = None) -> str:
    """The text of the table, on wide paper."""
    console = Console(width=400, record=True, quiet=True)
    console.quiet = False
    with console.capture() as capture:
        console.print(dry_run_table(recipe, folder))
    return capture.get()


def stages(text: str) -> dict[str, str]:
    """Stage -> its time."""
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    return {name: seconds for name, _, seconds in cells}


@pytest.fixture
def one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass of one sequence takes 1000 to 2000 seconds, so that each pass counts."""
    monkeypatch.setattr(dry_run, "timed_pass", lambda loaded: Pass(1000.0, 2000.0, 4.0))


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "search samples": ({"hyperparameters": {"search_samples": 4, "probes": 3, "rounds": 1, "steps": 3}}, "prepare"),
    "directions": ({"hyperparameters": {"directions": 9}}, "prepare"),
    "search": ({"hyperparameters": {"search": "probes"}}, "prepare"),
    "calibration": ({"calibration_samples": 16}, "prepare"),
    "evaluation": ({"evaluation_samples": 4}, "evaluate dense"),
    "preset": ({"preset": "paper", "hyperparameters": {}}, "prune to 1.50x"),
    "fewer targets": ({"speedup": 1.5}, "in all"),
}


@pytest.mark.usefixtures("one_second")
@pytest.mark.parametrize("change", CHANGES)
def test_every_setting_counts(place: Path, change: str) -> None:
    changes, stage = CHANGES[change]
    before, after = (stages(printed(tiny_run.recipe(place, **more))) for more in ({}, changes))
    assert before[stage] != after[stage]


@pytest.mark.usefixtures("one_second")
def test_times_are_ranges(place: Path) -> None:
    found = stages(printed(tiny_run.recipe(place)))
    assert found["evaluate dense"] == "3-18 h"  # 16 rows of 0.6 x 1000 to 2 x 2000 seconds
    assert all(re.fullmatch(r"[\d.]+-[\d.]+ (s|min|h)", value) for name, value in found.items() if name != "latency")


def exact(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, *, here: bool) -> dict[str, tuple[float, float]]:
    """Stage -> its range of seconds, with a table that timings here can judge, or cannot."""
    monkeypatch.setattr(dry_run, "measured_here", lambda *_: here)
    monkeypatch.setattr(dry_run, "_duration", lambda seconds: f"{seconds[0]!r} {seconds[1]!r}")
    return {name: tuple(map(float, words.split())) for name, words in stages(printed(recipe)).items() if words}  # pyright: ignore[reportReturnType]


@pytest.mark.usefixtures("one_second")
@pytest.mark.parametrize("method", ["ziplm", "agp"])
def test_a_miss_repeats_all_that_builds_a_model(place: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Not only its timing, but also its training, its fine-tuning and its evaluation; the table and the fit come once."""
    own: dict[str, Any] = {} if method == "ziplm" else {"hyperparameters": {"steps": 20}}
    recipe = tiny_run.recipe(place, method=method, speedup=1.2, recover_epochs=1.0, **own)
    recipe = tiny_run.own_table(recipe, place / f"{method}.json")
    judged, elsewhere = (exact(recipe, monkeypatch, here=here) for here in (True, False))
    for stage in ("recover", "evaluate"):
        assert judged[stage] == (elsewhere[stage][0], 2 * elsewhere[stage][1])
    for stage in ("latency", "evaluate dense", "prepare"):
        assert judged[stage] == elsewhere[stage]
    low, high = elsewhere["prune to 1.20x"]
    work = low - 10 * 8, high - 10 * 25  # ten processes that confirm one model, and none that steer
    assert work[0] > 0
    assert judged["prune to 1.20x"] == pytest.approx(
        (work[0] + 13 * 8, {"ziplm": 3, "agp": 2}[method] * work[1] + 32 * 25)
    )


@pytest.mark.usefixtures("one_second")
def test_nothing_is_built_again_for_a_sparsity(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"method": "agp", "hyperparameters": {"steps": 20}, "speedup": (), "sparsity": 0.5}
    recipe = tiny_run.own_table(tiny_run.recipe(place, **changes), place / "agp.json")
    assert exact(recipe, monkeypatch, here=True) == exact(recipe, monkeypatch, here=False)


def test_a_target_out_of_reach_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_run.recipe(place, latency_table=None)
    monkeypatch.setattr(dry_run, "largest_speedup", lambda loaded: Speed(3.0, 2.8, 3.2))
    assert "The largest speed-up is about 3.0x (2.8 to 3.2" in printed(recipe)
    with pytest.raises(
        TargetUnreachable, match=r"Speedup 40 is out of reach .* it is 3\.0 times as fast \(2\.8 to 3\.2"
    ):
        dry_run_table(recipe.model_copy(update={"speedup": (2.0, 40.0)}))


@pytest.mark.parametrize("method", ["ziplm", "flop", "neuron_pruning"])
def test_the_largest_speedup_is_that_of_the_emptied_model(
    place: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from secateurs.pipeline import estimates

    seen = {}

    def spy(models: dict[str, Any], *given: Any, **named: Any) -> Any:
        seen.update({name: sum(value.numel() for value in model.parameters()) for name, model in models.items()})
        return type("Timing", (), {"speedups": {"emptied": Speed(2.0, 2.0, 2.0)}})

    monkeypatch.setattr(estimates, "compare", spy)
    loaded = load(tiny_run.recipe(place, method=method, hyperparameters={}))
    before = sum(value.numel() for value in loaded.model.parameters())
    assert largest_speedup(loaded).median == 2.0
    assert seen["emptied"] < seen["dense"] / 2
    assert sum(value.numel() for value in loaded.model.parameters()) == before


def test_rows_of_an_evaluation_are_counted(place: Path) -> None:
    assert rows_of(load(tiny_run.recipe(place)).data.evaluation) == 16
    assert rows_of(None) == 0


def given(recipe: Recipe, path: Path, **changes: Any) -> Recipe:
    """The recipe with a table of this machine and environment, but for some changes, which is not accepted as another's."""
    table = LatencyTable.load(Path(str(recipe.latency_table)))
    here = {"environment": recipe.environment, "machine": machine(), **changes}
    replace(table, **here).save(path)
    return recipe.model_copy(update={"latency_table": str(path), "elsewhere": False})


def test_a_table_of_another_environment_is_asked_for(place: Path, tmp_path: Path) -> None:
    recipe = tiny_run.recipe(place)
    other = replace(recipe.environment, batch_size=1, threads=3)
    foreign = given(recipe, tmp_path / "foreign.json", environment=other)
    both = (
        r"foreign.json is of cpu \(float32, batch 1, sequence 16, 3 threads.* and speed-ups are measured on cpu \(float32, "
        r"batch 8, sequence 16, 1 thread, .*add --elsewhere.*, or give its environment with --batch-size 1 --threads 3$"
    )
    with pytest.raises(RecipeError, match=both):
        secateurs.run(foreign, tmp_path / "out")
    with pytest.raises(RecipeError, match=both):
        dry_run_table(foreign)
    assert not (tmp_path / "out").exists()
    text = printed(foreign.model_copy(update={"elsewhere": True}))
    assert "given table: cpu (float32, batch 1, sequence 16, 3 threads" in text


def test_a_table_of_another_machine_is_asked_for(place: Path, tmp_path: Path) -> None:
    foreign = given(tiny_run.recipe(place), tmp_path / "foreign.json", machine={"processor": "Abacus 9"})
    with pytest.raises(
        RecipeError, match=r"on Abacus 9, and .*--elsewhere to prune for the table's, .* cannot measure$"
    ):
        dry_run_table(foreign)


def test_a_table_of_this_machine_is_taken(place: Path, tmp_path: Path) -> None:
    assert "given table: " in printed(given(tiny_run.recipe(place), tmp_path / "own.json"))


@pytest.mark.usefixtures("one_second")
def test_a_quality_to_keep_is_estimated_with_its_tries(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try searches, refits and runs the texts that choose: one at least, all of the bisection at most."""
    recipe = tiny_run.recipe(place, speedup=(), keep=0.9)
    roles = load(recipe).data.roles
    largest = LatencyTable.load(place / "latency.json").largest_speedup
    tries = math.ceil(math.log2(len([n for n in range(1, 999) if 1.05**n < largest]) + 1))
    low, high = exact(recipe, monkeypatch, here=True)["prune to keep 0.9"]
    assert low > 10 * 8 + 600 * roles.choose.rows
    assert high > 10 * 25 + tries * 4000 * roles.choose.rows
    assert high / low > tries


@pytest.mark.usefixtures("one_second")
def test_the_curve_is_estimated_without_what_is_out_of_reach(place: Path) -> None:
    largest = LatencyTable.load(place / "latency.json").largest_speedup
    found = stages(printed(tiny_run.recipe(place, speedup="auto")))
    wanted = [f"prune to {value:.2f}x" for value in CURVE if value <= 0.9 * largest]
    assert [stage for stage in found if stage.startswith("prune to")] == wanted
    assert len(wanted) > 3


def test_of_the_curve_only_the_smallest_speedup_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_run.recipe(place, latency_table=None, speedup="auto")
    monkeypatch.setattr(dry_run, "largest_speedup", lambda loaded: Speed(3.0, 2.8, 3.2))
    found = stages(printed(recipe))
    assert [stage for stage in found if stage.startswith("prune to")] == [
        "prune to 1.25x",
        "prune to 1.50x",
        "prune to 2.00x",
    ]
    monkeypatch.setattr(dry_run, "largest_speedup", lambda loaded: Speed(1.02, 1.0, 1.04))
    with pytest.raises(TargetUnreachable, match=r"Speedup 1\.25 is out of reach"):
        dry_run_table(recipe)


def test_few_tokens_of_a_batch_are_timed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(tiny_run.recipe(place))
    most = max(batch["input_ids"].shape[1] for batch in loaded.data.roles.report.batches)
    monkeypatch.setattr("secateurs.pipeline.estimates.TIMED_TOKENS", 2 * most)
    seen: list[int] = []
    loaded.dense.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    assert timed_pass(loaded).fastest > 0
    assert seen and max(seen) <= 2 * most
    assert max(len(batch["input_ids"]) for batch in loaded.data.roles.report.batches) > 2
