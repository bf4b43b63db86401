"""Weights in pickled files, which are not read: unpickling can run any code."""

from __future__ import annotations

from pathlib import Path

from secateurs.errors import CheckpointError

__all__ = ["check_weights"]

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings of pickled files of weights."""


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
