"""``torchrun -m secateurs.cli prune``: two processes end where one does that reads as many rows a step as both."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny_run
from secateurs import pipeline, processes
from secateurs.recipe import Recipe
from tiny import WORDS, write_rows

SCRIPT = """
import atexit
import sys

from torch import distributed

from secateurs import arithmetic

atexit.register(lambda: print("parted" if not distributed.is_initialized() else "still joined"))  # the last to be called

arithmetic.native_bfloat16 = lambda device: False  # its rounding depends on how rows are divided

from secateurs import cli, delivery, processes
from secateurs.errors import DataError, FailedElsewhere

delivery.MEASURE_SECONDS = 0.5
folder = sys.argv[1]
for name, more in (("learned", []), ("recovered", []), ("refused", ["--set", "start=/nowhere"])):
    recipe = "learned" if name == "refused" else name
    options = ["--train-batch-size", "4", "--out", f"{folder}/{name}", *more]
    sys.argv = ["secateurs", "prune", "--config", f"{folder}/{recipe}.yaml", *options]
    try:
        cli.main()
        status = 0
    except SystemExit as stop:
        status = stop.code
    assert status == (2 if name == "refused" else 0), (name, status)

rank = 0 if processes.is_first() else 1
assert processes.count() == 2
assert processes.first(lambda: rank + 10) == 10
assert processes.first(lambda: processes.first(lambda: rank) + 20) == 20
assert processes.together(lambda: rank) == rank


def fail(where):
    def work():
        if rank == where:
            raise DataError("as asked")

    return work


for share, where in ((processes.first, 0), (processes.together, 0), (processes.together, 1)):
    try:
        share(fail(where))
        raise SystemExit("no failure")
    except DataError:
        assert rank == where
    except FailedElsewhere:
        assert rank != where
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, texts of one length (batches of several lengths are divided otherwise), and two recipes."""
    folder = tmp_path_factory.mktemp("processes")
    chance = random.Random(0)
    for split, number in (("train", 48), ("validation", 16)):
        texts = [" ".join(chance.choices(WORDS, k=6)) for _ in range(number)]
        write_rows(folder / "texts" / f"{split}.parquet", text=texts, label=[chance.randint(0, 1) for _ in texts])
    shared: dict[str, Any] = {"data": str(folder / "texts"), "train_batch_size": 8}
    learning = {"steps": 98, "epochs": 8.0, "ramp": 2.0, "gate_rate": 0.1, "looks": 2, "finetuning_steps": 6}
    learned = {"method": "cofi", "speedup": (), "sparsity": (0.5,), "hyperparameters": learning}
    recovered = {"speedup": (1.5,), "recover_epochs": 2.0, "learning_rate": 1e-4}
    for name, changes in (("learned", learned), ("recovered", recovered)):
        (folder / f"{name}.yaml").write_text(tiny_run.recipe(folder, **shared, **changes).to_yaml())
    return folder


@pytest.fixture(scope="module")
def told(place: Path) -> str:
    """What two processes print while they do both, and are refused a third."""
    if not torch.distributed.is_available():
        pytest.skip("this torch is built without torch.distributed")
    (place / "run.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*launcher, place / "run.py", place], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("secateurs.arithmetic", "secateurs.delivery", "secateurs.methods._learned"):
        monkeypatch.setattr(f"{module}.native_bfloat16", lambda device: False)
    monkeypatch.setattr("secateurs.delivery.MEASURE_SECONDS", 0.5)


@pytest.mark.parametrize(("name", "folder"), [("learned", "sparsity-0.50"), ("recovered", "speedup-1.50x")])
@pytest.mark.usefixtures("told", "float32")
def test_two_processes_end_where_one_does(place: Path, tmp_path: Path, name: str, folder: str) -> None:
    pipeline.run(Recipe.load(place / f"{name}.yaml"), tmp_path / "out")
    ours, theirs = (load_file(root / folder / "model.safetensors") for root in (place / name, tmp_path / "out"))
    assert ours.keys() == theirs.keys()
    for key in ours:
        if key.endswith("key.bias"):  # attention does not depend on it: its gradient is rounding, which Adam blows up
            continue
        apart = (ours[key] - theirs[key]).abs()
        # Here and there a weight has a gradient of little more than rounding too.
        assert (apart > 2e-4).float().mean() < 0.005, key
        assert apart.max() < 1e-3, key
    dense = load_file(place / "model" / "model.safetensors")
    trained = "bert.encoder.layer.0.attention.output.LayerNorm.weight"
    assert (ours[trained] - dense[trained]).abs().max() > 2e-4


def test_the_first_process_alone_prints_and_writes(place: Path, told: str) -> None:
    assert told.count("report: ") == 2
    refused = [line for line in told.splitlines() if line.startswith("secateurs: ")]
    assert len(refused) == 1
    assert "/nowhere does not exist" in refused[0]
    for name in ("learned", "recovered"):
        (result,) = json.loads((place / name / "report.json").read_text())["models"]
        assert sorted(path.name for path in (place / name).iterdir() if path.name.startswith(".")) == []
        assert (place / name / result["path"] / "config.json").is_file()
    assert not list((place / "refused").glob("*")) if (place / "refused").exists() else True


def test_both_part_before_they_end(told: str) -> None:
    """What gloo's threads still hold when the interpreter shuts down can abort a process whose work is done."""
    assert told.count("parted") == 2
    assert "still joined" not in told


def test_one_gpu_is_not_for_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    from secateurs.errors import RecipeError

    for name, value in (("LOCAL_RANK", "1"), ("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert processes.count() == 2
    assert not processes.is_first()
    with pytest.raises(RecipeError, match="2 processes cannot share cuda:1; name the device as cuda"):
        processes.join("cuda:1")
