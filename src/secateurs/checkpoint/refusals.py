"""Why a model is not read: what the messages of errors say, and pickled weights."""

from __future__ import annotations

from pathlib import Path

from secateurs.artifacts import expanded
from secateurs.errors import CheckpointError

__all__ = ["check_weights", "first_line", "reason"]

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings of files of weights that are read by unpickling, which can run any code."""


def first_line(error: BaseException) -> str:
    """First line of an error message that is not blank; the class of the error if the message is empty."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def reason(source: str, error: BaseException) -> str:
    """Why a model cannot be read: the error and, if there is no such folder, that it was looked for on the hub.

    Args:
        source: folder or hub id.
        error: what was raised.
    """
    if expanded(source).exists():
        return first_line(error)
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "there is no such folder here, the cache does not have it, and HF_HUB_OFFLINE is set"
    return f"there is no such folder here, and the hub does not have it or cannot be reached ({first_line(error)})"


def check_weights(folder: Path, name: str) -> None:
    """Refuse a folder whose weights are pickled only.

    Args:
        folder: folder of a model.
        name: class of transformers that converts the weights.

    Raises:
        CheckpointError: there are pickled weights and no safetensors; the message has the command that converts them.
    """
    if any(folder.glob("*.safetensors")):
        return
    pickled = [path.name for path in folder.glob("*") if path.suffix in PICKLED and path.name != "training_args.bin"]
    if pickled:
        convert = f"{name}.from_pretrained({str(folder)!r}, use_safetensors=False).save_pretrained({str(folder)!r})"
        raise CheckpointError(
            f"{folder} has its weights in {min(pickled)} alone; pickled files can run code and are not read. If you trust "
            f'the file, convert it: python -c "from transformers import {name}; {convert}"'
        )
