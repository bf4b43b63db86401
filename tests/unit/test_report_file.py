"""``report.json``: what is written is read again, and what cannot be read is refused in one line."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace

import pytest

import reports
from secateurs.errors import CheckpointError
from secateurs.report.page import render
from secateurs.report.report import Report
from secateurs.report.values import Metric, ModelResult

RESULT_FIELDS = {
    "target",
    "predicted_speedup",
    "measured_speedup",
    "latency_ms",
    "dense_latency_ms",
    "parameters",
    "dense_parameters",
    "sparsity",
    "metric",
    "divergence",
    "seconds",
    "path",
    "kept",
    "start",
    "met",
    "attempts",
    "sparsity_with_norms",
    "expected_sparsity",
    "zeros",
    "trials",
    "kept_quality",
    "generation",
}


def test_save_and_load_return_the_same_report(tmp_path) -> None:
    before = reports.missed(reports.report())
    written = before.save(tmp_path / "run")
    assert written == tmp_path / "run" / "report.html"
    assert written.read_text() == render([before])
    assert Report.load(tmp_path / "run") == before == Report.load(tmp_path / "run" / "report.json")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["report.html", "report.json"]


def test_the_file_has_exactly_the_agreed_fields(tmp_path) -> None:
    reports.report().save(tmp_path)
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["format"] == 1
    for model in stored["models"]:
        assert set(model) == RESULT_FIELDS
        assert set(model["measured_speedup"]) == {"median", "low", "high", "processes"}
        assert set(model["metric"]) == {"name", "value", "dense"}
        assert set(model["divergence"]) == {"name", "value"}
        assert all(set(kept) == {"kind", "size", "kept"} for kept in model["kept"].values())
    assert {field.name for field in fields(ModelResult)} == RESULT_FIELDS


def test_numbers_that_are_not_finite_survive(tmp_path) -> None:
    original = reports.report()
    broken = replace(original.models[0], metric=Metric("perplexity", float("inf"), 20.0))
    replace(original, models=[broken]).save(tmp_path)
    json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert Report.load(tmp_path).models[0].metric == Metric("perplexity", float("inf"), 20.0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no report at"),
        ("{", "cannot be read as JSON"),
        ("[]", "has no entry 'format'"),
        ('{"format": 99}', "report format 99, this version reads 1"),
        ('{"format": 1, "name": "x"}', "model: "),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(CheckpointError, match=re.escape(says)) as raised:
        Report.load(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_damaged_latency_table_and_an_unknown_field_are_refused(tmp_path) -> None:
    values = reports.report().to_dict()
    for change in ({"latency_table": {"curves": {}}}, {"surprise": 1}):
        (tmp_path / "report.json").write_text(json.dumps(values | change))
        with pytest.raises(CheckpointError, match=r"latency table|surprise"):
            Report.load(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write .*file"):
        reports.report().save(tmp_path / "file")
