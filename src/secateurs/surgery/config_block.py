"""The ``secateurs`` block in the config of a pruned model: what a loader needs to build the model again.

``block["edits"]`` holds the changes of modules and parameters (see ``secateurs.modeling.modeling_pruned``), and
``block["groups"]`` holds the original and the kept size of every group.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from torch import nn

from secateurs.modeling.hf_classes import hf_class
from secateurs.modeling.modeling_pruned import BLOCK, base_of
from secateurs.structure.cut import Kind
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Group, Structure
from secateurs.surgery.factorize import pairs

__all__ = ["FORMAT", "block_of", "configs_of", "record_pairs", "relative_to_base", "write_block"]

FORMAT = 1
"""Version of the ``secateurs`` block in ``config.json``."""

Shapes = Mapping[str, list[int | None]]
"""Name of a parameter -> its shape; ``None`` for a size that was not cut."""


def block_of(model: nn.Module) -> dict[str, Any] | None:
    """The ``secateurs`` block in the config of a pruned model, or ``None`` for a dense model."""
    return getattr(getattr(model, "config", None), BLOCK, None)


def configs_of(model: Any) -> list[Any]:
    """The config of a model, and those of its base model and of the stacks in it that are other objects."""
    stacks = [part for part in model.modules() if hasattr(type(part), "post_init")]
    configs = [getattr(part, "config", None) for part in (model, base_of(model), *stacks)]
    return list({id(config): config for config in configs if config is not None}.values())


def record_pairs(model: nn.Module, before: Set[str], edits: dict[str, Any]) -> None:
    """Record in ``edits`` the pairs of factors that a model has now, and the shapes of all their parameters.

    Pairs that were multiplied back are recorded as one weight.

    Args:
        model: the model after pruning.
        before: paths of the pairs before pruning.
        edits: the edits to complete, in place: its ``shapes`` and its ``factored``.
    """
    shapes, now = edits["shapes"], pairs(model)
    for path in before - now.keys():
        for part in ("first.weight", "second.weight", "second.bias"):
            shapes.pop(f"{path}.{part}", None)
    for path in before | now.keys():
        inside = model.get_submodule(path).named_parameters()
        shapes |= {f"{path}.{name}": list(parameter.shape) for name, parameter in inside}
    edits["factored"] = {path: pair.rank for path, pair in now.items()}


def relative_to_base(model: nn.Module, edits: dict[str, Any]) -> dict[str, Any]:
    """Make the paths relative to the base model, so that the block serves the base model and every task head.

    Parameters outside the base model, which only the stream cuts, go to ``heads`` under the name of transformers' own class.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}." if base_of(model) is not model else ""

    def strip(path: str) -> str:
        return path.removeprefix(prefix)

    if prefix and "heads" in edits:
        class_name = hf_class(model).__name__
        outside = [path for path in edits["shapes"] if not path.startswith(prefix)]
        edits["heads"][class_name] = {path: edits["shapes"].pop(path) for path in outside}
    if "optional" in edits:
        edits["optional"] = {strip(path): shape for path, shape in edits["optional"].items()}
    return {
        **edits,
        "shapes": {strip(path): shape for path, shape in edits["shapes"].items()},
        "attributes": {strip(path): value for path, value in edits["attributes"].items()},
        "emptied": [strip(path) for path in edits["emptied"]],
        "skipped": {strip(path): returns for path, returns in edits["skipped"].items()},
        "factored": {strip(path): rank for path, rank in edits["factored"].items()},
        "inputs": {strip(path): count for path, count in edits["inputs"].items()},
        "per_head": {strip(path): entry for path, entry in edits["per_head"].items()},
    }


def write_block(model: Any, structure: Structure, mask: Mask, edits: dict[str, Any]) -> None:
    """Merge the edits and the kept counts into the config of the model."""
    import transformers

    block = getattr(model.config, BLOCK, None) or {}
    if "edits" not in block:  # a dense model, or one with a plain config: its groups and paths are those it has now
        block = {"edits": {}, "groups": {}}
    earlier = block["edits"]
    merged = {
        "transformers": transformers.__version__,
        "shapes": _drop_replaced_shapes(model, _merged(earlier.get("shapes", {}), edits["shapes"])),
        "attributes": {**earlier.get("attributes", {}), **edits["attributes"]},
        "emptied": sorted({*earlier.get("emptied", ()), *edits["emptied"]}),
        "skipped": {**earlier.get("skipped", {}), **edits["skipped"]},
    }
    if parts := _parts(model):
        merged["parts"] = parts
    if edits["factored"]:
        merged["factored"] = edits["factored"]
    if edits["inputs"]:
        merged["inputs"] = edits["inputs"]
    per_head = {**earlier.get("per_head", {}), **edits["per_head"]}
    if per_head := {path: entry for path, entry in per_head.items() if path not in merged["skipped"]}:
        merged["per_head"] = per_head
    if "heads" in edits:  # entries of other heads are dropped: they have the earlier size
        merged |= {"heads": edits["heads"], "optional": edits["optional"]}
    elif "heads" in earlier:
        merged |= {"heads": earlier["heads"], "optional": earlier["optional"]}
    groups, counts = dict(block["groups"]), mask.counts
    for group in _groups_in_use(structure, mask):
        original = groups.get(group.name, {"size": group.size})["size"]
        groups[group.name] = {"kind": str(group.kind), "size": original, "kept": counts[group.name]}
    if stream := structure.stream:
        original = groups.get(stream.name, {"size": stream.size})["size"]
        groups[stream.name] = {"kind": str(Kind.HIDDEN), "size": original, "kept": counts[stream.name]}
    cached = [group for group in structure if group.cache == "self"]
    cached = [
        group for group in cached if getattr(model.get_submodule(group.block), group.cache_slot, None) is not None
    ]
    without_cache = cached and not any(counts[group.name] for group in cached)
    for config in configs_of(model):
        # The new block has no measured numbers: those of the earlier model do not describe this one.
        setattr(config, BLOCK, {"format": FORMAT, "edits": merged, "groups": groups})
        if without_cache:  # positions are counted by the cache, and without attention nothing fills it
            config.use_cache = False
    if without_cache and getattr(model, "generation_config", None) is not None:
        model.generation_config.use_cache = False


def _parts(model: nn.Module) -> list[str]:
    """Class names of the models inside the base model: the stacks of an encoder-decoder.

    They have the config of the whole model, so that a loader must know that the edits are not relative to them.
    """
    base = base_of(model)
    return sorted(
        {type(part).__name__ for part in base.modules() if part is not base and hasattr(type(part), "post_init")}
    )


def _groups_in_use(structure: Structure, mask: Mask) -> list[Group]:
    """All groups except the low-rank options that were not used, whose matrices are not factorised."""
    return [group for group in structure if not group.instead_of or not mask[group.name].all()]


def _drop_replaced_shapes(model: nn.Module, shapes: Shapes) -> dict[str, list[int | None]]:
    """Drop the shapes of parameters that no longer exist, because a matrix became a pair of factors or the reverse.

    Args:
        model: the model after pruning.
        shapes: name of a parameter of the base model -> its shape; ``None`` for a size that was not cut.
    """
    base = base_of(model)
    now = pairs(base)

    def exists(parameter: str) -> bool:
        path = parameter.rpartition(".")[0]
        owner, _, name = path.rpartition(".")
        if path in now:
            return False
        return name not in ("first", "second") or hasattr(base.get_submodule(owner), name)

    return {parameter: list(shape) for parameter, shape in shapes.items() if exists(parameter)}


def _merged(earlier: Shapes, later: Shapes) -> dict[str, list[int | None]]:
    """Merge shapes size by size: a size that is ``None`` in the later edits keeps its earlier value."""
    return {
        **earlier,
        **{
            path: [was if now is None else now for now, was in zip(shape, earlier.get(path, shape), strict=True)]
            for path, shape in later.items()
        },
    }
