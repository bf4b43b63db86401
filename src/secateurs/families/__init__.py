"""Model families: one file each, ``model -> Structure``. A new family is one new file here; nothing else names it.

A family file states, as data, which parameter slices go when a unit goes. Sizes are read off the modules, not off the
config, so that a pruned model can be pruned again.

It may also state when the stock config can say the same as the cuts (``@plain``): such a model needs no loader at all;
what every module has to do with the residual stream (``@stream``), so that the hidden size can be cut; and which widths
of its embeddings can be cut (``@embeddings``).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from secateurs.errors import UnsupportedModelError
from secateurs.families._residual import Role, Roles, residual_stream
from secateurs.modeling_pruned import BLOCK, base_of, is_factored, is_selected
from secateurs.structure import Cut, Group, Structure

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Plain", "Role", "Roles", "discover", "embeddings", "family", "model_types", "plain", "plain_form", "stream"]


@dataclass(frozen=True)
class Plain:
    """A pruned model as a stock config says it.

    Args:
        changes: config field -> value.
        layers: path of the list of layers, relative to the base model.
        kept: indices of the layers that stay, ascending.
    """

    changes: Mapping[str, Any]
    layers: str
    kept: tuple[int, ...]


Describe = Callable[[Any], Structure]
Express = Callable[[Any], Plain | None]
Relate = Callable[[Any, Any], Roles]

_FAMILIES: dict[str, Describe] = {}
_PLAIN: dict[str, Express] = {}
_STREAMS: dict[str, Relate] = {}
_EMBEDDINGS: dict[str, Describe] = {}


def family(*types: str) -> Callable[[Describe], Describe]:
    """Register a function ``base model -> Structure`` for these ``config.model_type`` values.

    The function gets the base model (``BertModel``, not ``BertForSequenceClassification``) and writes paths relative
    to it.
    """

    def register(describe: Describe) -> Describe:
        _FAMILIES.update(dict.fromkeys(types, describe))
        return describe

    return register


def plain(*types: str) -> Callable[[Express], Express]:
    """Register a function ``pruned base model -> Plain``, or ``None`` where the config cannot say it exactly."""

    def register(express: Express) -> Express:
        _PLAIN.update(dict.fromkeys(types, express))
        return express

    return register


def stream(*types: str) -> Callable[[Relate], Relate]:
    """Register a function ``(base model, whole model) -> Roles``: what every module has to do with the stream."""

    def register(relate: Relate) -> Relate:
        _STREAMS.update(dict.fromkeys(types, relate))
        return relate

    return register


def embeddings(*types: str) -> Callable[[Describe], Describe]:
    """Register a function ``base model -> Structure`` whose units are dimensions of embeddings, no layer's of their own."""

    def register(describe: Describe) -> Describe:
        _EMBEDDINGS.update(dict.fromkeys(types, describe))
        return describe

    return register


def model_types() -> list[str]:
    """Every ``config.model_type`` that can be pruned."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return sorted(_FAMILIES)


def discover(model: nn.Module, *, hidden: bool = False, embeddings: bool = False) -> Structure:
    """What can be removed from this model, with paths relative to the model itself.

    Args:
        model: a transformers model, with or without a head.
        hidden: dimensions of the residual stream too. The structure then has a stream, and may have no groups.
        embeddings: widths of adaptive embeddings too, first of all groups, where the model has any.

    Raises:
        UnsupportedModelError: no family file knows this type of model, or nothing is left to remove; or a module
            stands in an unknown relation to the stream that is to be cut.
    """
    known = model_types()
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in _FAMILIES:
        raise UnsupportedModelError(
            f"models of type {kind!r} cannot be pruned yet; supported types: {', '.join(known)}. "
            "A new family is one file in secateurs/families"
        )
    base = base_of(model)
    prefix = "" if base is model else f"{getattr(model, 'base_model_prefix', '')}."
    for path, module in base.named_modules():
        if is_selected(module):
            raise UnsupportedModelError(f"{path} reads some of its inputs only: such a model cannot be pruned again")
    groups = tuple(_through_factors(base, group) for group in _FAMILIES[kind](base))
    structure = Structure(groups).prefixed(prefix)
    if embeddings and kind in _EMBEDDINGS:
        structure = Structure((*_EMBEDDINGS[kind](base).prefixed(prefix), *structure))
    if hidden and kind not in _STREAMS:
        raise UnsupportedModelError(f"the hidden size of {kind} models cannot be pruned yet")
    if hidden:
        return replace(structure, stream=residual_stream(model, prefix, _STREAMS[kind](base, model)))
    if not len(structure):
        raise UnsupportedModelError(f"nothing is left to prune in this {kind} model: every head and neuron is gone")
    return structure


def _through_factors(base: nn.Module, group: Group) -> Group:
    """The same cuts where a matrix is a pair of factors: rows, and the bias, are the second's, columns the first's."""

    def through(cut: Cut) -> Cut:
        path, _, part = cut.parameter.rpartition(".")
        module: Any = base.get_submodule(path)
        if not is_factored(module):
            return cut
        rows = part == "bias" or (cut.dim == 0) != module.transposed
        return replace(cut, parameter=f"{path}.second.{part}" if rows else f"{path}.first.weight", dim=0 if rows else 1)

    reader = f"{group.reader}.first" if is_factored(base.get_submodule(group.reader)) else group.reader
    return replace(group, cuts=tuple(map(through, group.cuts)), reader=reader)


def plain_form(model: PreTrainedModel) -> Plain | None:
    """The stock config that means the same as the cuts in this model, or ``None`` where there is none."""
    model_types()
    hidden = (getattr(model.config, BLOCK, None) or {}).get("groups", {}).get("hidden", {"size": 0, "kept": 0})
    if hidden["kept"] < hidden["size"]:
        return None  # a config derives head sizes from the hidden size, and no config has both as they now are
    if any(is_factored(module) or is_selected(module) for module in model.modules()):
        return None
    express = _PLAIN.get(model.config.model_type)
    return express(base_of(model)) if express else None
