"""Teaches stock transformers to read and write pruned checkpoints, without a flag: ``import secateurs`` installs this.

``PreTrainedModel.post_init`` (the end of every model's constructor) then applies the edits of a ``secateurs`` block in
the config, and ``save_pretrained`` puts the travelling loader beside the weights, whoever calls it. Models without a
block are untouched. transformers' modelling code is not imported for this: if it is not there yet, the wrapping waits
for it.
"""

from __future__ import annotations

import functools
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

__all__ = ["install", "replay"]

_TARGET = "transformers.modeling_utils"


def install() -> None:
    """Wrap ``PreTrainedModel`` now, or as soon as it is imported. Doing it twice changes nothing."""
    base = getattr(sys.modules.get(_TARGET), "PreTrainedModel", None)
    if base is not None:
        _wrap(base)
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


def replay(model: Any) -> None:
    """Make a freshly built model as small as the block in its config says: base models, then the head on one.

    The edits name module paths of one version of transformers. Where today's version calls them otherwise, they are
    found again from the kept counts of every group.

    Raises:
        ValueError: neither fits this model.
    """
    from secateurs.modeling_pruned import BLOCK, apply_edits, apply_head_edits, base_of

    block = getattr(model.config, BLOCK, None) or {}
    if not block.get("edits"):
        return
    if base_of(model) is not model:  # its base model was built, and made small, before it
        apply_head_edits(model, block["edits"])
        return
    try:
        apply_edits(model, block["edits"])
    except ValueError:
        if not _rederive(model, block):
            raise


def _rederive(model: Any, block: dict[str, Any]) -> bool:
    """Shrink by kept counts; which units they were is a matter of the weights, not of the shapes."""
    import torch

    from secateurs.errors import UnsupportedModelError
    from secateurs.families import discover
    from secateurs.mask import Mask
    from secateurs.modeling_pruned import BLOCK
    from secateurs.shrink import shrink

    groups = block.get("groups", {})
    try:
        structure = discover(model, hidden="hidden" in groups)
    except UnsupportedModelError:
        return False
    if structure.sizes != {name: group["size"] for name, group in groups.items()}:
        return False
    setattr(model.config, BLOCK, None)  # forget the old paths
    with torch.device("cpu"):  # the model itself may be weightless, its mask may not
        kept = {name: torch.arange(group["size"]) < group["kept"] for name, group in groups.items()}
        shrink(model, structure, Mask(kept))
    edits = getattr(model.config, BLOCK)["edits"]
    for key in {"heads", "optional"} & block["edits"].keys():  # they are not of this model
        edits[key] = block["edits"][key]
    setattr(model.config, BLOCK, {**block, "edits": edits})
    return True


def _wrap(base: Any) -> None:
    post_init, save_pretrained = base.post_init, base.save_pretrained
    if getattr(post_init, "wrapped_by_secateurs", False):
        return

    @functools.wraps(post_init)
    def small_first(self: Any) -> None:
        """Edits come before the stock initialisation, which then draws the weights that are really there."""
        import torch

        with torch.no_grad():
            replay(self)
        post_init(self)

    @functools.wraps(save_pretrained)
    def complete_after(self: Any, save_directory: Any, is_main_process: bool = True, *args: Any, **kwargs: Any) -> Any:
        """What was written is completed by the travelling loader, so that any tool's checkpoint loads anywhere."""
        from secateurs.remote_code import add_loader, needs_loader

        result = save_pretrained(self, save_directory, is_main_process, *args, **kwargs)
        if is_main_process and needs_loader(self.config) and (Path(save_directory) / "config.json").is_file():
            add_loader(Path(save_directory), self)
        return result

    small_first.wrapped_by_secateurs = True  # type: ignore[attr-defined]
    base.post_init, base.save_pretrained = small_first, complete_after


class _Waiting(MetaPathFinder):
    """Wraps ``PreTrainedModel`` right after its module has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _TARGET:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                run = spec.loader.exec_module

                def exec_module(module: types.ModuleType, run: Callable[..., None] = run) -> None:
                    run(module)
                    _wrap(module.PreTrainedModel)

                spec.loader.exec_module = exec_module  # type: ignore[method-assign]
                return spec
        return None
