"""Hooks that make transformers read and write pruned checkpoints and adaptive language models without a flag.

``import secateurs`` installs them, ``secateurs.uninstall()`` removes them; ``docs/hooks.md`` describes them for users:
    ``PreTrainedModel.post_init`` (the end of every model's constructor) applies the edits of a ``secateurs`` block in the
    config.
    ``PreTrainedModel.save_pretrained`` also saves the code that a pruned model or an adaptive language model needs.
    The Auto classes know the adaptive language models.

A model without a block is not changed, and no error in a hook reaches it: a hook that cannot be installed is reported in the
log. The modelling code of transformers is not imported for the hooks. A hook whose module is not imported yet is installed
right after that module is imported (``secateurs.checkpoint.after_import``).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

from secateurs.checkpoint.after_import import AfterImport, attempt
from secateurs.checkpoint.apply_block import apply_block, can_be_fused, has_edits
from secateurs.checkpoint.transformers_version import check_version

__all__ = ["install", "installed", "is_installed", "suspended", "uninstall"]

_SUSPENDED: ContextVar[bool] = ContextVar("suspended", default=False)


def install() -> None:
    """Install every hook now, or right after its module of transformers is imported. A second call changes nothing.

    Raises:
        SecateursError: another version of transformers is installed; nothing was changed.
    """
    if is_installed():
        return
    check_version()
    # The finder comes first, because a hook may import more of these modules.
    sys.meta_path.insert(0, AfterImport({name: hook.after_import for name, hook in _HOOKS.items()}))
    for name, hook in _HOOKS.items():
        if hasattr(module := sys.modules.get(name), hook.needed):
            attempt(hook.when_imported_before, module)


def uninstall() -> None:
    """Remove every hook: transformers is as it was before ``import secateurs``, and refuses pruned folders.

    Models in memory stay as they are. ``secateurs.save``, ``secateurs.load`` and ``secateurs.run`` still work.
    """
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, AfterImport)]
    for name, hook in _HOOKS.items():
        if hasattr(module := sys.modules.get(name), hook.needed):
            attempt(hook.undo, module)


def is_installed() -> bool:
    """Whether the hooks are installed."""
    return any(isinstance(finder, AfterImport) for finder in sys.meta_path)


@contextmanager
def installed() -> Iterator[None]:
    """Have the hooks installed inside, and as before afterwards.

    Raises:
        SecateursError: the installed version of transformers does not fit.
    """
    removed = not is_installed()
    install()
    try:
        yield
    finally:
        if removed:
            uninstall()


@contextmanager
def suspended() -> Iterator[None]:
    """Keep the hooks from acting inside, for code that does their work itself."""
    token = _SUSPENDED.set(True)
    try:
        yield
    finally:
        _SUSPENDED.reset(token)


def _active() -> bool:
    """Whether the wrappers act. Another library may have wrapped one, which then outlives ``uninstall`` and does nothing."""
    return is_installed() and not _SUSPENDED.get()


def _with_edits(post_init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(post_init)
    def post_init_with_edits(self: Any) -> None:
        """Apply the edits before transformers initialises weights, so that it initialises the pruned parameters."""
        if has_edits(self) and _active():
            import torch

            with torch.no_grad():
                apply_block(self)
        post_init(self)

    return post_init_with_edits


def _with_code(save_pretrained: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(save_pretrained)
    def save_with_code(self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Add the code to the saved folder, so that a checkpoint written by any tool can be loaded anywhere."""
        if has_edits(self) and not can_be_fused(self):
            kwargs.setdefault("save_original_format", False)
        result = save_pretrained(self, save_directory, *args, **kwargs)
        is_main_process = args[0] if args else kwargs.get("is_main_process", True)
        if is_main_process and (has_edits(self) or _is_adaptive_lm(self)) and _active():
            from secateurs.checkpoint.remote_code import add_code

            if (Path(save_directory) / "config.json").is_file():
                add_code(Path(save_directory), self)
        return result

    return save_with_code


_WRAPPERS = {"post_init": _with_edits, "save_pretrained": _with_code}
_MADE: dict[Any, Any] = {}
"""Every wrapper that was made -> the function that it wraps."""


def _wrap(module: Any) -> None:
    """Wrap two methods of ``PreTrainedModel``, unless they are wrapped already."""
    base = module.PreTrainedModel
    for name, wrapper in _WRAPPERS.items():
        original = getattr(base, name)
        if original not in _MADE:
            wrapped = wrapper(original)
            _MADE[wrapped] = original
            setattr(base, name, wrapped)


def _unwrap(module: Any) -> None:
    """Undo ``_wrap``, except where another library has wrapped our wrapper."""
    base = module.PreTrainedModel
    for name in _WRAPPERS:
        if (wrapped := getattr(base, name)) in _MADE:
            setattr(base, name, _MADE.pop(wrapped))


def _is_adaptive_lm(model: Any) -> bool:
    return str(type(getattr(model, "config", None)).__module__).startswith("secateurs.adaptive_lm.")


_TYPE = "secateurs-adaptive-lm"
_MODULE = "secateurs_adaptive_lm"


def _add_config_name(module: Any) -> None:
    """Add the config of adaptive language models to transformers' table of names, which is resolved on first use.

    The table looks for the class in ``transformers.models.<type>``, so ``secateurs.adaptive_lm`` is registered under that
    name. Registering the class itself would import it here, in the middle of the circular imports of transformers.
    """
    from secateurs import adaptive_lm

    sys.modules.setdefault(f"transformers.models.{_MODULE}", adaptive_lm)
    module.CONFIG_MAPPING_NAMES[_TYPE] = "AdaptiveLMConfig"


def _remove_config_name(module: Any) -> None:
    """Undo ``_add_config_name``."""
    sys.modules.pop(f"transformers.models.{_MODULE}", None)
    module.CONFIG_MAPPING_NAMES.pop(_TYPE, None)
    module.CONFIG_MAPPING._modules.pop(_MODULE, None)


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


def _remove_model_names(module: Any) -> None:
    """Undo ``_add_model_names`` and ``_register_models``."""
    for names, auto in (
        (module.MODEL_MAPPING_NAMES, module.AutoModel),
        (module.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, module.AutoModelForCausalLM),
    ):
        names.pop(_TYPE, None)
        auto._model_mapping._modules.pop(_MODULE, None)
        registered = auto._model_mapping._extra_content
        for config in [config for config in registered if getattr(config, "model_type", None) == _TYPE]:
            del registered[config]


class _Hook(NamedTuple):
    """What is done to one module of transformers."""

    needed: str
    """An attribute that the module has once it is imported completely."""
    after_import: Callable[[Any], None]
    """Called right after the import of the module."""
    when_imported_before: Callable[[Any], None]
    """Called if the module was imported before the hooks were installed."""
    undo: Callable[[Any], None]


_HOOKS = {
    "transformers.modeling_utils": _Hook("PreTrainedModel", _wrap, _wrap, _unwrap),
    "transformers.models.auto.configuration_auto": _Hook(
        "AutoConfig", _add_config_name, _add_config_name, _remove_config_name
    ),
    "transformers.models.auto.modeling_auto": _Hook(
        "AutoModelForCausalLM", _add_model_names, _register_models, _remove_model_names
    ),
}
"""Name of a module -> what is done to it."""
