"""Saves and loads pruned models as ordinary Hugging Face folders.

If transformers' own config can describe the pruned model (``families.plain_config_of``), the folder is an ordinary one.
Otherwise ``config.json`` has edits in a ``secateurs`` block, and ``modeling_pruned.py`` lies beside the weights. The folder
then loads with ``trust_remote_code=True`` where Secateurs is not installed, and without a flag after ``import secateurs``.
Without either, transformers' own class refuses the folder because the shapes differ.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from secateurs.artifacts import apply_umask, expanded, older_name, restore_older
from secateurs.checkpoint.apply_block import can_be_fused
from secateurs.checkpoint.hooks import installed, suspended
from secateurs.checkpoint.load_model import lacks_head, quiet, without_pooler
from secateurs.checkpoint.refusals import check_weights
from secateurs.checkpoint.remote_code import add_code, is_edited, needs_code
from secateurs.checkpoint.transformers_version import check_version
from secateurs.errors import CheckpointError
from secateurs.modeling.hf_classes import hf_class, hf_class_named
from secateurs.modeling.modeling_pruned import BLOCK, base_of
from secateurs.structure.families import PlainConfig, plain_config_of
from secateurs.surgery.config_block import FORMAT

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["describe", "has_code", "load", "replace_folder", "save"]

logger = logging.getLogger(__name__)


def save(
    model: PreTrainedModel,
    tokenizer: Any,
    folder: str | os.PathLike[str],
    *,
    extras: Callable[[Path], None] | None = None,
    max_shard_size: str = "5GB",
) -> Path:
    """Save a pruned or dense model so that ``from_pretrained`` can load it.

    All files are written to a temporary folder beside ``folder``, which is then renamed. If anything fails, an older
    checkpoint in ``folder`` is unchanged.

    Args:
        model: the shrunk model; it is not changed.
        tokenizer: tokenizer to save in the same folder; ``None`` = no tokenizer.
        folder: a new folder, an empty one, or an older checkpoint, which is replaced.
        extras: called with the temporary folder, to add files that a task needs.
        max_shard_size: largest size of one weights file, such as ``"5GB"``; larger models are saved in several files.

    Returns:
        ``folder``.

    Raises:
        CheckpointError: ``folder`` holds something other than a checkpoint, or cannot be written.
        SecateursError: the installed version of transformers does not fit.
    """
    check_version()
    folder = Path(folder)
    restore_older(folder)
    if folder.exists() and not (folder.is_dir() and (_is_checkpoint(folder) or not any(folder.iterdir()))):
        raise CheckpointError(f"cannot save to {folder}: it exists and is no model folder; name another one")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        _write(model, partial, max_shard_size)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        if extras is not None:
            extras(partial)
        apply_umask(*(path for path in partial.rglob("*") if path.is_file()))
        replace_folder(folder, partial)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write {folder}: {_first_line(error)}; nothing was changed there. Make room, or name another folder"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def describe(folder: Path, details: Mapping[str, Any], card: str) -> None:
    """Add measured numbers and a model card to a saved model.

    Args:
        folder: folder that ``save`` wrote.
        details: targets and measured numbers (JSON values), saved as ``measured`` in the ``secateurs`` block.
        card: text of ``README.md``.

    Raises:
        CheckpointError: the folder cannot be read or written.
    """
    values = _read_config(folder)
    values[BLOCK] = {"format": FORMAT, **values.get(BLOCK, {}), "measured": dict(details)}
    try:
        (folder / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {_first_line(error)}") from None


@installed()
def load(folder: str | os.PathLike[str], *, auto_class: str | None = None, **options: Any) -> PreTrainedModel:
    """Load a folder that ``save`` wrote. No code from the folder is run, and nothing is unpickled.

    If the config names a class with a head and the weights have none, as in many embedding models, the base model is
    loaded.

    Args:
        folder: the checkpoint.
        auto_class: name of an Auto class, to load another head than the saved one; ``None`` = the saved one.
        options: further arguments of ``from_pretrained``.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError: the folder is missing, damaged, or a tensor does not fit the model its config describes.
        SecateursError: the installed version of transformers does not fit.
    """
    import transformers

    folder = expanded(folder)
    values = _read_config(folder)
    check_weights(folder, next(iter(values.get("architectures") or ()), "AutoModel"))
    architecture = next(iter(values.get("architectures") or ()), "")
    name = auto_class or architecture or "AutoModel"
    cls = hf_class_named(name)
    if cls is None or hf_class_named(architecture or name) is None:
        raise CheckpointError(f"{folder} holds a {name}, which transformers {transformers.__version__} does not have")
    # A head that was asked for is reported as new; of the saved class, nothing may be new.
    with nullcontext() if auto_class else quiet():
        model, info = _from_pretrained(cls, folder, options)
        if auto_class is None and lacks_head(model, info):
            model, info = _from_pretrained(hf_class_named("AutoModel"), folder, options)
            without_pooler(model, info)
            architecture = type(model).__name__
    _check_fit(model, info, folder, architecture)
    return model


def _from_pretrained(cls: Any, folder: Path, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """A model and the loading report of ``from_pretrained``.

    Raises:
        CheckpointError: the folder is damaged, or ``cls`` cannot read it.
    """
    try:
        return cls.from_pretrained(
            folder,
            **options,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # _check_fit refuses them with their names
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"cannot load {folder} as {cls.__name__}: {_first_line(error)}") from None


def has_code(model: PreTrainedModel) -> bool:
    """Whether ``save`` puts code beside the weights: not for a model that the config of transformers can describe."""
    return needs_code(model.config) and not (is_edited(model.config) and plain_config_of(model) is not None)


def _write(model: PreTrainedModel, folder: Path, max_shard_size: str) -> None:
    """Write the weights, the config and, if needed, the code of a model into an empty folder."""
    plain = plain_config_of(model) if is_edited(model.config) else None
    if plain is not None:
        model = _rebuilt(model, plain)
    with suspended():  # the code is added once, here, whether the hooks are installed or not
        fused = not is_edited(model.config) or can_be_fused(model)
        model.save_pretrained(folder, max_shard_size=max_shard_size, save_original_format=fused)
    if needs_code(model.config):
        add_code(folder, model)


def _rebuilt(model: Any, plain: PlainConfig) -> PreTrainedModel:
    """The same tensors in a model of transformers' own class with the plain config; the kept layers are renumbered."""
    cls: Any = hf_class(model)
    config = copy.deepcopy(model.config)
    for field, value in plain.changes.items():
        setattr(config, field, value)
    groups = getattr(config, BLOCK)["groups"]
    setattr(config, BLOCK, {"format": FORMAT, "groups": groups})  # no edits, so that a loader changes nothing
    if hasattr(config, "auto_map"):
        del config.auto_map
    prefix = "" if base_of(model) is model else f"{model.base_model_prefix}."
    path = f"{prefix}{plain.layers}."
    new_index = {str(old): str(new) for new, old in enumerate(plain.kept)}
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(path):
            index, _, rest = name.removeprefix(path).partition(".")
            if index not in new_index:
                continue
            name = f"{path}{new_index[index]}.{rest}"
        tensors[name] = tensor
    with torch.device("meta"):
        rebuilt = cls(config)
    rebuilt.load_state_dict(tensors, assign=True)
    rebuilt.tie_weights()
    if getattr(model, "generation_config", None) is not None:
        rebuilt.generation_config = model.generation_config
    return rebuilt


def replace_folder(folder: Path, partial: Path) -> None:
    """Rename ``partial`` to ``folder``; an older checkpoint is deleted only after that."""
    older = older_name(folder)
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
    """The values in ``config.json``.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
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
    """Check the tensors of a loaded model. Those of a new head may be missing, those of the saved architecture may not.

    Args:
        model: the loaded model.
        info: the loading report of ``from_pretrained``.
        folder: the checkpoint.
        architecture: name of the saved class; empty if the config does not have it.

    Raises:
        CheckpointError: a tensor is missing or has another shape; the message names it.
    """
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
            saved = hf_class_named(architecture)(copy.deepcopy(model.config))
    prefix = f"{model.base_model_prefix}."
    required = {name.removeprefix(prefix) for name in saved.state_dict()}
    for name in sorted(info["missing_keys"]):
        if name.removeprefix(prefix) in required:
            raise CheckpointError(f"{folder} is incomplete: tensor {name} is missing")


def _first_line(error: Exception | str) -> str:
    return (str(error) or repr(error)).strip().splitlines()[0]
