"""Makes a new model as small as the ``secateurs`` block in its config says."""

from __future__ import annotations

from typing import Any

__all__ = ["apply_block", "has_edits"]


def has_edits(model: Any) -> bool:
    """Whether the config of a model has a ``secateurs`` block with edits.

    It is asked of every model that transformers builds or saves. Therefore it never raises, and a field of another library
    with the same name is no block.
    """
    try:
        edits = model.config.secateurs["edits"]
        return isinstance(edits, dict) and bool(edits)
    except Exception:
        return False


def apply_block(model: Any) -> None:
    """Make a new model as small as the ``secateurs`` block in its config says; without a block do nothing.

    The base model is built and cut first, then the head on it. The edits name module paths of one version of transformers.
    If the installed version has other paths, new edits are derived from the kept counts of the groups.

    Args:
        model: a model at the end of its constructor, possibly on the meta device.

    Raises:
        ValueError: neither the edits nor the kept counts fit this model.
    """
    from secateurs.modeling.modeling_pruned import BLOCK, apply_edits, apply_head_edits, base_of
    from secateurs.modeling.pruned_modules import reset_emptied

    block = getattr(model.config, BLOCK, None) or {}
    if not block.get("edits") or type(model).__name__ in block["edits"].get("parts", ()):
        return  # a stack is cut as a part of its model
    if base_of(model) is not model:  # the base model was built and cut before
        apply_head_edits(model, block["edits"])
        return
    try:
        apply_edits(model, block["edits"])
    except ValueError:
        if not _rederive(model, block):
            raise
    reset_emptied(model)


def _rederive(model: Any, block: dict[str, Any]) -> bool:
    """Shrink a new model by the kept counts in its block, and replace the edits in the block.

    The counts are enough: shapes do not depend on which units were kept.

    Returns:
        Whether the groups in the block are those of this model; if not, nothing is changed.
    """
    import torch

    from secateurs.errors import UnsupportedModelError
    from secateurs.modeling.modeling_pruned import BLOCK
    from secateurs.structure.families import discover
    from secateurs.structure.mask import Mask
    from secateurs.surgery.shrink import shrink

    groups = block.get("groups", {})
    try:
        widths = any(name.startswith("embeddings.") for name in groups)
        structure = discover(model, hidden="hidden" in groups, embeddings=widths)
    except UnsupportedModelError:
        return False
    if structure.sizes != {name: group["size"] for name, group in groups.items()}:
        return False
    setattr(model.config, BLOCK, None)  # drop the old paths
    with torch.device("cpu"):  # the model may be on the meta device, but its mask may not
        kept = {name: torch.arange(group["size"]) < group["kept"] for name, group in groups.items()}
        shrink(model, structure, Mask(kept))
    edits = getattr(model.config, BLOCK)["edits"]
    for key in {"heads", "optional"} & block["edits"].keys():  # those of the checkpoint: this model has no head
        edits[key] = block["edits"][key]
    setattr(model.config, BLOCK, {**block, "edits": edits})
    return True
