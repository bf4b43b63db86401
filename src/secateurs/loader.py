"""Teaches stock transformers to read and write pruned checkpoints, and models of our own, without a flag: ``import
secateurs`` installs this.

``PreTrainedModel.post_init`` (the end of every model's constructor) then applies the edits of a ``secateurs`` block in
the config, and ``save_pretrained`` puts the travelling loader beside the weights, whoever calls it. Models without a
block are untouched. The Auto classes learn of adaptive language models. transformers' modelling code is not imported for
this: what is not there yet is waited for.
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


def install() -> None:
    """Wrap ``PreTrainedModel`` and tell the Auto classes now, or as soon as they are imported. Doing it twice changes
    nothing."""
    if any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Waiting())  # first: what is done below may import more of these modules
    for name, (needed, _, late) in _ACTIONS.items():
        if hasattr(module := sys.modules.get(name), needed):
            late(module)


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
        widths = any(name.startswith("embeddings.") for name in groups)
        structure = discover(model, hidden="hidden" in groups, embeddings=widths)
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


def _wrap(module: Any) -> None:
    base = module.PreTrainedModel
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
        from secateurs.remote_code import add_code, needs_code

        result = save_pretrained(self, save_directory, is_main_process, *args, **kwargs)
        if is_main_process and needs_code(self.config) and (Path(save_directory) / "config.json").is_file():
            add_code(Path(save_directory), self)
        return result

    small_first.wrapped_by_secateurs = True  # type: ignore[attr-defined]
    base.post_init, base.save_pretrained = small_first, complete_after


def _know_config(module: Any) -> None:
    """A name in the table of configs, and a module where the table looks for it: ours, which is imported when used.

    Registering the class itself would import it here, in the midst of transformers' own imports, which go in circles.
    """
    from secateurs import adaptive_lm

    sys.modules.setdefault(f"transformers.models.{_TYPE.replace('-', '_')}", adaptive_lm)
    module.CONFIG_MAPPING_NAMES[_TYPE] = "AdaptiveLMConfig"


def _know_models(module: Any) -> None:
    """The same for models."""
    module.MODEL_MAPPING_NAMES[_TYPE] = "AdaptiveLMModel"
    module.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[_TYPE] = "AdaptiveLMForCausalLM"


def _register(module: Any) -> None:
    """Where the tables have been read already, nothing is in the midst of its import either."""
    from secateurs.adaptive_lm import AdaptiveLMConfig, AdaptiveLMForCausalLM, AdaptiveLMModel

    module.AutoModel.register(AdaptiveLMConfig, AdaptiveLMModel, exist_ok=True)
    module.AutoModelForCausalLM.register(AdaptiveLMConfig, AdaptiveLMForCausalLM, exist_ok=True)


_TYPE = "secateurs-adaptive-lm"

_ACTIONS: dict[str, tuple[str, Callable[[Any], None], Callable[[Any], None]]] = {
    "transformers.modeling_utils": ("PreTrainedModel", _wrap, _wrap),
    "transformers.models.auto.configuration_auto": ("AutoConfig", _know_config, _know_config),
    "transformers.models.auto.modeling_auto": ("AutoModelForCausalLM", _know_models, _register),
}
"""Module -> what of it must be there, what is done right after it has run, and what if it had run before."""


class _Waiting(MetaPathFinder):
    """Acts right after a module has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _ACTIONS:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                run = spec.loader.exec_module

                def exec_module(module: types.ModuleType, run: Callable[..., None] = run) -> None:
                    run(module)
                    _ACTIONS[fullname][1](module)

                spec.loader.exec_module = exec_module  # type: ignore[method-assign]
                return spec
        return None
