"""``speedup: auto``: one search, one model per reachable speed-up, and the knee in the report."""

from __future__ import annotations

from pathlib import Path

import pytest

import secateurs
import tiny_run
from secateurs.errors import TargetUnreachable
from secateurs.latency.table import LatencyTable
from secateurs.methods.ziplm import steps
from secateurs.pipeline.recipe_targets import CURVE
from secateurs.report.knee import asked, knee


def shorter(path: Path, overhead: float) -> None:
    """Replace a latency table by one with more that no cut removes, so that only small speed-ups can be reached."""
    table = LatencyTable.load(path)
    values = table.to_dict()
    values |= {"dense_ms": values["dense_ms"] + overhead, "overhead_ms": values["overhead_ms"] + overhead}
    LatencyTable.from_dict(values).save(path)


def test_the_curve_is_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_run.recipe(tmp_path, speedup="auto", timing_processes=3)
    shorter(tmp_path / "latency.json", 3.5)
    largest = LatencyTable.load(tmp_path / "latency.json").largest_speedup
    assert 2.3 < largest < 3
    built = []
    make = steps.level_database
    monkeypatch.setattr(steps, "level_database", lambda *given: built.append(1) or make(*given))
    report = secateurs.run(recipe, tmp_path / "out")
    assert len(built) == 1, "the levels serve every speed-up"
    assert (
        [model.target for model in report.models]
        == [value for value in CURVE if value <= 0.9 * largest]
        == [1.25, 1.5, 2]
    )
    assert report.recipe["speedup"] == ["auto"]
    page = (tmp_path / "out" / "report.html").read_text()
    found = knee(report)
    for model in report.models:
        assert (f"{asked(report, model)}" in page) and (asked(report, model).endswith("(knee)") == (model is found))
    assert secateurs.run(recipe, tmp_path / "out", resume=True).models == report.models


def test_a_model_that_cannot_be_cut_is_refused(tmp_path: Path) -> None:
    recipe = tiny_run.recipe(tmp_path, speedup="auto")
    shorter(tmp_path / "latency.json", 100.0)
    with pytest.raises(TargetUnreachable, match=r"Speedup 1\.25 is unreachable"):
        secateurs.run(recipe, tmp_path / "out")
