"""Small random models of every family, in fp64, in which no parameter is zero."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from types import FunctionType
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from secateurs.structure.families import discover
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.surgery.factorize import factorize, matrices
from secateurs.surgery.shrink import shrink
from tiny_configs import ATTENTION_IN_FP32, CONFIGS, DECODERS, ENCODER_DECODERS, IMAGE_TYPES, SOUND_TYPES
from tiny_configs.sizes import VOCABULARY

__all__ = [
    "ATTENTION_IN_FP32",
    "DECODERS",
    "ENCODER_DECODERS",
    "VOCABULARY",
    "auto_name",
    "batch",
    "copied",
    "factored_model",
    "fill",
    "head_names",
    "hidden_states",
    "tiny_model",
    "tiny_structure",
    "without_layer",
]


def tiny_model(model_type: str, *, auto: str | None = None, seed: int = 0, **changes: Any) -> Any:
    """A small model with three layers, in evaluation mode, by default of the class ``auto_name``.

    It is built once in a process; every call returns a copy.

    Args:
        model_type: one of ``families.model_types()``.
        auto: name of the Auto class, if another head is wanted.
        seed: seed of the weights.
        changes: config fields to change.

    Raises:
        AssertionError: ``tiny_configs`` has no config for the model type.
    """
    assert model_type in CONFIGS, f"family {model_type!r} is not tested: add a small config to tests/tiny_configs"
    key = (model_type, auto or auto_name(model_type), seed, repr(sorted(changes.items())))
    if key not in _BUILT:
        config = transformers.AutoConfig.for_model(model_type, **{**CONFIGS[model_type], **changes})
        _BUILT[key] = fill(getattr(transformers, key[1]).from_config(config).double().eval(), seed)
    return copied(_BUILT[key])


_BUILT: dict[tuple[str, str, int, str], Any] = {}


@cache
def tiny_structure(model_type: str, *, hidden: bool = False) -> Structure:
    """The structure of ``tiny_model(model_type)``, with the residual stream or without."""
    return discover(tiny_model(model_type), hidden=hidden)


_SHARED = frozenset({int, float, str, bool, type(None), type, FunctionType, torch.dtype, torch.device})
"""Types of fields that a copy may share."""
_CONTAINERS = frozenset({dict, OrderedDict, set, list})


def copied(model: Any) -> Any:
    """``copy.deepcopy`` in a fraction of the time: most fields of modules are numbers or empty dictionaries of hooks."""
    return _copied(model, {})


def _copied(module: nn.Module, memo: dict[int, Any]) -> Any:
    if id(module) in memo:
        return memo[id(module)]
    new = memo[id(module)] = type(module).__new__(type(module))
    fields = vars(new)
    for name, value in vars(module).items():
        kind = type(value)
        if kind in _SHARED:
            fields[name] = value
        elif kind in _CONTAINERS and not value:
            fields[name] = kind()
        elif name == "_modules":
            fields[name] = {key: None if child is None else _copied(child, memo) for key, child in value.items()}
        elif name in ("_parameters", "_buffers"):
            fields[name] = {key: _copied_tensor(tensor, memo) for key, tensor in value.items()}
        else:
            fields[name] = copy.deepcopy(value, memo)
    return new


def _copied_tensor(tensor: Tensor | None, memo: dict[int, Any]) -> Tensor | None:
    """A copy of a parameter or of a buffer; tied parameters stay tied."""
    if tensor is None:
        return None
    if id(tensor) not in memo:
        values = tensor.detach().clone()
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(values, requires_grad=tensor.requires_grad) if is_parameter else values
    return memo[id(tensor)]


@cache
def _factored(model_type: str) -> Any:
    model = tiny_model(model_type)
    factorize(model, matrices(model))
    return model


def factored_model(model_type: str) -> Any:
    """A tiny model whose matrices are pairs of factors of full rank."""
    return copied(_factored(model_type))


def auto_name(model_type: str) -> str:
    """The Auto class of tiny models: a model that writes for types that do, else a classifier of tokens or images."""
    if model_type in ENCODER_DECODERS:
        return "AutoModelForSeq2SeqLM"
    if model_type in SOUND_TYPES:
        return "AutoModelForSpeechSeq2Seq"
    if model_type in IMAGE_TYPES:
        return "AutoModelForImageClassification"
    return "AutoModelForCausalLM" if model_type in DECODERS else "AutoModelForTokenClassification"


_HEADS = (
    "",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMaskedLM",
    "ForCausalLM",
    "ForImageClassification",
    "ForSpeechSeq2Seq",
)


def head_names(model_type: str) -> list[str]:
    """The Auto classes that have this model type, first that of the base model. Causal heads of encoders are left out."""
    config = type(transformers.AutoConfig.for_model(model_type))
    return [
        name
        for name in (f"AutoModel{head}" for head in _HEADS)
        if config in getattr(transformers, name)._model_mapping
        and not (name.endswith("CausalLM") and model_type not in DECODERS)
    ]


def fill(model: Any, seed: int) -> Any:
    """Draw every parameter at random, biases and norms too: a zero bias would hide errors in its treatment."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:  # computed, and not saved: the sinusoidal positions of Marian
                continue
            noise = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if name.endswith(("q_bias", "v_bias")):  # DeBERTa loads these in float32, whatever the dtype of the model
                noise = noise.float().double()
            is_gain = parameter.dim() == 1 and name.endswith("weight")
            parameter.copy_(noise + 1.0 if is_gain else noise)
    return model


def batch(model: Any = None, *, length: int = 11, padding: str | None = None, seed: int = 1) -> Mapping[str, Tensor]:
    """Three rows of tokens; or three images, or sounds with texts, without padding.

    Args:
        model: the model that gets the batch: an encoder-decoder also needs tokens for its decoder, and some need images.
        length: tokens per row.
        padding: side on which the second and the third row are padded, ``"left"`` or ``"right"``; ``None`` = no padding.
        seed: seed of the tokens.
    """
    inner = model if hasattr(model, "main_input_name") else getattr(model, "model", None)  # inside gates
    if getattr(inner, "main_input_name", "") == "pixel_values":
        config = getattr(inner.config, "vision_config", inner.config)
        size = (3, config.num_channels, config.image_size, config.image_size)
        return {"pixel_values": torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)}
    if getattr(inner, "main_input_name", "") == "input_features":
        config, generator = inner.config, torch.Generator().manual_seed(seed)
        size = (3, config.num_mel_bins, 2 * config.max_source_positions)
        tokens = torch.randint(3, VOCABULARY, (3, length), generator=generator)
        return {
            "input_features": torch.randn(size, generator=generator, dtype=torch.float64),
            "decoder_input_ids": tokens,
        }
    tokens = torch.randint(2, VOCABULARY, (3, length), generator=torch.Generator().manual_seed(seed))
    present = torch.ones_like(tokens)
    for row, short in enumerate((0, 3, 6)):
        if padding == "right" and short:
            present[row, -short:] = 0
        elif padding == "left":
            present[row, :short] = 0
    found = {"input_ids": tokens.masked_fill(present == 0, 1), "attention_mask": present}
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        found["decoder_input_ids"] = tokens.flip(1)[:, : length - 3].clone()
    return found


def hidden_states(outputs: Any) -> list[Tensor]:
    """The residual stream at every layer; that of the encoder first, where there are two stacks."""
    names = ("encoder_hidden_states", "decoder_hidden_states", "hidden_states")
    return [state for name in names for state in outputs.get(name) or ()]


def without_layer(model_type: str, index: int | None) -> Any:
    """A tiny model of which all units of layer ``index`` were removed: its biases and norms remain. ``None`` = no layer."""
    model = tiny_model(model_type)
    structure = discover(model)
    layers = list(structure.layers)
    layer = None if index is None or len(layers) == 1 else layers[index]  # a model needs a layer
    gone = {group.name: torch.arange(0) for group in structure if group.layer == layer}
    return shrink(model, structure, Mask.from_units(structure, gone))
