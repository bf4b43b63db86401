"""Saved models are timed in processes of their own; the interval is over the processes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from secateurs.errors import TimingError
from secateurs.latency import fresh_processes
from secateurs.latency.compare import Measurement, Speed, Timing
from secateurs.latency.environment import Environment
from secateurs.latency.timing_process import Request, SavedModel
from secateurs.structure.families import discover
from secateurs.structure.mask import Mask
from secateurs.surgery.shrink import shrink
from tiny import tiny_tokenizer
from tiny_models import tiny_model

REAL = fresh_processes.run_process
"""Complete runs in other test files replace it for the whole session."""

SMALL = Environment(batch_size=2, sequence_length=8)


@pytest.fixture(autouse=True)
def real_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh_processes, "run_process", REAL)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SavedModel]:
    """A dense classifier, and the same without its feed-forward neurons."""
    from secateurs.checkpoint.save_load import save

    place = tmp_path_factory.mktemp("timed")
    model = tiny_model("bert", auto="AutoModelForSequenceClassification").float()
    save(model, tiny_tokenizer(), place / "dense")
    structure = discover(model)
    keep = {group.name: torch.arange(0 if group.name.endswith("ffn") else group.size) for group in structure}
    save(shrink(model, structure, Mask.from_units(structure, keep)), tiny_tokenizer(), place / "pruned")
    auto = "AutoModelForSequenceClassification"
    return {name: SavedModel(str(place / name), auto) for name in ("dense", "pruned")}


def test_each_process_is_a_new_one_and_gives_one_speedup(
    folders: dict[str, SavedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real processes, without the variables of a launcher that would make them join a group."""
    monkeypatch.setattr(fresh_processes, "SECONDS", 0.05)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    measured = fresh_processes.time_saved(folders, SMALL, processes=2)
    speed = measured.speedups["pruned"]
    assert len(set(speed.processes)) == 2
    assert speed == Speed.of_processes(speed.processes)
    assert measured.timings["dense"].rounds >= 2 * fresh_processes.ROUNDS[0]
    assert measured.environment == SMALL


def test_a_folder_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    gone = {"dense": SavedModel(str(tmp_path / "gone"), "AutoModel")}
    with pytest.raises(TimingError, match="gone does not exist"):
        fresh_processes.time_saved(gone, SMALL, processes=2)


def test_a_process_that_dies_is_one_line(folders: dict[str, SavedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh_processes.sys, "executable", "/bin/false")
    with pytest.raises(TimingError, match="a process that times dense, pruned failed: status 1"):
        fresh_processes.time_saved(folders, SMALL, processes=2)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Processes that answer 2x, 2.1x, 2.2x, ... without running anything; the requests they got."""
    asked: list[Request] = []

    def process(request: Request) -> Measurement:
        speed = 2.0 + 0.1 * len(asked)
        asked.append(request)
        timings = {name: Timing(ms, ms, ms, 1.0, 3, 0.01) for name, ms in (("dense", speed), ("pruned", 1.0))}
        return Measurement(SMALL, "dense", timings, {"dense": Speed(1, 1, 1), "pruned": Speed(speed, 0.0, 9.0)})

    monkeypatch.setattr(fresh_processes, "run_process", process)
    return asked


def test_the_interval_is_over_processes(answers: list[Request], folders: dict[str, SavedModel]) -> None:
    measured = fresh_processes.time_saved(folders, SMALL, processes=3, seed=7)
    assert [request.seed for request in answers] == [7, 8, 9]
    speed = measured.speedups["pruned"]
    assert speed.processes == pytest.approx((2.0, 2.1, 2.2))
    logs = np.log([2.0, 2.1, 2.2])
    half = 4.302652729911275 * logs.std(ddof=1) / 3**0.5  # Student's t with two degrees of freedom
    assert (speed.low, speed.high) == pytest.approx((np.exp(logs.mean() - half), np.exp(logs.mean() + half)))
    assert measured.timings["dense"].latency_ms == pytest.approx(2.1)
    assert measured.timings["dense"].rounds == 9


def test_a_request_is_unchanged_by_json(folders: dict[str, SavedModel]) -> None:
    request = Request(folders, "dense", SMALL, 3, 0.5, (5, 200))
    again = Request.from_json(request.to_json())
    assert again.models["dense"].load().config.to_dict() == request.models["dense"].load().config.to_dict()
    assert (again.baseline, again.environment, again.seed, again.seconds) == ("dense", SMALL, 3, 0.5)
    assert os.linesep not in request.to_json()
