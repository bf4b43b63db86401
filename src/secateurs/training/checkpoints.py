"""Checkpoints of a training: errors while writing them, the last complete one, and weights with shared memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from secateurs.errors import CheckpointError

__all__ = ["last_complete_checkpoint", "without_shared_tensors", "writing_checkpoint"]

FULL_DISK_BYTES = 1 << 20
"""A disk with less free space than this counts as full."""


@contextmanager
def writing_checkpoint(folder: Path, training: str) -> Iterator[None]:
    """Turn every error that the libraries raise while a checkpoint is written into a ``CheckpointError``.

    Args:
        folder: folder of the checkpoints.
        training: name of the training, for the message.

    Raises:
        CheckpointError: the checkpoint cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # on a full disk torch reports a wrong file position
        full = shutil.disk_usage(folder).free < FULL_DISK_BYTES if folder.is_dir() else False
        reason = "no space is left" if full else getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise CheckpointError(
            f"{training} could not write a checkpoint under {folder}: {reason}; free some space, then use --resume"
        ) from error


def last_complete_checkpoint(folder: Path) -> str | None:
    """Path of the last checkpoint that was written completely; ``None`` if there is none.

    Later checkpoints, which a killed run left incomplete, are deleted.

    Args:
        folder: folder of the checkpoints.
    """
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    for path in sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text())  # the file that the Trainer writes last
        except (OSError, ValueError):
            shutil.rmtree(path)
        else:
            return str(path)
    return None


def without_shared_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with only the first name of every tensor: safetensors refuses tensors that share memory.

    Loading the first name restores the other names, because the module ties them to one tensor.

    Args:
        state: parameter name -> tensor.
    """
    seen: set[int] = set()
    return {
        name: value
        for name, value in state.items()
        if not (value.data_ptr() in seen or seen.add(value.data_ptr())) or value.numel() == 0
    }
