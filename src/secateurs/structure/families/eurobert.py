"""EuroBERT: an encoder with the layers of Llama, whose attention sees all tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from secateurs.structure.families import PlainConfig, Role, Roles, family, llama, plain, stream
from secateurs.structure.families._even_layers import with_even_layers
from secateurs.structure.structure import Structure

__all__ = ["plain_config", "roles", "structure"]


@family("eurobert")
def structure(model: Any) -> Structure:
    """The groups of Llama; no attention fills a cache."""
    return Structure(tuple(replace(group, cache="") for group in llama.structure(model)))


@stream("eurobert")
def roles(base: Any, model: Any) -> Roles:
    """Those of Llama. A classifier of texts has a dense layer between the stream and its classifier."""
    classifier = Role.APART if hasattr(model, "dense") else Role.READS
    return {**llama.roles(base, model), "dense": Role.READS, "classifier": classifier}


@plain("eurobert")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_even_layers``."""
    return with_even_layers(model)
