"""Small configs of every model type: one file per family file, found by scanning this folder.

A file holds ``CONFIGS``, model type -> config fields, and ``DECODES`` if its types generate text, or ``SEQ2SEQ_TYPES`` if
they are encoder-decoders, or ``SEES_IMAGES``, or ``HEARS_SOUND`` if they are encoder-decoders with sound as the input;
and ``ATTENTION_IN_FP32`` if their attention computes in fp32, whatever the dtype of the model.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

__all__ = ["ATTENTION_IN_FP32", "CONFIGS", "DECODERS", "ENCODER_DECODERS", "IMAGE_TYPES", "SOUND_TYPES"]

CONFIGS: dict[str, dict[str, Any]] = {}
"""Model type -> fields of a config with three layers and 50 tokens."""

_decoders: set[str] = set()
_encoder_decoders: set[str] = set()
_image_types: set[str] = set()
_sound_types: set[str] = set()
_attention_in_fp32: set[str] = set()
for _found in pkgutil.iter_modules(__path__):
    _module = importlib.import_module(f"{__name__}.{_found.name}")
    CONFIGS |= getattr(_module, "CONFIGS", {})
    if getattr(_module, "DECODES", False):
        _decoders |= set(_module.CONFIGS)
    if getattr(_module, "SEQ2SEQ_TYPES", False):
        _encoder_decoders |= set(_module.CONFIGS)
    if getattr(_module, "SEES_IMAGES", False):
        _image_types |= set(_module.CONFIGS)
    if getattr(_module, "HEARS_SOUND", False):
        _sound_types |= set(_module.CONFIGS)
    if getattr(_module, "ATTENTION_IN_FP32", False):
        _attention_in_fp32 |= set(_module.CONFIGS)

DECODERS = frozenset(_decoders)
"""The model types that generate text and have no encoder."""

ENCODER_DECODERS = frozenset(_encoder_decoders)
"""The model types with an encoder and a decoder; those in neither set are encoders."""

IMAGE_TYPES = frozenset(_image_types)
"""The model types whose input are images."""

SOUND_TYPES = frozenset(_sound_types)
"""The encoder-decoders whose encoder hears sound."""

ATTENTION_IN_FP32 = frozenset(_attention_in_fp32)
"""The model types whose attention rounds to fp32: equal sums of other lengths differ by its rounding."""
