"""Pooling of hidden states to one vector per text, as configured in the folder of a sentence-transformers model."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from secateurs.checkpoint.dense_files import SENTENCE_FILES, model_file
from secateurs.errors import CheckpointError, UnsupportedModelError

__all__ = ["SentenceFiles", "pool"]

MODES = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean", "lasttoken": "lasttoken"}
"""Name of a mode in the keys ``pooling_mode_<name>`` -> name of the mode in the value of ``pooling_mode``."""

MODULES = "modules.json"
POOLING_CONFIG = "config.json"


def pool(
    hidden: Float[Tensor, "texts tokens hidden"], mask: Int[Tensor, "texts tokens"], modes: tuple[str, ...]
) -> Float[Tensor, "texts features"]:
    """Pool the hidden states of every text, without padding, and scale every vector to length one.

    Args:
        hidden: last hidden states.
        mask: 1 at tokens, 0 at the padding on their right.
        modes: ``cls`` (first token), ``max``, ``mean`` or ``lasttoken``. The vectors of several modes are concatenated.

    Returns:
        Unit vectors, in float32 if ``hidden`` is in half precision.
    """
    real = mask.to(hidden.device).bool()[..., None]
    parts: list[Tensor] = []
    for mode in modes:
        if mode == "cls":
            parts.append(hidden[:, 0])
        elif mode == "max":
            parts.append(hidden.masked_fill(~real, -torch.inf).amax(1))
        elif mode == "mean":
            parts.append((hidden * real).sum(1) / real.sum(1).clamp_min(1))
        else:
            last = (real[..., 0].sum(1) - 1).clamp_min(0)
            parts.append(hidden[torch.arange(len(hidden), device=hidden.device), last])
    pooled = torch.cat(parts, -1)
    return functional.normalize(pooled.float() if pooled.dtype in (torch.float16, torch.bfloat16) else pooled, dim=-1)


@dataclass(frozen=True)
class SentenceFiles:
    """Files that a sentence-transformers model has in addition to the weights, and their content.

    Args:
        subfolder: subfolder of the transformer; ``""`` if it lies at the top.
        modes: pooling modes.
        files: pairs of a path relative to the model folder and the present location of that file; empty for a plain
            encoder.
    """

    subfolder: str = ""
    modes: tuple[str, ...] = ("mean",)
    files: tuple[tuple[str, Path], ...] = ()

    @classmethod
    def find(cls, source: str, revision: str | None = None) -> SentenceFiles:
        """Find the files of a model. A plain encoder has none and is pooled by the mean.

        Args:
            source: folder or hub id of the model.
            revision: branch, tag or commit on the hub.

        Raises:
            UnsupportedModelError: the model has a module or a pooling mode that Secateurs does not know.
            CheckpointError: the files are damaged or incomplete.
        """
        listing = model_file(source, MODULES, revision)
        if listing is None:
            return cls()
        modules = _json(listing)
        subfolder, modes, files = "", ("mean",), [(MODULES, listing)]
        for module in modules:
            kind, path = str(module["type"]).rsplit(".", 1)[-1], str(module.get("path", ""))
            if kind == "Transformer":
                subfolder = path
            elif kind == "Pooling":
                name = f"{path}/{POOLING_CONFIG}"
                config = model_file(source, name, revision)
                if config is None:
                    raise CheckpointError(f"{source} lists a pooling module but has no {name}")
                modes = _modes(_json(config), source)
                files.append((name, config))
            elif kind != "Normalize":
                raise UnsupportedModelError(
                    f"{source} has a {kind} module after the transformer; supported modules are Transformer, Pooling and "
                    "Normalize"
                )
        for name in SENTENCE_FILES:
            found = model_file(source, f"{subfolder}/{name}" if subfolder else name, revision) or model_file(
                source, name, revision
            )
            if found is not None:
                files.append((name, found))
        return cls(subfolder, modes, tuple(files))

    def copy(self, folder: Path) -> None:
        """Copy the files into the folder of another model. In ``modules.json``, the transformer moves to the top folder."""
        for name, path in self.files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if name != MODULES:
                shutil.copyfile(path, target)
                continue
            modules = _json(path)
            for module in modules:
                if str(module["type"]).endswith(".Transformer"):
                    module["path"] = ""
            target.write_text(json.dumps(modules, indent=2) + "\n")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None


def _modes(config: dict[str, Any], source: str) -> tuple[str, ...]:
    """The pooling modes of a configuration.

    Old versions write ``{"pooling_mode_mean_tokens": true}``, newer versions write ``{"pooling_mode": "mean"}``.
    """
    named = config.get("pooling_mode")
    if named is not None:
        modes = [named] if isinstance(named, str) else [str(mode) for mode in named]
    else:
        keys = [
            key.removeprefix("pooling_mode_") for key, on in config.items() if key.startswith("pooling_mode_") and on
        ]
        modes = [MODES.get(key, key) for key in sorted(keys, key=lambda key: [*MODES, key].index(key))]
    unknown = [mode for mode in modes if mode not in MODES.values()]
    if unknown or not modes:
        raise UnsupportedModelError(
            f"{source} pools by {', '.join(unknown) or 'nothing'}; supported modes are {', '.join(MODES.values())}"
        )
    return tuple(modes)
