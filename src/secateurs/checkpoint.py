"""A pruned model on disk: an ordinary Hugging Face folder.

Where the stock config can say what was cut (``families.plain_form``), the folder is a plain one. Elsewhere
``config.json`` carries a ``secateurs`` block, and a small loader lies beside the weights: the folder then loads with
``trust_remote_code=True`` where Secateurs is not installed, and without a flag where it was imported. A stock class
without either refuses, since its shapes differ.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from secateurs.errors import CheckpointError
from secateurs.families import Plain, plain_form
from secateurs.loader import install
from secateurs.modeling_pruned import BLOCK, base_of
from secateurs.remote_code import add_code, is_edited, needs_code
from secateurs.shrink import FORMAT
from secateurs.stock import named, stock_class

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["load", "save"]

logger = logging.getLogger(__name__)


def save(
    model: PreTrainedModel,
    tokenizer: Any,
    folder: str | os.PathLike[str],
    *,
    details: Mapping[str, Any] | None = None,
    card: str | None = None,
    extras: Callable[[Path], None] | None = None,
    max_shard_size: str = "5GB",
) -> Path:
    """Write a model, pruned or dense, so that ``from_pretrained`` reads it.

    Everything is written to a sibling folder first and then renamed: a failure leaves what was there before.

    Args:
        model: the shrunk model; it is not changed.
        tokenizer: written beside it, or ``None``.
        folder: a new folder, an empty one, or an older checkpoint, which is replaced.
        details: targets and measured numbers (JSON values), kept as ``measured`` in the block.
        card: text of ``README.md``.
        extras: called with the unfinished folder to add what a task needs.
        max_shard_size: larger models are split over several files.

    Returns:
        ``folder``.

    Raises:
        CheckpointError: ``folder`` holds something else, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and (_is_checkpoint(folder) or not any(folder.iterdir()))):
        raise CheckpointError(f"cannot save to {folder}: it exists and is no model folder; name another one")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        _write(model, partial, details, max_shard_size)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        if card is not None:
            (partial / "README.md").write_text(card, encoding="utf-8")
        if extras is not None:
            extras(partial)
        _replace(folder, partial)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write {folder}: {_first_line(error)}; nothing was changed there. Make room, or name another folder"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def load(folder: str | os.PathLike[str], *, auto_class: str | None = None, **options: Any) -> PreTrainedModel:
    """Read a folder that ``save`` wrote, without running code from it and without unpickling.

    Args:
        folder: the checkpoint.
        auto_class: name of an Auto class, for another head than the one that was saved.
        options: for ``from_pretrained``.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError: the folder is missing, damaged, or a tensor does not fit the model its config describes.
    """
    import transformers

    install()
    folder = Path(folder)
    values = _read_config(folder)
    architecture = next(iter(values.get("architectures") or ()), "")
    name = auto_class or architecture or "AutoModel"
    cls = named(name)
    if cls is None or named(architecture or name) is None:
        raise CheckpointError(f"{folder} holds a {name}, which transformers {transformers.__version__} does not have")
    try:
        model, info = cls.from_pretrained(
            folder,
            **options,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are looked at below, and named
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"cannot load {folder} as {name}: {_first_line(error)}") from None
    _check_fit(model, info, folder, architecture)
    return model


def _write(model: PreTrainedModel, folder: Path, details: Mapping[str, Any] | None, max_shard_size: str) -> None:
    plain = plain_form(model) if is_edited(model.config) else None
    if plain is not None:
        model = _rebuilt(model, plain)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    if needs_code(model.config):
        add_code(folder, model)
    if details:
        path = folder / "config.json"
        values = json.loads(path.read_text(encoding="utf-8"))
        values[BLOCK] = {"format": FORMAT, **values.get(BLOCK, {}), "measured": dict(details)}
        path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _rebuilt(model: Any, plain: Plain) -> PreTrainedModel:
    """The same tensors in a stock model of the plain config; layers that are left out close ranks."""
    stock: Any = stock_class(model)
    config = copy.deepcopy(model.config)
    for field, value in plain.changes.items():
        setattr(config, field, value)
    groups = getattr(config, BLOCK)["groups"]
    setattr(config, BLOCK, {"format": FORMAT, "groups": groups})  # no edits: nothing for a loader to do
    if hasattr(config, "auto_map"):
        del config.auto_map
    prefix = "" if base_of(model) is model else f"{model.base_model_prefix}."
    path = f"{prefix}{plain.layers}."
    ranks = {str(old): str(new) for new, old in enumerate(plain.kept)}
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(path):
            index, _, rest = name.removeprefix(path).partition(".")
            if index not in ranks:
                continue
            name = f"{path}{ranks[index]}.{rest}"
        tensors[name] = tensor
    with torch.device("meta"):
        rebuilt = stock(config)
    rebuilt.load_state_dict(tensors, assign=True)
    rebuilt.tie_weights()
    if getattr(model, "generation_config", None) is not None:
        rebuilt.generation_config = model.generation_config
    return rebuilt


def _replace(folder: Path, partial: Path) -> None:
    """Rename ``partial`` to ``folder``; an older checkpoint goes only when the new one is in place."""
    older = folder.with_name(f".{folder.name}.{os.getpid()}.older")
    if folder.exists():
        folder.rename(older)
    try:
        partial.rename(folder)
    except OSError:
        if older.exists():
            older.rename(folder)
        raise
    shutil.rmtree(older, ignore_errors=True)


def _is_checkpoint(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _read_config(folder: Path) -> dict[str, Any]:
    if not _is_checkpoint(folder):
        raise CheckpointError(f"{folder} is no model folder: it has no config.json")
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        edits = (values.get(BLOCK) or {}).get("edits", {})
        if edits and not {"shapes", "attributes", "emptied", "skipped"} <= edits.keys():
            raise ValueError(f"its {BLOCK} block is incomplete")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"cannot read {folder / 'config.json'}: {_first_line(error)}") from None
    return values


def _check_fit(model: Any, info: Mapping[str, Any], folder: Path, architecture: str) -> None:
    """Name the tensor that does not fit. A new head may lack tensors; what the saved architecture has must be there."""
    for name, found, expected in sorted(info["mismatched_keys"]):
        raise CheckpointError(
            f"{folder} does not fit its config: tensor {name} has shape {tuple(found)}, the model {tuple(expected)}"
        )
    for message in info.get("error_msgs") or ():
        raise CheckpointError(f"cannot load {folder}: {_first_line(message)}")
    if not info["missing_keys"]:
        return
    saved = model
    if architecture and type(model).__name__ != architecture:
        with torch.device("meta"):
            saved = named(architecture)(copy.deepcopy(model.config))
    prefix = f"{model.base_model_prefix}."
    known = {name.removeprefix(prefix) for name in saved.state_dict()}
    for name in sorted(info["missing_keys"]):
        if name.removeprefix(prefix) in known:
            raise CheckpointError(f"{folder} is incomplete: tensor {name} is missing")


def _first_line(error: Exception | str) -> str:
    return (str(error) or repr(error)).strip().splitlines()[0]
