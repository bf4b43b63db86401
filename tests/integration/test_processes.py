"""Runs under ``torchrun``: two processes end where one process ends that reads the rows of both in each step."""

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
from torch import Tensor

import secateurs
import tiny_run
from gate_training import trained_gates
from secateurs import distributed
from secateurs.pipeline.recipe import Recipe
from secateurs.structure.mask import Mask
from tiny import WORDS, write_rows

SCRIPT = """
import atexit
import sys
from pathlib import Path

from safetensors.torch import save_file
from torch import distributed as torch_distributed

from secateurs.numerics import precision


@atexit.register  # the last function that is called
def report():
    print("still joined" if torch_distributed.is_initialized() else "parted")


precision.native_bfloat16 = lambda device: False  # its rounding depends on how rows are divided

from gate_training import trained_gates
from secateurs import cli, distributed
from secateurs.errors import DataError, FailedElsewhere
from secateurs.latency import fresh_processes, timing_process

fresh_processes.run_process, fresh_processes.SECONDS = timing_process.answer, 0.05
folder = sys.argv[1]
runs = {"learned": [], "recovered": [], "family": []}
runs |= {"refused": ["--set", "start=/nowhere"], "unreachable": ["--speedup", "99"]}
for name, more in runs.items():
    recipe = {"refused": "learned", "unreachable": "recovered"}.get(name, name)
    options = ["--train-batch-size", "4", "--out", f"{folder}/{name}", *more]
    sys.argv = ["secateurs", "prune", "--config", f"{folder}/{recipe}.yaml", *options]
    try:
        cli.main()
        status = 0
    except SystemExit as stop:
        status = stop.code
    assert status == (2 if name in ("refused", "unreachable") else 0), (name, status)

rank = 0 if distributed.is_first() else 1
assert distributed.count() == 2
assert distributed.first(lambda: rank + 10) == 10
assert distributed.first(lambda: distributed.first(lambda: rank) + 20) == 20
assert distributed.together(lambda: rank) == rank


def fail(where):
    def work():
        if rank == where:
            raise DataError("as asked")

    return work


for share, where in ((distributed.first, 0), (distributed.together, 0), (distributed.together, 1)):
    try:
        share(fail(where))
        raise SystemExit("no failure")
    except DataError:
        assert rank == where
    except FailedElsewhere:
        assert rank != where

save_file(trained_gates(Path(folder) / "gates", 4), f"{folder}/gates-{rank}.safetensors")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, texts and two recipes.

    All texts have one length: batches of several lengths are divided among processes in another way.
    """
    folder = tmp_path_factory.mktemp("processes")
    chance = random.Random(0)
    for split, number in (("train", 48), ("validation", 16)):
        texts = [" ".join(chance.choices(WORDS, k=6)) for _ in range(number)]
        write_rows(folder / "texts" / f"{split}.parquet", text=texts, label=[chance.randint(0, 1) for _ in texts])
    shared: dict[str, Any] = {"data": str(folder / "texts"), "train_batch_size": 8}
    gates = {"steps": 40, "epochs": 8.0, "ramp": 2.0, "gate_rate": 0.25, "evaluations": 2, "finetuning_steps": 6}
    learned = {"method": "cofi", "speedup": (), "sparsity": (0.5,), "hyperparameters": gates}
    recovered = {"speedup": (1.5,), "recover_epochs": 2.0, "learning_rate": 1e-4}
    gradual = {**recovered, "speedup": (1.5, 2.0), "recover_epochs": 1.0, "gradual": True}
    for name, changes in (("learned", learned), ("recovered", recovered), ("family", gradual)):
        (folder / f"{name}.yaml").write_text(tiny_run.recipe(folder, **shared, **changes).to_yaml())
    return folder


@pytest.fixture(scope="module")
def printed(place: Path) -> str:
    """What two processes print in the script: two runs, two refused runs, and a training of gates."""
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
    for module in ("secateurs.numerics.precision", "secateurs.pipeline.one_target", "secateurs.gates.learner"):
        monkeypatch.setattr(f"{module}.native_bfloat16", lambda device: False)


@pytest.mark.parametrize(("name", "folder"), [("learned", "sparsity-0.50"), ("recovered", "speedup-1.50x")])
@pytest.mark.usefixtures("printed", "float32")
def test_two_processes_end_where_one_ends(place: Path, tmp_path: Path, name: str, folder: str) -> None:
    secateurs.run(Recipe.load(place / f"{name}.yaml"), tmp_path / "out")
    two, one = (load_file(root / folder / "model.safetensors") for root in (place / name, tmp_path / "out"))
    assert two.keys() == one.keys()
    for key in two:
        if key.endswith("key.bias"):  # attention does not depend on it: its gradient is rounding, which Adam amplifies
            continue
        apart = (two[key] - one[key]).abs()
        # The gradients of a few other weights are little more than rounding too.
        assert (apart > 2e-4).float().mean() < 0.005, key
        assert apart.max() < 1e-3, key
    dense = load_file(place / "model" / "model.safetensors")
    trained = "bert.encoder.layer.0.attention.output.LayerNorm.weight"
    assert (two[trained] - dense[trained]).abs().max() > 2e-4


def test_only_the_first_process_prints_and_writes(place: Path, printed: str) -> None:
    assert printed.count("report: ") == 3
    refused = [line for line in printed.splitlines() if line.startswith("secateurs: ")]
    assert len(refused) == 2
    assert "/nowhere does not exist" in refused[0]
    assert "99" in refused[1]
    for name in ("learned", "recovered"):
        (result,) = json.loads((place / name / "report.json").read_text())["models"]
        assert sorted(path.name for path in (place / name).iterdir() if path.name.startswith(".")) == []
        assert (place / name / result["path"] / "config.json").is_file()
    assert not list((place / "refused").glob("*")) if (place / "refused").exists() else True


@pytest.mark.usefixtures("printed")
def test_two_processes_go_on_from_a_finished_model(place: Path) -> None:
    """Both read it, and the second model is cut from it in both: a training with other shapes in one of them would fail."""
    models = json.loads((place / "family" / "report.json").read_text())["models"]
    assert [(model["path"], model["start"]) for model in models] == [
        ("speedup-1.50x", ""),
        ("speedup-2.00x", "speedup-1.50x"),
    ]
    slow, fast = (Mask.load(place / "family" / model["path"] / "mask.safetensors") for model in models)
    assert slow & fast == fast
    assert slow != fast
    first, second = (load_file(place / "family" / model["path"] / "model.safetensors") for model in models)
    trained = "bert.encoder.layer.0.attention.output.LayerNorm.weight"
    assert (first[trained] - second[trained]).abs().max() > 2e-4


def test_both_processes_leave_the_group_before_they_end(printed: str) -> None:
    """Threads of gloo that still hold tensors when the interpreter shuts down can abort a process whose work is done."""
    assert printed.count("parted") == 2
    assert "still joined" not in printed


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What one process trains with 8 rows per batch."""
    state = trained_gates(tmp_path_factory.mktemp("gates"), 8)
    assert (state["gated.gates.fine"] - 0.5).abs().min() > 1e-3
    return state


def assert_same(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, value in wanted.items():
        if name.endswith("key.bias"):  # see above
            continue
        torch.testing.assert_close(state[name], value, atol=1e-8, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.usefixtures("printed")
def test_gates_of_two_processes_are_those_of_one(place: Path, one_process: dict[str, Tensor]) -> None:
    first, second = (load_file(place / f"gates-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in one_process)
    assert_same(first, one_process)


def test_gates_of_two_batches_are_those_of_one(one_process: dict[str, Tensor], tmp_path: Path) -> None:
    """Both batches of a step see the same sample of the gates; with two samples the gates would end elsewhere."""
    assert_same(trained_gates(tmp_path, 4, accumulate=2), one_process)


def test_processes_do_not_share_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from secateurs.errors import RecipeError

    for name, value in (("LOCAL_RANK", "1"), ("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert distributed.count() == 2
    assert not distributed.is_first()
    with pytest.raises(RecipeError, match="2 processes cannot share cuda:1; name the device as cuda"):
        distributed.join("cuda:1")


LONG_WORK = """
import time
from datetime import timedelta

from secateurs import distributed
from secateurs.errors import SecateursError

distributed.TIMEOUT, distributed.SIGN_SECONDS = timedelta(seconds=4), 0.5
distributed.join("cpu")
assert distributed.first(lambda: time.sleep(7) or 7) == 7  # longer than the timeout
distributed.SIGN_SECONDS = 1000.0
try:
    distributed.first(lambda: time.sleep(7))
except SecateursError as error:
    print(error)
except RuntimeError:  # the first process finds that the other has stopped waiting
    assert distributed.is_first()
"""


def test_the_first_process_may_work_long_but_not_in_silence(tmp_path: Path) -> None:
    if not torch.distributed.is_available():
        pytest.skip("this torch is built without torch.distributed")
    (tmp_path / "work.py").write_text(LONG_WORK)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*launcher, tmp_path / "work.py"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = done.stdout.splitlines()
    assert line.startswith("the first process of this run has ended, or was silent for 0.0666667 minutes")
    assert line.endswith("start the run again with --resume")
