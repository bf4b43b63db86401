"""From a table of roles, module by module, to the ``Stream`` of a model.

A family states what every module with parameters has to do with the residual stream. Nothing is guessed: a module
that the table does not name, an adapter or somebody's own head, is refused by name, since a stream that was cut under
a reader nobody knew of would be silently broken, or would crash much later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum

from torch import nn

from secateurs.errors import UnsupportedModelError
from secateurs.kept_norm import is_norm
from secateurs.stock import is_stock
from secateurs.structure import Cut, Stream

__all__ = ["Role", "Roles", "residual_stream"]


class Role(StrEnum):
    """What a module has to do with the residual stream."""

    READS = "reads"
    """Its input is the stream: a projection."""
    POOLS = "pools"
    """It reads too, inside the base model, and is there only where a head wants it: what it gives out is no stream."""
    WRITES = "writes"
    """Its output is added to the stream, or begins it: a projection or an embedding."""
    BRIDGES = "bridges"
    """Both: a projection from the stream to what tied embeddings read as if it were the stream."""
    NORMS = "norms"
    """A norm over the stream that only feeds a block (pre-LN)."""
    RENEWS = "renews"
    """A norm over the stream whose output is the stream (post-LN)."""
    APART = "apart"
    """Nothing."""


Roles = Mapping[str, Role]
"""Path of a module, with ``*`` for every number in it -> its role."""

_READ = {Role.READS, Role.POOLS, Role.BRIDGES}
_WRITE = {Role.WRITES, Role.BRIDGES, Role.RENEWS}
_NORM = {Role.NORMS, Role.RENEWS}


def residual_stream(model: nn.Module, prefix: str, roles: Roles) -> Stream:
    """The stream of a model and of the head on it.

    Args:
        model: the whole model.
        prefix: of the base model in it, with its dot; paths in ``roles`` are relative to the base model inside it, and
            to the model elsewhere.
        roles: of every module that has parameters of its own.

    Raises:
        UnsupportedModelError: a module is not in the table, or its size is not that of the stream.
    """
    _refuse_own_forward(model, prefix)
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
                f"the hidden size of this {type(model).__name__} cannot be pruned: nothing is known of "
                f"{path or 'its own parameters'} ({type(module).__name__}) and the residual stream. "
                "Prune its heads and neurons only, or state the role of this module in its family's file"
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


def _refuse_own_forward(model: nn.Module, prefix: str) -> None:
    """The names of modules tell what reads what only where stock code puts them together."""
    author = next(cls for cls in type(model).__mro__ if "forward" in vars(cls))
    if prefix and not is_stock(author):
        raise UnsupportedModelError(
            f"the hidden size of this {type(model).__name__} cannot be pruned: its head has a forward of its own, in "
            f"{author.__module__}, and what that reads is not known. Prune its heads and neurons only"
        )


def _axes(module: nn.Module, role: Role, own: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, int, bool]]:
    """``(parameter, dim, does it write)`` for every axis of a module that is the stream."""
    if role in _NORM:
        for name in own:
            yield name, 0, role is Role.RENEWS
        return
    transposed = hasattr(module, "nf")  # Conv1D: in x out
    linear = isinstance(module, nn.Linear) or transposed
    if linear and role in _READ:
        yield "weight", 0 if transposed else 1, False
    if role in _WRITE and (linear or isinstance(module, nn.Embedding)):
        yield "weight", 0 if linear and not transposed else 1, True
        if "bias" in own:
            yield "bias", 0, True
