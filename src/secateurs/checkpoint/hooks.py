"""Hooks that make transformers read and write pruned checkpoints and adaptive language models without a flag.

``import secateurs`` installs them:
    ``PreTrainedModel.post_init`` (the end of every model's constructor) applies the edits of a ``secateurs`` block in the
    config. A model without a block is not changed.
    ``PreTrainedModel.save_pretrained`` also saves the code that a pruned model or an adaptive language model needs.
    The Auto classes know the adaptive language models.

The modelling code of transformers is not imported for this. A hook whose module is not imported yet is installed right after
that module is imported.
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

__all__ = ["apply_block", "install"]


def install() -> None:
    """Install every hook now, or right after its module of transformers is imported. A second call changes nothing."""
    if any(isinstance(finder, _ImportHook) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _ImportHook())  # before the loop, which may import more of these modules
    for name, (needed, _, when_imported_before) in _ACTIONS.items():
        if hasattr(module := sys.modules.get(name), needed):
            when_imported_before(module)


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
    if not block.get("edits"):
        return
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


def _wrap(module: Any) -> None:
    """Wrap ``post_init`` and ``save_pretrained`` of ``PreTrainedModel``, unless they are wrapped already."""
    base = module.PreTrainedModel
    post_init, save_pretrained = base.post_init, base.save_pretrained
    if getattr(post_init, "wrapped_by_secateurs", False):
        return

    @functools.wraps(post_init)
    def post_init_with_edits(self: Any) -> None:
        """Apply the edits before transformers initialises weights, so that it initialises the pruned parameters."""
        import torch

        with torch.no_grad():
            apply_block(self)
        post_init(self)

    @functools.wraps(save_pretrained)
    def save_with_code(self: Any, save_directory: Any, is_main_process: bool = True, *args: Any, **kwargs: Any) -> Any:
        """Add the code to the saved folder, so that a checkpoint written by any tool can be loaded anywhere."""
        from secateurs.checkpoint.remote_code import add_code, needs_code

        result = save_pretrained(self, save_directory, is_main_process, *args, **kwargs)
        if is_main_process and needs_code(self.config) and (Path(save_directory) / "config.json").is_file():
            add_code(Path(save_directory), self)
        return result

    post_init_with_edits.wrapped_by_secateurs = True  # type: ignore[attr-defined]
    base.post_init, base.save_pretrained = post_init_with_edits, save_with_code


def _add_config_name(module: Any) -> None:
    """Add the config of adaptive language models to transformers' table of names, which is resolved on first use.

    The table looks for the class in ``transformers.models.<type>``, so ``secateurs.adaptive_lm`` is registered under that
    name. Registering the class itself would import it here, in the middle of the circular imports of transformers.
    """
    from secateurs import adaptive_lm

    sys.modules.setdefault(f"transformers.models.{_TYPE.replace('-', '_')}", adaptive_lm)
    module.CONFIG_MAPPING_NAMES[_TYPE] = "AdaptiveLMConfig"


def _add_model_names(module: Any) -> None:
    """Add the models to transformers' tables of names, in the same way."""
    module.MODEL_MAPPING_NAMES[_TYPE] = "AdaptiveLMModel"
    module.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[_TYPE] = "AdaptiveLMForCausalLM"


def _register_models(module: Any) -> None:
    """Register the model classes in the Auto classes, which have read their tables already.

    Importing the classes is safe here, because no import of transformers is in progress.
    """
    from secateurs.adaptive_lm import AdaptiveLMConfig, AdaptiveLMForCausalLM, AdaptiveLMModel

    module.AutoModel.register(AdaptiveLMConfig, AdaptiveLMModel, exist_ok=True)
    module.AutoModelForCausalLM.register(AdaptiveLMConfig, AdaptiveLMForCausalLM, exist_ok=True)


_TYPE = "secateurs-adaptive-lm"

_ACTIONS: dict[str, tuple[str, Callable[[Any], None], Callable[[Any], None]]] = {
    "transformers.modeling_utils": ("PreTrainedModel", _wrap, _wrap),
    "transformers.models.auto.configuration_auto": ("AutoConfig", _add_config_name, _add_config_name),
    "transformers.models.auto.modeling_auto": ("AutoModelForCausalLM", _add_model_names, _register_models),
}
"""Name of a module -> (an attribute that it has once it is imported completely, what to do right after its import, what to do
if it was imported before the hooks were installed)."""


class _ImportHook(MetaPathFinder):
    """Runs the action of a module in ``_ACTIONS`` right after its import."""

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
