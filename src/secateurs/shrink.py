"""``shrink``: make the tensors of a model smaller where a mask says so. The law it keeps: if every unit outside the
mask contributes exactly zero, no output changes.

A sub-block is *removed* when no unit of its group is left. Its output projection then emits its bias (nothing where
there is none), the block itself and the norms that only feed it are skipped; a norm behind the residual sum
(post-LN) stays. Masked and shrunk models use this one definition.

A dimension of the residual stream is removed when nothing is written to it and the norms take their statistics over
the others alone (``kept_norm``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from secateurs.errors import RecipeError
from secateurs.factorize import is_larger, multiply_back, pairs, record_pairs, split, still_there
from secateurs.kept_norm import keep, narrow
from secateurs.mask import Mask
from secateurs.modeling_pruned import BLOCK, apply_edits, base_of, is_factored, select, sync_sizes
from secateurs.stock import stock_class
from secateurs.structure import Cut, Group, Kind, Stream, Structure

__all__ = ["edits_of", "shrink", "zero_masked"]

FORMAT = 1
"""Version of the block in ``config.json``."""

Model = TypeVar("Model", bound=nn.Module)
Shapes = Mapping[str, list[int | None]]


def zero_masked(model: nn.Module, structure: Structure, mask: Mask) -> None:
    """Zero the reader columns of every unit outside the mask, in place: the masked twin of the shrunk model.

    Of the stream: zero the dropped dimensions of all that writes to it, and leave them out of its norms.
    """
    _check(structure, mask)
    split(model, structure, mask)
    with torch.no_grad():
        for group in structure:
            if mask[group.name].all():
                continue
            cut = group.reader_cut
            weight = model.get_parameter(cut.parameter)
            dropped = _indices(cut, (~mask[group.name]).nonzero().flatten())
            weight.index_fill_(cut.dim, dropped.to(weight.device), 0.0)
        stream = structure.stream
        if stream and not mask[stream.name].all():
            dropped = (~mask[stream.name]).nonzero().flatten()
            for name, dim in stream.writers:
                parameter = model.get_parameter(name)
                parameter.index_fill_(dim, dropped.to(parameter.device), 0.0)
            for path in stream.norms:
                keep(model.get_submodule(path), mask[stream.name])


def shrink(model: Model, structure: Structure, mask: Mask, *, values: bool = True) -> Model:
    """Slice every parameter of ``model`` to the kept units, in place, and record the edits in its config.

    Args:
        model: a transformers model (or one layer of it) whose units outside ``mask`` contribute nothing.
        structure: what can be removed from this very model.
        mask: what is kept.
        values: of matrices that are split by this; without them shapes alone are right, which is enough to be timed.

    Returns:
        ``model`` itself. ``model.config.secateurs`` then holds what a loader needs (merged with earlier edits, so a
        pruned model can be pruned again).

    Raises:
        RecipeError: the mask is of another structure, or keeps no dimension of the stream.
    """
    _check(structure, mask)
    edits: dict[str, Any] = {"shapes": {}, "attributes": {}, "emptied": [], "selected": {}, "skipped": {}}
    split(model, structure, mask, values=values)
    before = set(pairs(model))
    with torch.no_grad():
        for group in structure:
            kept = mask.units(group.name)
            if len(kept) == group.size:
                continue
            for parameter, dim in dict.fromkeys((cut.parameter, cut.dim) for cut in group.cuts):
                edits["shapes"][parameter] = list(_slice(model, group, parameter, dim, kept).shape)
            edits["attributes"] |= {path: per_unit * len(kept) for path, per_unit in group.attributes.items()}
            if group.kind is Kind.INPUT and len(kept):
                select(model.get_submodule(group.reader), kept)
                edits["selected"][group.reader] = len(kept)
            if len(kept) == 0:
                edits["emptied"].append(group.reader)
                if group.kind in (Kind.RANK, Kind.INPUT):
                    continue  # the reader emits its bias; nothing else is computed
                # In transformers 5 every attention returns (output, weights) and every feed-forward block a tensor.
                edits["skipped"][group.block] = "tuple" if group.kind is Kind.HEAD else "tensor"
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
    edits = _relative_to_base(model, edits)
    apply_edits(model, edits)
    if hasattr(model, "save_pretrained"):
        _record(model, structure, mask, edits)
    return model


def edits_of(model: nn.Module) -> dict[str, Any] | None:
    """The block a pruned model carries in its config, or ``None`` for a dense one."""
    return getattr(getattr(model, "config", None), BLOCK, None)


def _indices(cut: Cut, units: Int[Tensor, " units"]) -> Int[Tensor, " indices"]:
    return (cut.offset + units[:, None] * cut.width + torch.arange(cut.width)).flatten()


def _there(structure: Structure, mask: Mask) -> list[Group]:
    """The groups whose units are parameters now: a matrix that stays whole has no ranks."""
    return [group for group in structure if not group.instead_of or not mask[group.name].all()]


def _check(structure: Structure, mask: Mask) -> None:
    mask.check(structure)
    if structure.stream and not mask[structure.stream.name].any():
        raise RecipeError(
            f"the mask keeps none of the {structure.stream.size} dimensions of the residual stream; at least one must stay"
        )


def _shrink_stream(
    model: nn.Module, stream: Stream, kept: Bool[Tensor, " hidden"], shapes: dict[str, list[int | None]]
) -> None:
    """Slice all that reads or writes the stream; what was tied stays tied. Only the sizes cut here enter ``shapes``,
    so that others (a vocabulary, a number of labels) may still change."""
    sliced: dict[tuple[int, int], tuple[nn.Parameter, nn.Parameter]] = {}
    for cut in stream.cuts:
        old = model.get_parameter(cut.parameter)
        if (id(old), cut.dim) not in sliced:
            smaller = _slice(model, stream, cut.parameter, cut.dim, kept.nonzero().flatten())
            sliced[id(old), cut.dim] = old, smaller  # the old one is held, or its id might come again
        path, _, name = cut.parameter.rpartition(".")
        setattr(module := model.get_submodule(path), name, sliced[id(old), cut.dim][1])
        sync_sizes(module)
        shapes.setdefault(cut.parameter, [None] * old.dim())[cut.dim] = int(kept.sum())
    for path in stream.norms:
        narrow(model.get_submodule(path), kept)


def _slice(
    model: nn.Module, owner: Group | Stream, parameter: str, dim: int, kept: Int[Tensor, " kept"]
) -> nn.Parameter:
    """Keep what no cut of the owner has, and what its kept units have; several cuts (fused qkv) are one slice."""
    path, _, name = parameter.rpartition(".")
    module = model.get_submodule(path)
    old = module.get_parameter(name)
    stays = torch.ones(old.shape[dim], dtype=torch.bool)
    for cut in owner.cuts:
        if (cut.parameter, cut.dim) == (parameter, dim):
            stays[_indices(cut, torch.arange(owner.size))] = False
            stays[_indices(cut, kept)] = True
    values = old.data.index_select(dim, stays.nonzero().flatten().to(old.device))
    smaller = nn.Parameter(values, requires_grad=old.requires_grad)
    setattr(module, name, smaller)
    sync_sizes(module)
    return smaller


def _cache_slots(model: nn.Module, structure: Structure, mask: Mask) -> dict[str, int]:
    """Renumber ``layer_idx`` over the surviving attentions.

    A key-value cache reads its length from slot 0, so a gap there makes cached generation silently wrong. Each survivor
    takes the first free slot of its own layer type (sliding or full). Where no survivor has the type of slot 0, layer 0
    has no attention left to care, and takes the type of the first survivor.
    """
    survivors = [
        (f"{group.block}.layer_idx", attention)
        for group in structure
        if getattr(attention := model.get_submodule(group.block), "layer_idx", None) is not None
        and group.kind is Kind.HEAD
        and mask[group.name].any()
    ]
    types = getattr(getattr(model, "config", None), "layer_types", None)
    if not types or not survivors:
        return {path: slot for slot, (path, attention) in enumerate(survivors) if slot != attention.layer_idx}
    wanted = [types[attention.layer_idx] for _, attention in survivors]
    if types[0] not in wanted:
        types = [wanted[0], *types[1:]]
        for config in _configs(model):
            config.layer_types = types
    free = {own: [slot for slot, kind in enumerate(types) if kind == own] for own in wanted}
    slots = {path: free[own].pop(0) for (path, _), own in zip(survivors, wanted, strict=True)}
    return {path: slots[path] for path, attention in survivors if slots[path] != attention.layer_idx}


def _configs(model: Any) -> list[Any]:
    """The config of a model, and that of its base model where it is a copy."""
    configs = [getattr(part, "config", None) for part in (model, base_of(model))]
    return list({id(config): config for config in configs if config is not None}.values())


def _relative_to_base(model: nn.Module, edits: dict[str, Any]) -> dict[str, Any]:
    """Paths as they are inside the base model, so that the block serves the base model and every head on it.

    What was cut outside it goes to ``heads``, under the name of the stock class: the stream, nothing else, leaves it.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}." if base_of(model) is not model else ""

    def strip(path: str) -> str:
        return path.removeprefix(prefix)

    if prefix and "heads" in edits:
        stock = stock_class(model).__name__
        outside = [path for path in edits["shapes"] if not path.startswith(prefix)]
        edits["heads"][stock] = {path: edits["shapes"].pop(path) for path in outside}
    if "optional" in edits:
        edits["optional"] = {strip(path): shape for path, shape in edits["optional"].items()}
    return {
        **edits,
        "shapes": {strip(path): shape for path, shape in edits["shapes"].items()},
        "attributes": {strip(path): value for path, value in edits["attributes"].items()},
        "emptied": [strip(path) for path in edits["emptied"]],
        "skipped": {strip(path): returns for path, returns in edits["skipped"].items()},
        "factored": {strip(path): rank for path, rank in edits["factored"].items()},
        "selected": {strip(path): count for path, count in edits["selected"].items()},
    }


def _record(model: Any, structure: Structure, mask: Mask, edits: dict[str, Any]) -> None:
    """Merge the edits, and the kept counts they came from, into the config."""
    import transformers

    block = getattr(model.config, BLOCK, None) or {}
    if "edits" not in block:  # a dense model, or one whose config says it all: its paths are those of today
        block = {"edits": {}, "groups": {}}
    earlier = block["edits"]
    merged = {
        "transformers": transformers.__version__,
        "shapes": still_there(model, _merged(earlier.get("shapes", {}), edits["shapes"])),
        "attributes": {**earlier.get("attributes", {}), **edits["attributes"]},
        "emptied": sorted({*earlier.get("emptied", ()), *edits["emptied"]}),
        "skipped": {**earlier.get("skipped", {}), **edits["skipped"]},
    }
    if edits["factored"]:
        merged["factored"] = edits["factored"]
    if edits["selected"]:
        merged["selected"] = edits["selected"]
    if "heads" in edits:  # what is known of other heads is of the earlier size now
        merged |= {"heads": edits["heads"], "optional": edits["optional"]}
    elif "heads" in earlier:
        merged |= {"heads": earlier["heads"], "optional": earlier["optional"]}
    groups = dict(block["groups"])
    for group in _there(structure, mask):
        original = groups.get(group.name, {"size": group.size})["size"]
        groups[group.name] = {"kind": str(group.kind), "size": original, "kept": int(mask[group.name].sum())}
    if stream := structure.stream:
        original = groups.get(stream.name, {"size": stream.size})["size"]
        groups[stream.name] = {"kind": str(Kind.HIDDEN), "size": original, "kept": int(mask[stream.name].sum())}
    cached = [group for group in structure if getattr(model.get_submodule(group.block), "layer_idx", None) is not None]
    without_cache = cached and not any(mask[group.name].any() for group in cached)
    for config in _configs(model):
        # Numbers measured on the earlier model do not describe this one: the block starts anew without them.
        setattr(config, BLOCK, {"format": FORMAT, "edits": merged, "groups": groups})
        if without_cache:  # without any attention there is no cache to count positions by
            config.use_cache = False
    if without_cache and getattr(model, "generation_config", None) is not None:
        model.generation_config.use_cache = False


def _merged(earlier: Shapes, later: Shapes) -> dict[str, list[int | None]]:
    """Where the later edits do not speak of a size, the earlier ones hold."""
    return {
        **earlier,
        **{
            path: [was if now is None else now for now, was in zip(shape, earlier.get(path, shape), strict=True)]
            for path, shape in later.items()
        },
    }
