"""Builds the ``Stream`` of a model from a table with the role of every module.

A family file states how every module with parameters is connected to the residual stream. A module that the table does not
name, such as an adapter or a user's own head, is refused by name. Cutting the stream under an unknown module that uses it
would give a model that is silently wrong or that crashes much later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum

from torch import nn

from secateurs.errors import UnsupportedModelError
from secateurs.modeling.hf_classes import is_hf_class, is_norm
from secateurs.modeling.pruned_modules import Emptied, is_a, is_linear
from secateurs.structure.cut import Cut
from secateurs.structure.stream import Stream

__all__ = ["Role", "Roles", "residual_stream"]


class Role(StrEnum):
    """How a module is connected to the residual stream."""

    READS = "reads"
    """A projection whose input is the stream."""
    POOLS = "pools"
    """Like ``READS``, for a module of the base model that exists under some task heads only (a pooler). Its output is not the
    stream."""
    WRITES = "writes"
    """A projection or an embedding whose output is added to the stream or starts it."""
    BRIDGES = "bridges"
    """A projection whose input is the stream and whose output has the dimensions of the stream too, because tied embeddings
    are multiplied with it."""
    NORMS = "norms"
    """A norm over the stream whose output only one block uses (pre-LN), or over what one block adds to it (sandwich)."""
    RENEWS = "renews"
    """A norm over the stream whose output is the new stream (post-LN)."""
    APART = "apart"
    """Not connected to the stream."""


Roles = Mapping[str, Role]
"""Path of a module, with ``*`` in the place of every number -> the role of the module."""

_READ = {Role.READS, Role.POOLS, Role.BRIDGES}
_WRITE = {Role.WRITES, Role.BRIDGES, Role.RENEWS}
_NORM = {Role.NORMS, Role.RENEWS}


def residual_stream(model: nn.Module, prefix: str, roles: Roles) -> Stream:
    """The residual stream of a model, its task head included.

    Args:
        model: the full model.
        prefix: path of the base model in it, with a dot at the end; empty for a base model. Paths in ``roles`` are
            relative to the base model for modules inside it, and to the full model for the others.
        roles: the role of every module that has parameters.

    Raises:
        UnsupportedModelError: a module is not in the table, or its size is not that of the stream, or the head has a
            forward that is not transformers' own.
    """
    _refuse_custom_forward(model, prefix)
    cuts: list[Cut] = []
    writers: list[tuple[str, int]] = []
    norms: list[str] = []
    optional: list[str] = []
    sizes: dict[str, int] = {}
    for path, module in model.named_modules():
        own = {name: tuple(parameter.shape) for name, parameter in module.named_parameters(recurse=False)}
        if not own:
            continue
        pattern = ".".join("*" if part.isdigit() else part for part in path.removeprefix(prefix).split("."))
        role = roles.get(pattern)
        if role is Role.APART:
            continue
        found = list(_axes(module, role, own)) if role else []
        if not found or (role in _NORM and not is_norm(module)) or not own.keys() <= {"weight", "bias"}:
            raise UnsupportedModelError(
                f"the hidden size of this {type(model).__name__} cannot be pruned: the family file does not "
                f"say how {path or 'its own parameters'} ({type(module).__name__}) uses the residual stream. "
                "Prune its heads and neurons only, or state the role of this module in the family file"
            )
        for name, dim, writes in found:
            cuts.append(Cut(f"{path}.{name}", dim))
            sizes[f"{path}.{name}"] = own[name][dim]
            if writes:
                writers.append((f"{path}.{name}", dim))
        if role in _NORM:
            norms.append(path)
        if role is Role.POOLS:
            optional.append(path)
    size = next(iter(sizes.values()), 0)
    for name, other in sizes.items():
        if other != size:
            raise UnsupportedModelError(
                f"the hidden size of this {type(model).__name__} cannot be pruned: {name} has size {other} where the "
                f"residual stream has {size}"
            )
    return Stream(size, tuple(cuts), tuple(writers), tuple(norms), tuple(optional))


def _refuse_custom_forward(model: nn.Module, prefix: str) -> None:
    """Refuse a head with the user's own forward: module names imply the data flow only in transformers' own code.

    Raises:
        UnsupportedModelError: the head has such a forward.
    """
    author = next(cls for cls in type(model).__mro__ if "forward" in vars(cls))
    if prefix and not is_hf_class(author):
        raise UnsupportedModelError(
            f"the hidden size of this {type(model).__name__} cannot be pruned: its head has a forward of its own, in "
            f"{author.__module__}, whose use of the stream is not known. Prune its heads and neurons only"
        )


def _axes(module: nn.Module, role: Role, own: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, int, bool]]:
    """``(name of the parameter, dim, whether the module writes)`` for every axis of a module that belongs to the stream."""
    if role in _NORM:
        for name in own:
            yield name, 0, role is Role.RENEWS
        return
    transposed = hasattr(module, "nf")  # Conv1D: in x out
    linear = is_linear(module) or transposed or is_a(Emptied, module)
    if linear and role in _READ:
        yield "weight", 0 if transposed else 1, False
    if role in _WRITE and (linear or isinstance(module, nn.Embedding)):
        yield "weight", 0 if linear and not transposed else 1, True
        if "bias" in own:
            yield "bias", 0, True
