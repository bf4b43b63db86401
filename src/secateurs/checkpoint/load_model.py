"""Loading of a model and its tokenizer from a folder or the hub, with clear errors for models that cannot be used."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from secateurs.artifacts import expanded, is_path
from secateurs.checkpoint.hooks import installed
from secateurs.checkpoint.image_processor import load_image_processor
from secateurs.checkpoint.refusals import check_weights, first_line, reason
from secateurs.errors import CheckpointError, UnsupportedModelError
from secateurs.modeling.modeling_pruned import base_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "body",
    "lacks_head",
    "load",
    "padding_token",
    "quiet",
    "without_pooler",
]

logger = logging.getLogger(__name__)


@installed()
def load(
    source: str,
    auto_class: str,
    *,
    dtype: torch.dtype | str,
    device: torch.device | str,
    trust_remote_code: bool,
    revision: str | None,
    may_be_missing: tuple[str, ...] = (),
    subfolder: str = "",
    as_saved: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer; see ``Task.load``.

    Args:
        source: folder, or hub id.
        auto_class: name of the transformers class that loads the model.
        dtype: data type of the weights.
        device: device of the model.
        trust_remote_code: whether Python code of the checkpoint may be run.
        revision: branch, tag or commit on the hub.
        may_be_missing: prefixes of the parameter names that the checkpoint may lack.
        subfolder: subfolder of ``source`` that holds the weights; ``""`` for ``source`` itself.
        as_saved: load what the checkpoint holds: without the head or the pooler if it has no weights of them.

    Returns:
        The model in evaluation mode, and the tokenizer as it was saved; for a model of images its image processor. If the
        config names no padding token, the config of the model gets the id of ``padding_token``.

    Raises:
        CheckpointError: the folder is missing, damaged or without tokenizer, or the hub cannot be reached.
        UnsupportedModelError: weights are missing, NaN or infinite, or belong to a model of another task.
    """
    location = _location(source, subfolder)
    if is_path(source):
        check_weights(Path(location) / subfolder, auto_class)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "revision": revision, "subfolder": subfolder}
    model = _load_model(location, auto_class, dtype, may_be_missing, options, as_saved)
    _check_finite(model, source)
    if getattr(model, "main_input_name", "input_ids") == "pixel_values":
        tokenizer = load_image_processor(location, options)
    else:
        tokenizer = _load_tokenizer(location, options)
        _ensure_padding(model, tokenizer, source)
    model.to(device)  # pyright: ignore[reportArgumentType]: the decorator of transformers hides the signature
    return model.eval(), tokenizer


def body(model: Any, source: str) -> dict[str, torch.Tensor]:
    """Weights of another checkpoint that fit the base model (the model without its head); see ``Task.body``.

    Args:
        model: model that would receive the weights.
        source: folder or hub id of the other checkpoint.

    Returns:
        Parameter names in the base model of ``model``, each with the tensor of the other checkpoint.

    Raises:
        CheckpointError: the other checkpoint cannot be loaded.
        UnsupportedModelError: it has another architecture or size, or was trained for another number of labels.
    """
    import transformers

    options = {"trust_remote_code": False}
    try:
        with quiet():
            other, info = transformers.AutoModel.from_pretrained(
                _location(source, ""), dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
            )
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, ImportError) as error:
        raise CheckpointError(f"cannot load the model {source} to start from: {reason(source, error)}") from error
    _check_finite(other, source)
    ours = base_of(model).state_dict()
    found = {
        name: value for name, value in other.state_dict().items() if name in ours and name not in info["missing_keys"]
    }
    if not found or type(other) is not type(base_of(model)):
        raise UnsupportedModelError(
            f"{source} is a {other.config.model_type}, the teacher a {model.config.model_type}; start from a model of the "
            "teacher's type"
        )
    for name, value in found.items():
        if ours[name].shape != value.shape:
            raise UnsupportedModelError(
                f"{source} has {name} of shape {tuple(value.shape)}, the teacher {tuple(ours[name].shape)}; "
                "a student starts from a model of the teacher's size"
            )
    config: Any = other.config
    if type(model).__name__ in (config.architectures or ()) and config.num_labels != model.config.num_labels:
        raise UnsupportedModelError(
            f"{source} was trained for {config.num_labels} labels, the teacher for {model.config.num_labels}; "
            "start from a model of the teacher's task, or from the pretrained one"
        )
    return found


def _location(source: str, subfolder: str) -> str:
    """The source with ``~`` expanded; a local folder must hold a ``config.json``."""
    if not is_path(source):
        return source
    folder = expanded(source)
    if not folder.is_dir():
        raise CheckpointError(f"the model folder {source} does not exist; give a folder or a hub id like owner/name")
    if not (folder / subfolder / "config.json").is_file():
        raise CheckpointError(f"the folder {source} has no config.json; give a folder that save_pretrained wrote")
    return str(folder)


def _load_model(
    source: str,
    auto_class: str,
    dtype: torch.dtype | str,
    may_be_missing: tuple[str, ...],
    options: dict[str, Any],
    as_saved: bool,
) -> PreTrainedModel:
    model, info = _from_pretrained(source, auto_class, dtype, options)
    if as_saved:
        if lacks_head(model, info):
            model, info = _from_pretrained(source, "AutoModel", dtype, options)
        without_pooler(model, info)
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(may_be_missing))
    if missing:
        raise UnsupportedModelError(
            f"{source} lacks {len(missing)} weights that {auto_class} needs ({', '.join(missing[:3])}); "
            "prune a model that was trained for this task"
        )
    return model


def _from_pretrained(
    source: str, auto_class: str, dtype: torch.dtype | str, options: dict[str, Any]
) -> tuple[Any, Any]:
    """A model and the loading report of ``from_pretrained``."""
    import transformers

    try:
        with quiet():
            return getattr(transformers, auto_class).from_pretrained(
                source, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
            )
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"cannot load the model {source}: {reason(source, error)}") from error
    except (ValueError, KeyError, ImportError) as error:
        raise UnsupportedModelError(f"{source} is not a model for {auto_class}: {first_line(error)}") from error


def lacks_head(model: Any, info: Mapping[str, Any]) -> bool:
    """Whether a checkpoint has the weights of the base model and none of the head, whatever its config says.

    Embedding models are often saved in this way: the config names the class they were pretrained with.

    Args:
        model: the loaded model, with its head.
        info: the loading report of ``from_pretrained``.
    """
    prefix = f"{model.base_model_prefix}."
    missing = set(info["missing_keys"])
    tensors = model.state_dict()
    head = {name for name in tensors if not name.startswith(prefix)}
    if base_of(model) is model or not missing & head:
        return False
    if any(name.startswith(prefix) and not _in_pooler(name) for name in missing):
        return False  # incomplete: the base model lacks weights too
    # A tensor that is tied to the base model or to a missing one (such as word embeddings) is no weight of the head.
    others = {tensor.data_ptr() for name, tensor in tensors.items() if name not in head or name in missing}
    return all(name in missing or tensors[name].data_ptr() in others for name in head)


def without_pooler(model: Any, info: Mapping[str, Any]) -> None:
    """Remove the pooler of a base model, in place, if the checkpoint lacks it: its weights are random.

    Args:
        model: the loaded model; if it has a head, nothing is changed.
        info: the loading report of ``from_pretrained``; the pooler is no longer missing afterwards.
    """
    missing = info["missing_keys"]
    pooler = [name for name in missing if _in_pooler(name)]
    if pooler and getattr(model, "pooler", None) is not None:
        model.pooler = None
        for name in pooler:
            missing.remove(name)


def _in_pooler(name: str) -> bool:
    return "pooler" in name.split(".")


@contextmanager
def quiet() -> Iterator[None]:
    """Turn off the progress bar of loading, and the report of missing weights, which are raised as an exception."""
    from transformers.utils import logging as reports

    shown, level = reports.is_progress_bar_enabled(), reports.get_verbosity()
    reports.disable_progress_bar()
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        reports.set_verbosity_error()
    try:
        yield
    finally:
        reports.set_verbosity(level)
        if shown:
            reports.enable_progress_bar()


def _check_finite(model: PreTrainedModel, source: str) -> None:
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise UnsupportedModelError(f"parameter {name} of {source} holds NaN or infinite values")


def _load_tokenizer(source: str, options: dict[str, Any]) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        # Without tokenizer files, some classes make an empty tokenizer and raise no error.
        words = len(tokenizer.get_vocab()) - len(tokenizer.all_special_tokens)
    except Exception as error:  # tokenizer back ends raise exceptions of many classes
        raise CheckpointError(f"cannot load the tokenizer of {source}: {first_line(error)}") from error
    if words < 1:
        raise CheckpointError(f"{source} has no tokenizer files; copy the tokenizer of the model into its folder")
    return tokenizer


def padding_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The token to pad with: the padding token, or else the end token, or else the unknown token.

    Many decoders have no padding token.
    """
    found: Any = tokenizer.pad_token or tokenizer.eos_token or tokenizer.unk_token
    return found


def _ensure_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    """Give the config a padding token if it lacks one; classifiers made from decoders need it for batches.

    The tokenizer is not changed, because it is handed over with the pruned model.
    """
    token = padding_token(tokenizer)
    if token is None:
        raise CheckpointError(f"the tokenizer of {source} has no padding, end or unknown token to pad with")
    if tokenizer.pad_token_id is None:
        logger.info("the tokenizer of %s has no padding token; %r is used for padding", source, token)
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.convert_tokens_to_ids(token)
