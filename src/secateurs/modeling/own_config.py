"""Fields of a module that repeat its sizes, in the module itself or in a ``config`` of its own.

Some attention modules read the number of heads from the config, which all layers share. A pruned one gets an ``OwnConfig``.
The file imports only torch and ``pruned_modules.py``, and it is saved beside the weights of every pruned model.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .pruned_modules import is_a


class OwnConfig:
    """The config of one module: fields that are set here, and those of the shared config, which may change later."""

    def __init__(self, shared: Any):
        self.shared = shared

    def __getattr__(self, name: str) -> Any:
        if name == "shared" or name.startswith("__"):  # ``copy`` and ``pickle`` ask for these before there is any state
            raise AttributeError(name)
        return getattr(self.shared, name)


def field_owner(root: nn.Module, path: str) -> Any:
    """The object that holds the field at this path: a module, or the ``config`` of a module."""
    parent = path.rpartition(".")[0]
    owner, _, last = parent.rpartition(".")
    return root.get_submodule(owner).config if last == "config" else root.get_submodule(parent)


def set_field(root: nn.Module, path: str, value: Any) -> None:
    """Set a field of a module, or of its ``config``, which then becomes its own."""
    owner = field_owner(root, path)
    parent, _, name = path.rpartition(".")
    if parent.endswith(".config") and not is_a(OwnConfig, owner):
        module: Any = root.get_submodule(parent.removesuffix(".config"))
        owner = module.config = OwnConfig(owner)
    setattr(owner, name, value)
