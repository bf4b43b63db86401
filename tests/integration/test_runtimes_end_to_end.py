"""Runtimes in use: measured against each other, a latency table of one, and a run whose timings are taken in one."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import tiny_run
from secateurs import cli
from secateurs.errors import RecipeError
from secateurs.latency import profile
from secateurs.latency.environment import Environment
from secateurs.latency.profile import measure_table
from secateurs.latency.runtimes import runtime
from secateurs.pipeline.run import run
from secateurs.structure.cut import Kind
from secateurs.structure.families import discover
from tiny_models import tiny_model


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the files that OpenVINO loads, as ``"part"`` or ``"model"``."""
    try:
        runtime("openvino").check_installed()
    except RecipeError as error:
        pytest.skip(str(error))
    counted: Counter[str] = Counter()
    kind = type(runtime("openvino"))
    load: Any = kind.load  # type: ignore[attr-defined]

    def counting(self: Any, folder: Path, environment: Environment) -> Any:
        counted["model" if (folder / "config.json").exists() else "part"] += 1
        assert environment.runtime == "openvino"
        return load(self, folder, environment)

    monkeypatch.setattr(kind, "load", counting)
    return counted


def test_models_are_measured_in_several_runtimes(
    loads: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(tiny_run.model_folder(tmp_path / name, num_hidden_layers=1)) for name in ("one", "two")]
    words = (
        "--runtime torch --runtime openvino --batch-size 2 --sequence-length 8 --threads 1 --seconds 0 --processes 1"
    )
    monkeypatch.setattr(sys, "argv", ["secateurs", "measure", *folders, *words.split(), "--json"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    found = json.loads(capsys.readouterr().out)
    names = [f"{folder} in {name}" for name in ("torch", "openvino") for folder in folders]
    assert list(found["timings"]) == names
    assert found["baseline"] == names[0]
    assert found["runtimes"] == dict(zip(names, ["torch", "torch", "openvino", "openvino"], strict=True))
    assert loads["model"] == 2
    own, speeds = found["in_own_runtime"], {name: speed["median"] for name, speed in found["speedups"].items()}
    assert own[names[0]] == own[names[2]] == 1
    assert own[names[1]] == speeds[names[1]]
    assert own[names[3]] == pytest.approx(speeds[names[3]] / speeds[names[2]])


def test_a_table_is_measured_in_its_runtime(loads: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer and every whole model of the table is a file that the runtime loads."""
    monkeypatch.setattr(profile, "MODELS", 2)
    model = tiny_model("bert", num_hidden_layers=1)
    structure = discover(model)
    table = measure_table(
        model,
        structure,
        Environment(batch_size=2, sequence_length=6, threads=1, runtime="openvino"),
        points={Kind.HEAD: (2,), Kind.INTERMEDIATE: (8,)},
        seconds=0.0,
        rounds=(2, 2),
    )
    assert loads["model"] == 2 + 2  # full size and emptied, and two random models
    assert loads["part"] == 2 + 4  # the layer at full size and emptied, and two widths of each of its groups
    assert table.environment.runtime == "openvino"
    assert table.dense_ms > table.overhead_ms > 0


def test_a_run_confirms_its_models_in_its_runtime(loads: Counter[str], tmp_path: Path) -> None:
    recipe = tiny_run.recipe(
        tmp_path,
        method="random-units",
        hyperparameters={},
        speedup=(1.5,),
        runtime="openvino",
        timing_processes=3,
        evaluation_samples=8,
    )
    report = run(recipe, tmp_path / "out")
    assert loads["model"] == 3 * 2  # the dense and the pruned model, in three processes
    [made] = report.models
    assert made.measured_speedup is not None
    assert len(made.measured_speedup.processes) == 3
