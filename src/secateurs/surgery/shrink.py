"""``shrink``: cut the parameters of a model to the units that a mask keeps.

The law: if every unit outside the mask contributes exactly zero, ``shrink`` changes no output.

A sub-block is *removed* when no unit of its group is left. Its output projection then outputs its bias (zeros if it has
none). The block itself and the norms whose output only the block uses are skipped. A norm after the residual sum (post-LN)
stays. This definition holds for masked and for shrunk models.

A dimension of the residual stream is removed when nothing is written to it and the norms compute their statistics over the
other dimensions only (``masked_norm``).
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from secateurs.errors import RecipeError
from secateurs.modeling.modeling_pruned import apply_edits, select
from secateurs.modeling.per_head import heads_of
from secateurs.modeling.pruned_modules import is_factored, sync_sizes
from secateurs.structure.cut import Cut, Kind
from secateurs.structure.mask import Mask
from secateurs.structure.stream import Stream
from secateurs.structure.structure import Group, Structure
from secateurs.surgery.config_block import configs_of, record_pairs, relative_to_base, write_block
from secateurs.surgery.factorize import is_larger, multiply_back, pairs
from secateurs.surgery.low_rank_groups import apply_low_rank_options
from secateurs.surgery.masked_norm import mask_joint_norms, mask_norm, narrow_joint_norms, narrow_norm

__all__ = ["shrink", "zero_masked"]

Model = TypeVar("Model", bound=nn.Module)


def zero_masked(model: nn.Module, structure: Structure, mask: Mask) -> None:
    """Turn a model, in place, into the masked model: full size, but with the outputs of the shrunk model.

    The columns of the output projection of every dropped unit are set to zero, and norms over all units of its group leave it
    out of their statistics. For every dropped dimension of the stream, all
    writers are set to zero and the norms leave the dimension out of their statistics.

    Args:
        model: the model of ``structure``.
        structure: what can be removed from the model.
        mask: the units kept.

    Raises:
        RecipeError: the mask does not fit the structure, or keeps no dimension of the stream.
    """
    _check(structure, mask)
    apply_low_rank_options(model, structure, mask)
    with torch.no_grad():
        for group in structure:
            if mask[group.name].all():
                continue
            cut = group.output_cut
            weight = model.get_parameter(cut.parameter)
            dropped = _indices(cut, (~mask[group.name]).nonzero().flatten())
            weight.index_fill_(cut.dim, dropped.to(weight.device), 0.0)
            mask_joint_norms(model, group, mask[group.name])
        stream = structure.stream
        if stream and not mask[stream.name].all():
            dropped = (~mask[stream.name]).nonzero().flatten()
            for name, dim in stream.writers:
                parameter = model.get_parameter(name)
                parameter.index_fill_(dim, dropped.to(parameter.device), 0.0)
            for path in stream.norms:
                mask_norm(model.get_submodule(path), mask[stream.name])


def shrink(model: Model, structure: Structure, mask: Mask, *, values: bool = True) -> Model:
    """Cut every parameter of ``model`` to the kept units, in place, and record the edits in its config.

    Args:
        model: a transformers model, or one layer of it, whose units outside ``mask`` contribute nothing.
        structure: what can be removed from this model.
        mask: the units kept.
        values: compute the values of the matrices that are factorised by this call. Without it only their shapes are
            right, which is enough to measure the latency of the model.

    Returns:
        ``model`` itself. ``model.config.secateurs`` then holds what a loader needs, merged with earlier edits, so that a
        pruned model can be pruned again.

    Raises:
        RecipeError: the mask does not fit the structure, or keeps no dimension of the stream.
    """
    _check(structure, mask)
    edits: dict[str, Any] = {"shapes": {}, "attributes": {}, "emptied": [], "inputs": {}, "skipped": {}, "per_head": {}}
    apply_low_rank_options(model, structure, mask, values=values)
    before = set(pairs(model))
    with torch.no_grad():
        for group in structure:
            kept = mask.units(group.name)
            if len(kept) == group.size:
                continue
            cutter = _Cutter(group, kept)
            for parameter, dim in cutter.places:
                edits["shapes"][parameter] = list(cutter.cut(model, parameter, dim).shape)
            narrow_joint_norms(model, group, mask[group.name])
            edits["attributes"] |= {path: per_unit * len(kept) for path, per_unit in group.attributes.items()}
            if group.per_head and len(kept):
                heads = heads_of(model.get_submodule(group.block), group.size)
                edits["per_head"][group.block] = {
                    "group": group.name,
                    "tensors": dict(group.per_head),
                    "kept": [heads[unit] for unit in kept.tolist()],
                }
            if group.kind is Kind.INPUT:
                if len(kept):
                    select(model, group.output_projection, kept)
                edits["inputs"][group.output_projection] = len(kept)
            if len(kept) == 0:
                edits["emptied"].append(group.output_projection)
                if group.kind in (Kind.RANK, Kind.INPUT):
                    continue  # the emptied module outputs its bias; no block has to be skipped
                # In transformers 5 most attentions return (output, weights) and every feed-forward block a tensor.
                if group.block not in group.input_projections:  # a projection without outputs is emptied by its shape
                    default = "tuple" if group.kind is Kind.HEAD else "tensor"
                    edits["skipped"][group.block] = group.returns or default
                edits["skipped"] |= dict.fromkeys(group.norms, "tensor")
        stream = structure.stream
        if stream and not mask[stream.name].all():
            _shrink_stream(model, stream, mask[stream.name], edits["shapes"])
            optional = [path for path in edits["shapes"] if path.rpartition(".")[0] in stream.optional]
            edits |= {"heads": {}, "optional": {path: edits["shapes"].pop(path) for path in optional}}
        for group in structure:
            pair = model.get_submodule(group.product) if group.product else None
            if is_factored(pair) and is_larger(pair):
                multiply_back(model, group.product)
    record_pairs(model, before, edits)
    edits["attributes"] |= _cache_slots(model, structure, mask)
    edits = relative_to_base(model, edits)
    apply_edits(model, edits)
    if hasattr(model, "save_pretrained"):
        write_block(model, structure, mask, edits)
    return model


def _indices(cut: Cut, units: Int[Tensor, " units"]) -> Int[Tensor, " indices"]:
    """The indices along ``cut.dim`` that belong to these units."""
    return (cut.offset + units[:, None] * cut.width + torch.arange(cut.width)).flatten()


def _check(structure: Structure, mask: Mask) -> None:
    mask.check(structure)
    if structure.stream and not mask[structure.stream.name].any():
        raise RecipeError(
            f"the mask keeps none of the {structure.stream.size} dimensions of the residual stream; at least one must stay"
        )


def _shrink_stream(
    model: nn.Module, stream: Stream, kept: Bool[Tensor, " hidden"], shapes: dict[str, list[int | None]]
) -> None:
    """Cut every parameter that belongs to the stream. Tied parameters stay tied.

    Only the sizes that are cut here are recorded in ``shapes``, so that others (vocabulary, number of labels) may change.
    """
    sliced: dict[tuple[int, int], tuple[nn.Parameter, nn.Parameter]] = {}
    cutter = _Cutter(stream, kept.nonzero().flatten())
    for parameter, dim in cutter.places:
        path, _, name = parameter.rpartition(".")
        module = model.get_submodule(path)
        old = module.get_parameter(name)
        if (id(old), dim) not in sliced:
            sliced[id(old), dim] = old, cutter.cut(model, parameter, dim)  # holding the old one keeps its id unique
        else:
            setattr(module, name, sliced[id(old), dim][1])
            sync_sizes(module)
        shapes.setdefault(parameter, [None] * old.dim())[dim] = len(cutter.kept)
    for path in stream.norms:
        narrow_norm(model.get_submodule(path), kept)


class _Cutter:
    """Cuts the parameters of one group, or of the stream, to the kept units.

    Parameters with the same size and the same cuts share the indices that stay: those of the kept units, and those that
    belong to no cut of the owner.
    """

    def __init__(self, owner: Group | Stream, kept: Int[Tensor, " kept"]) -> None:
        """Take the cuts of ``owner``; ``kept`` are the indices of the units that stay."""
        self.kept, self.units = kept, owner.size
        self.places: dict[tuple[str, int], list[tuple[int, int]]] = {}
        """(parameter, dim) -> (offset, width) of every cut there: a fused q|k|v projection has three."""
        for cut in owner.cuts:
            self.places.setdefault((cut.parameter, cut.dim), []).append((cut.offset, cut.width))
        self._staying: dict[tuple[int, tuple[tuple[int, int], ...]], Int[Tensor, " indices"]] = {}

    def cut(self, model: nn.Module, parameter: str, dim: int) -> nn.Parameter:
        """Cut one parameter along one dimension, and return what its module has then."""
        path, _, name = parameter.rpartition(".")
        module = model.get_submodule(path)
        old = module.get_parameter(name)
        stays = self._indices(old.shape[dim], tuple(self.places[parameter, dim])).to(old.device)
        smaller = nn.Parameter(old.data.index_select(dim, stays), requires_grad=old.requires_grad)
        setattr(module, name, smaller)
        sync_sizes(module)
        return smaller

    def _indices(self, size: int, spans: tuple[tuple[int, int], ...]) -> Int[Tensor, " indices"]:
        """The indices that stay along a dimension of this size."""
        if (size, spans) not in self._staying:
            stays = torch.ones(size, dtype=torch.bool)
            for offset, width in spans:
                owned = stays[offset : offset + self.units * width].view(self.units, width)
                owned.zero_()
                owned[self.kept] = True
            self._staying[size, spans] = stays.nonzero().flatten()
        return self._staying[size, spans]


def _cache_slots(model: nn.Module, structure: Structure, mask: Mask) -> dict[str, int]:
    """Renumber ``Group.cache_slot``, the slot in the key-value cache, over the attention blocks that remain.

    A key-value cache takes its length from slot 0, so an unused slot 0 makes cached generation silently wrong. Each remaining
    attention takes the first free slot of its own layer type (sliding or full). If none of them has the type of slot 0, then
    layer 0 has no attention any more, and its type is set to that of the first remaining attention. The attention blocks
    that attend to the output of an encoder have a cache of their own and are numbered apart.
    """
    found: dict[str, list[tuple[str, int, Any]]] = {"self": [], "cross": []}
    counts = mask.counts
    for group in structure:
        attention: Any = model.get_submodule(group.block)
        cached = group.cache and getattr(attention, group.cache_slot, None) is not None
        if cached and group.kind is Kind.HEAD and counts[group.name]:
            slot = getattr(attention, group.cache_slot)
            found[group.cache].append((f"{group.block}.{group.cache_slot}", slot, attention))
    survivors = found["self"]
    slots = {path: slot for slot, (path, *_) in enumerate(found["cross"])}
    types = getattr(getattr(model, "config", None), "layer_types", None)
    if not types or not survivors:
        slots |= {path: slot for slot, (path, *_) in enumerate(survivors)}
    else:
        wanted = [types[old] for _, old, _ in survivors]
        if types[0] not in wanted and any(getattr(attention, "is_causal", True) for *_, attention in survivors):
            types = [wanted[0], *types[1:]]
            for config in configs_of(model):
                config.layer_types = types
        free = {own: [slot for slot, kind in enumerate(types) if kind == own] for own in wanted}
        slots |= {path: free[own].pop(0) for (path, *_), own in zip(survivors, wanted, strict=True)}
    everyone = (*survivors, *found["cross"])
    return {path: slots[path] for path, old, _ in everyone if slots[path] != old}
