"""``shrink``: make the tensors of a model smaller where a mask says so. The law it keeps: if every unit outside the
mask contributes exactly zero, no output changes.

A sub-block is *removed* when no unit of its group is left. Its output projection then emits its bias (nothing where
there is none), the block itself and the norms that only feed it are skipped; a norm behind the residual sum
(post-LN) stays. Masked and shrunk models use this one definition.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from secateurs.mask import Mask
from secateurs.modeling_pruned import BLOCK, apply_edits, base_of, sync_sizes
from secateurs.structure import Cut, Group, Kind, Structure

__all__ = ["edits_of", "shrink", "zero_masked"]

FORMAT = 1
"""Version of the block in ``config.json``."""

Model = TypeVar("Model", bound=nn.Module)


def zero_masked(model: nn.Module, structure: Structure, mask: Mask) -> None:
    """Zero the reader columns of every unit outside the mask, in place: the masked twin of the shrunk model."""
    mask.check(structure)
    with torch.no_grad():
        for group in structure:
            cut = group.reader_cut
            weight = model.get_parameter(cut.parameter)
            dropped = _indices(cut, (~mask[group.name]).nonzero().flatten())
            weight.index_fill_(cut.dim, dropped.to(weight.device), 0.0)


def shrink(model: Model, structure: Structure, mask: Mask) -> Model:
    """Slice every parameter of ``model`` to the kept units, in place, and record the edits in its config.

    Args:
        model: a transformers model (or one layer of it) whose units outside ``mask`` contribute nothing.
        structure: what can be removed from this very model.
        mask: what is kept.

    Returns:
        ``model`` itself. ``model.config.secateurs`` then holds what a loader needs (merged with earlier edits, so a
        pruned model can be pruned again).
    """
    mask.check(structure)
    edits: dict[str, Any] = {"shapes": {}, "attributes": {}, "emptied": [], "skipped": {}}
    with torch.no_grad():
        for group in structure:
            kept = mask.units(group.name)
            if len(kept) == group.size:
                continue
            for parameter, dim in dict.fromkeys((cut.parameter, cut.dim) for cut in group.cuts):
                edits["shapes"][parameter] = _slice(model, group, parameter, dim, kept)
            edits["attributes"] |= {path: per_unit * len(kept) for path, per_unit in group.attributes.items()}
            if len(kept) == 0:
                edits["emptied"].append(group.reader)
                # In transformers 5 every attention returns (output, weights) and every feed-forward block a tensor.
                edits["skipped"][group.block] = "tuple" if group.kind is Kind.HEAD else "tensor"
                edits["skipped"] |= dict.fromkeys(group.norms, "tensor")
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


def _slice(model: nn.Module, group: Group, parameter: str, dim: int, kept: Int[Tensor, " kept"]) -> list[int]:
    """Keep what no cut of the group owns, and what its kept units own; several cuts (fused qkv) are one slice."""
    path, _, name = parameter.rpartition(".")
    module = model.get_submodule(path)
    old = module.get_parameter(name)
    stays = torch.ones(old.shape[dim], dtype=torch.bool)
    for cut in group.cuts:
        if (cut.parameter, cut.dim) == (parameter, dim):
            stays[_indices(cut, torch.arange(group.size))] = False
            stays[_indices(cut, kept)] = True
    smaller = old.data.index_select(dim, stays.nonzero().flatten().to(old.device))
    setattr(module, name, nn.Parameter(smaller, requires_grad=old.requires_grad))
    sync_sizes(module)
    return list(smaller.shape)


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
    """Paths as they are inside the base model, so that the block serves the base model and every head on it."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}." if base_of(model) is not model else ""

    def strip(path: str) -> str:
        return path.removeprefix(prefix)

    return {
        "shapes": {strip(path): shape for path, shape in edits["shapes"].items()},
        "attributes": {strip(path): value for path, value in edits["attributes"].items()},
        "emptied": [strip(path) for path in edits["emptied"]],
        "skipped": {strip(path): returns for path, returns in edits["skipped"].items()},
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
        "shapes": {**earlier.get("shapes", {}), **edits["shapes"]},
        "attributes": {**earlier.get("attributes", {}), **edits["attributes"]},
        "emptied": sorted({*earlier.get("emptied", ()), *edits["emptied"]}),
        "skipped": {**earlier.get("skipped", {}), **edits["skipped"]},
    }
    groups = dict(block["groups"])
    for group in structure:
        original = groups.get(group.name, {"size": group.size})["size"]
        groups[group.name] = {"kind": str(group.kind), "size": original, "kept": int(mask[group.name].sum())}
    cached = [group for group in structure if getattr(model.get_submodule(group.block), "layer_idx", None) is not None]
    without_cache = cached and not any(mask[group.name].any() for group in cached)
    for config in _configs(model):
        # Numbers measured on the earlier model do not describe this one: the block starts anew without them.
        setattr(config, BLOCK, {"format": FORMAT, "edits": merged, "groups": groups})
        if without_cache:  # without any attention there is no cache to count positions by
            config.use_cache = False
    if without_cache and getattr(model, "generation_config", None) is not None:
        model.generation_config.use_cache = False
