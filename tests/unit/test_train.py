"""The training loop: checkpoints, errors, accumulation and trackers."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from secateurs.errors import CheckpointError, RecipeError, SecateursError
from secateurs.training.checkpoints import last_complete_checkpoint
from secateurs.training.objective import Objective
from secateurs.training.trackers import check_trackers
from secateurs.training.trainer import Training, train


class Line(nn.Module):
    """``y = w x``."""

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.mean() * x


class Fit(Objective):
    """The squared distance to ``y = 3 x``."""

    name = "fitting"

    def __init__(self) -> None:
        self.steps: list[int] = []

    def loss(self, model: nn.Module, inputs: dict[str, Tensor], step: int) -> Tensor:
        self.steps.append(step)
        return (model(inputs["x"]) - 3 * inputs["x"]).square().mean()


class Overflow(Fit):
    """The loss is NaN from the third step on."""

    def loss(self, model: nn.Module, inputs: dict[str, Tensor], step: int) -> Tensor:
        return super().loss(model, inputs, step) * (torch.nan if step >= 2 else 1)


ROWS = [{"input_ids": [number], "x": float(number)} for number in range(1, 17)]


def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {"x": torch.tensor([row["x"] for row in rows])}


def fit(objective: Fit, folder: Path, size: int = 1, **how: Any) -> Line:
    model = Line(size)
    train(
        model,
        objective,
        ROWS,
        collate,
        Training(**{"epochs": 2.0, "learning_rate": 0.1, "batch_size": 4, **how}),
        folder,
    )
    return model


def test_incomplete_checkpoints_are_skipped(tmp_path: Path) -> None:
    assert last_complete_checkpoint(tmp_path) is None
    for step, state in ((500, "{}"), (1000, '{"global'), (1500, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-500")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-500"]


def test_a_loss_of_nan_ends_the_training(tmp_path: Path) -> None:
    with pytest.raises(SecateursError, match=r"loss became nan at step 2 of fitting.*--learning-rate"):
        fit(Overflow(), tmp_path)


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are written first, so they fail first."""

    def full(*given: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("transformers.Trainer._save", full)
    with pytest.raises(
        CheckpointError, match=r"fitting could not write a checkpoint under .*: No space left.*--resume"
    ):
        fit(Fit(), tmp_path, checkpoint_steps=2)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The folder of a file system of 200 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    done = (
        subprocess.run([mount or "mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)], capture_output=True)
        if mount
        else None
    )
    if done is None or done.returncode:
        pytest.skip("a file system cannot be mounted here (mounting needs root)")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("size", [100_000, 15_000, 10_000])
def test_a_disk_that_is_full_for_the_weights_or_for_the_optimiser(small_disk: Path, size: int) -> None:
    """The libraries that write them raise different errors. A checkpoint that was written before remains usable."""
    with pytest.raises(CheckpointError, match=r"fitting could not write a checkpoint under .*: no space is left"):
        fit(Fit(), small_disk / "run", size, checkpoint_steps=2)
    found = last_complete_checkpoint(small_disk / "run")
    assert found == (str(small_disk / "run" / "checkpoint-2") if size == 10_000 else None)


def test_two_accumulated_half_batches_equal_one_batch(tmp_path: Path) -> None:
    full, halves = Fit(), Fit()
    one = fit(full, tmp_path / "full", batch_size=4)
    other = fit(halves, tmp_path / "halves", batch_size=2, accumulate=2)
    torch.testing.assert_close(one.weight, other.weight)
    assert abs(one.weight.item()) > 0.1
    assert full.steps == list(range(8))
    assert halves.steps == [step for step in range(8) for _ in range(2)], "both halves see the same step"


class Listener(TrainerCallback):
    """A tracker that records the logged values and its folder."""

    logged: ClassVar[list[tuple[str, dict[str, float]]]] = []

    def __init__(self) -> None:
        self.place = os.environ["TENSORBOARD_LOGGING_DIR"]

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **given: Any) -> None:
        self.logged.append((self.place, logs))


class LoggedFit(Fit):
    """Logs the number of calls of ``loss``."""

    def logged_values(self) -> dict[str, float]:
        return {"seen": len(self.steps)}


def test_trackers_log_the_loss_and_the_values_of_the_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integration_utils, "is_tensorboard_available", lambda: True)
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Listener)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    check_trackers(["tensorboard"])
    fit(LoggedFit(), tmp_path, epochs=5.0, trackers=("tensorboard",), logs=tmp_path / "logs")
    place, logs = Listener.logged[0]
    assert place == str(tmp_path / "logs")
    assert {"loss", "learning_rate", "seen"} <= logs.keys()
    assert logs["seen"] == 10
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ


def test_unknown_and_missing_trackers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integration_utils, "is_wandb_available", lambda: False)
    with pytest.raises(RecipeError, match="the tracker wandb is not installed"):
        check_trackers(["wandb"])
    with pytest.raises(RecipeError, match=r"no tracker 'logbook'.*tensorboard"):
        check_trackers(["logbook"])
