"""Model families: one file per family. A new family is one new file here; no other file names it.

A family file registers functions with these decorators:
    ``@family``      required: which groups of units a model has, and which parameter slices are removed with each unit.
                     Sizes are read off the modules, not off the config, so that a pruned model can be pruned again.
    ``@plain``       optional: which values of transformers' own config describe a pruned model exactly. A model with such a
                     config is saved as an ordinary checkpoint, without edits.
    ``@stream``      optional: how every module is connected to the residual stream. Without it the hidden size of the
                     family cannot be pruned.
    ``@embeddings``  optional: which widths of the embeddings can be cut.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import nn

from secateurs.errors import UnsupportedModelError
from secateurs.modeling.modeling_pruned import BLOCK, base_of
from secateurs.modeling.pruned_modules import is_factored, is_selected
from secateurs.structure.cut import Cut
from secateurs.structure.families._residual import Role, Roles, residual_stream
from secateurs.structure.structure import Group, Structure

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "Family",
    "PlainConfig",
    "Role",
    "Roles",
    "discover",
    "embeddings",
    "family",
    "hidden_types",
    "model_types",
    "overview",
    "plain",
    "plain_config_of",
    "stream",
]


@dataclass(frozen=True)
class PlainConfig:
    """A description of a pruned model by the fields of transformers' own config.

    Args:
        changes: config field -> its value for the pruned model.
        layers: path of the list of layers, relative to the base model.
        kept: indices of the layers that are kept, ascending. Layers that add nothing to the stream may be left out.
    """

    changes: Mapping[str, Any]
    layers: str
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Family:
    """A family file in brief.

    Args:
        file: name of the file, without ending.
        title: first line of its docstring: the family, and after a colon its layout.
        types: its ``config.model_type`` values, in alphabetical order.
        hidden: those whose hidden size can be pruned.
        plain: those that some pruned models are saved of with transformers' own config alone.
    """

    file: str
    title: str
    types: tuple[str, ...]
    hidden: tuple[str, ...]
    plain: tuple[str, ...]


StructureFunction = Callable[[Any], Structure]
PlainConfigFunction = Callable[[Any], PlainConfig | None]
RolesFunction = Callable[[Any, Any], Roles]

_FAMILIES: dict[str, StructureFunction] = {}
_PLAIN: dict[str, PlainConfigFunction] = {}
_STREAMS: dict[str, RolesFunction] = {}
_EMBEDDINGS: dict[str, StructureFunction] = {}


def family(*types: str) -> Callable[[StructureFunction], StructureFunction]:
    """Decorator that registers a function ``base model -> Structure``: the groups of every layer.

    The function is given the base model (``BertModel``, not ``BertForSequenceClassification``), and its paths are relative
    to the base model.

    Args:
        types: the ``config.model_type`` values that the function is for.
    """

    def register(function: StructureFunction) -> StructureFunction:
        _FAMILIES.update(dict.fromkeys(types, function))
        return function

    return register


def plain(*types: str) -> Callable[[PlainConfigFunction], PlainConfigFunction]:
    """Decorator that registers a function ``pruned base model -> PlainConfig | None``.

    The function returns ``None`` where the fields of transformers' own config cannot describe the pruned model exactly.

    Args:
        types: the ``config.model_type`` values that the function is for.
    """

    def register(function: PlainConfigFunction) -> PlainConfigFunction:
        _PLAIN.update(dict.fromkeys(types, function))
        return function

    return register


def stream(*types: str) -> Callable[[RolesFunction], RolesFunction]:
    """Decorator that registers a function ``(base model, full model) -> Roles``: how modules use the residual stream.

    The result covers the modules of the base model and of every task head that transformers has for it.

    Args:
        types: the ``config.model_type`` values that the function is for.
    """

    def register(function: RolesFunction) -> RolesFunction:
        _STREAMS.update(dict.fromkeys(types, function))
        return function

    return register


def embeddings(*types: str) -> Callable[[StructureFunction], StructureFunction]:
    """Decorator that registers a function ``base model -> Structure`` whose units are dimensions of embeddings.

    These groups belong to no layer, so their ``layer`` is empty.

    Args:
        types: the ``config.model_type`` values that the function is for.
    """

    def register(function: StructureFunction) -> StructureFunction:
        _EMBEDDINGS.update(dict.fromkeys(types, function))
        return function

    return register


def model_types() -> list[str]:
    """Every ``config.model_type`` that can be pruned, in alphabetical order."""
    _import_family_files()
    return sorted(_FAMILIES)


@cache
def _import_family_files() -> None:
    """Import every file of this folder, once in a process: they register their families."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


def overview() -> list[Family]:
    """Every family file that supports a model type, in alphabetical order."""
    files: dict[str, list[str]] = {}
    for name in model_types():
        files.setdefault(_FAMILIES[name].__module__, []).append(name)

    def brief(module: str, types: list[str]) -> Family:
        title = (importlib.import_module(module).__doc__ or "").strip().partition("\n")[0]
        known = [tuple(name for name in types if name in table) for table in (_STREAMS, _PLAIN)]
        return Family(module.rpartition(".")[2], title, tuple(types), *known)

    return [brief(module, files[module]) for module in sorted(files)]


def hidden_types() -> list[str]:
    """Every ``config.model_type`` whose hidden size can be pruned, in alphabetical order."""
    return [name for name in model_types() if name in _STREAMS]


def discover(model: nn.Module, *, hidden: bool = False, embeddings: bool = False) -> Structure:
    """Find what can be removed from a model.

    Args:
        model: a transformers model, with or without a task head.
        hidden: include the residual stream, so that the hidden size can be pruned. The structure may then have no groups.
        embeddings: include the widths of adaptive embeddings, if the model has any. Their groups come first.

    Returns:
        The structure of the model, with paths relative to ``model``.

    Raises:
        UnsupportedModelError: no family file is for this type of model; or nothing is left to remove; or the family file
            does not say how a module uses the stream that is to be pruned.
    """
    known = model_types()
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in _FAMILIES:
        raise UnsupportedModelError(
            f"models of type {kind!r} cannot be pruned yet; supported types: {', '.join(known)}. "
            "A new family is one file in secateurs/structure/families"
        )
    base = base_of(model)
    prefix = "" if base is model else f"{getattr(model, 'base_model_prefix', '')}."
    for path, module in base.named_modules():
        if is_selected(module):
            raise UnsupportedModelError(f"{path} uses some of its inputs only: such a model cannot be pruned again")
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
    """A group with its cuts moved to the factors of matrices that are pairs of factors.

    The rows of the matrix and its bias belong to the second factor, the columns to the first.

    Args:
        base: the base model.
        group: the group as the family file describes it.
    """

    def through(cut: Cut) -> Cut:
        path, _, part = cut.parameter.rpartition(".")
        module: Any = base.get_submodule(path)
        if not is_factored(module):
            return cut
        rows = part == "bias" or (cut.dim == 0) != module.transposed
        return replace(cut, parameter=f"{path}.second.{part}" if rows else f"{path}.first.weight", dim=0 if rows else 1)

    path = group.output_projection
    output_projection = f"{path}.first" if is_factored(base.get_submodule(path)) else path
    memory = tuple(f"{one}.second" if is_factored(base.get_submodule(one)) else one for one in group.memory)
    return replace(group, cuts=tuple(map(through, group.cuts)), output_projection=output_projection, memory=memory)


def plain_config_of(model: PreTrainedModel) -> PlainConfig | None:
    """The description of a pruned model by transformers' own config, or ``None`` where there is no exact one.

    Args:
        model: a pruned model, with or without a task head.
    """
    model_types()
    hidden = (getattr(model.config, BLOCK, None) or {}).get("groups", {}).get("hidden", {"size": 0, "kept": 0})
    if hidden["kept"] < hidden["size"]:
        return None  # a config derives the head size from the hidden size, but only the hidden size was cut
    if any(is_factored(module) or is_selected(module) for module in model.modules()):
        return None
    function = _PLAIN.get(model.config.model_type)
    return function(base_of(model)) if function else None
