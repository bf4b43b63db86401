"""Rebuilds a structurally pruned model from the ``secateurs`` block of its ``config.json``.

Secateurs loads models with this file, and it also saves the file beside the weights of every pruned model, with the classes
of that model appended. ``AutoModel....from_pretrained(folder, trust_remote_code=True)`` therefore works where Secateurs is
not installed. The file imports only torch, transformers and its neighbours ``pruned_modules.py``, ``per_head.py`` and
``own_config.py``, which are saved with it. It contains no modelling code: transformers' own class builds itself, and then
the named modules are made smaller.

The block holds ``edits``, with paths relative to the base model:
    ``shapes``      parameter -> its new shape (0 rows or columns where a sub-block is removed; null = not cut)
    ``attributes``  field of a module, or of its ``config`` -> its new value
    ``emptied``     paths of output projections without inputs: they output their bias for any input. This file finds them
                    and the input projections without outputs by their shapes
    ``factored``    linear module -> its rank: it is replaced by two small linear modules, ``first`` and ``second``
    ``inputs``      linear module -> number of inputs it uses: it is put into a ``SelectedLinear`` under the name ``linear``,
                    whose buffer ``selected`` holds their indices; with 0 inputs it is emptied
    ``selected``    the same in folders of an earlier version, where weight, bias and ``selected`` are in one module
    ``per_head``    attention whose arguments hold all heads of a shared tensor -> ``tensors``, the names and axes of those
                    arguments, and ``kept``, the indices of its heads; ``group`` is the name of its group
    ``skipped``     module that returns its input -> ``"tensor"``, or ``"tuple"`` where callers expect ``(tensor, None)``, or
                    ``"tuple with bias"`` where they expect ``(tensor, position bias, None)``, or ``"tuple with norm"`` where
                    the module holds the residual sum and the norm behind it
    ``parts``       class names of models inside the base model (the stacks of an encoder-decoder): they are not cut alone.
                    A model that lacks a stack ignores the edits of that stack
    ``optional``    ``shapes`` of modules of the base model that exist under some heads only (a pooler)
    ``heads``       only where the hidden size was cut: class name of a head -> the shapes of its parameters outside the
                    base model, with paths relative to the full model
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .own_config import field_owner, set_field
from .per_head import SkippedWithBias, keep_heads
from .pruned_modules import (
    Behaviour,
    Factored,
    SelectedLinear,
    SelectedMatrix,
    SkippedTensor,
    SkippedTuple,
    become,
    is_factored,
    is_selected,
    replace_linears,
    reset_emptied,
    sync_sizes,
)

BLOCK = "secateurs"
WITH_PATHS = ("factored", "shapes", "attributes", "emptied", "inputs", "per_head", "selected", "skipped")


class Repeated(Behaviour):
    """An emptied input projection. Every token has its own copy of the bias, as some attention blocks write into it."""

    def forward(self: Any, hidden_states, *args, **kwargs):
        return super().forward(hidden_states).contiguous()  # pyright: ignore[reportAttributeAccessIssue]


class SkippedWithNorm(SkippedTuple):
    """A removed attention that holds the residual sum and the norm behind it: ``(norm(input + bias), attention weights)``."""

    def forward(self: Any, hidden_states, *args, **kwargs):
        output, weights = super().forward(hidden_states)
        return self.LayerNorm(hidden_states + output), weights


SKIPPED = {
    "tensor": SkippedTensor,
    "tuple": SkippedTuple,
    "tuple with bias": SkippedWithBias,
    "tuple with norm": SkippedWithNorm,
}


def factor(root: nn.Module, path: str, rank: int) -> Any:
    """Replace one linear module by a pair of factors with the same bias; the values of the factors are still to be set."""
    parent, _, name = path.rpartition(".")
    old: Any = root.get_submodule(path)
    if is_factored(old):
        return old
    transposed = hasattr(old, "nf")
    outputs, inputs = reversed(old.weight.shape) if transposed else old.weight.shape
    where = {"device": old.weight.device, "dtype": old.weight.dtype}
    pair = Factored(inputs, outputs, rank, old.bias is not None, transposed, **where)
    if old.bias is not None:
        pair.second.bias = old.bias
    for part in (pair.first, pair.second):
        part.weight.requires_grad_(old.weight.requires_grad)
    setattr(root.get_submodule(parent), name, pair.train(old.training))
    return pair


def select(root: nn.Module, path: str, indices: torch.Tensor, form: type = SelectedLinear) -> None:
    """Let a linear module with cut columns use the inputs with these indices. A second call changes nothing."""
    parent, _, name = path.rpartition(".")
    linear = root.get_submodule(path)
    if not is_selected(linear):
        setattr(root.get_submodule(parent), name, form(linear, indices).train(linear.training))


def resize(module: nn.Module, name: str, shape) -> None:
    """Give one parameter a smaller shape (``None`` = size not cut) and update the size fields of its module."""
    old = module.get_parameter(name)
    shape = [was if size is None else size for size, was in zip(shape, old.shape, strict=True)]
    if tuple(old.shape) != tuple(shape):
        smaller = old.data[tuple(slice(size) for size in shape)].clone()
        setattr(module, name, nn.Parameter(smaller, requires_grad=old.requires_grad))
    sync_sizes(module)


def base_of(model: nn.Module) -> nn.Module:
    """The base model inside a model. Paths in ``edits`` are relative to it, so that one block serves every head."""
    return getattr(model, getattr(model, "base_model_prefix", "") or "", model)


def check_edits(root: nn.Module, edits: dict) -> None:
    """Raise a ValueError, before any change, if this version of transformers lacks a path or if a shape does not fit."""
    import transformers

    owners: dict = {}
    for path in (path for kind in WITH_PATHS for path in edits.get(kind, ())):
        parent, _, name = path.rpartition(".")
        try:
            if parent not in owners:
                owners[parent] = field_owner(root, path)
            getattr(owners[parent], name)
        except AttributeError as error:
            raise ValueError(
                f"{BLOCK}: this pruned checkpoint was written with transformers {edits.get('transformers')} and names "
                f"{path}, which transformers {transformers.__version__} does not have ({error}); use that version"
            ) from None
    for path, shape in edits["shapes"].items():
        parent, _, name = path.rpartition(".")
        old = tuple(owners[parent].get_parameter(name).shape)
        if len(old) != len(shape) or any(new is not None and new > size for new, size in zip(shape, old, strict=True)):
            raise ValueError(f"{BLOCK}: cannot cut the parameter {path} of shape {old} to {tuple(shape)}")


def of_present_stacks(root: nn.Module, edits: dict) -> dict:
    """The edits without those of a stack that this class of models lacks: the encoder of an encoder-decoder, used alone."""
    if not edits.get("parts"):
        return edits

    def kept(entries):
        chosen = [path for path in entries if hasattr(root, path.partition(".")[0])]
        return {path: entries[path] for path in chosen} if isinstance(entries, dict) else chosen

    return {**edits, **{kind: kept(edits[kind]) for kind in WITH_PATHS if kind in edits}}


def apply_edits(model: nn.Module, edits: dict) -> None:
    """Make a new model, possibly on the meta device, as small as its checkpoint. A second call changes nothing.

    Raises:
        ValueError: a path does not exist in this version of transformers, or a shape does not fit.
    """
    root = base_of(model)
    edits = of_present_stacks(root, edits)
    factored = edits.get("factored", {})
    check_edits(root, {"transformers": edits.get("transformers"), "factored": factored, "shapes": {}})
    for path, rank in factored.items():
        factor(root, path, rank)
    check_edits(root, edits)
    resize_all(root, edits["shapes"])
    present = dict(root.named_parameters())
    optional = {path: shape for path, shape in edits.get("optional", {}).items() if path in present}
    check_edits(root, {"shapes": optional})
    resize_all(root, optional)
    for path, value in edits["attributes"].items():
        set_field(root, path, value)
    replace_linears(root)
    for key, form in (("inputs", SelectedLinear), ("selected", SelectedMatrix)):
        for path, count in edits.get(key, {}).items():
            if count:
                select(root, path, torch.arange(count), form)
            else:
                become(root.get_submodule(path), Repeated)
    for path, entry in edits.get("per_head", {}).items():
        keep_heads(root.get_submodule(path), entry["tensors"], entry["kept"])
    for path, returns in edits["skipped"].items():
        become(root.get_submodule(path), SKIPPED[returns])
    apply_head_edits(model, edits)


def apply_head_edits(model: nn.Module, edits: dict) -> None:
    """Cut the task head too, if the hidden size was cut. Tied parameters must then be tied again by the caller.

    Raises:
        ValueError: the block has no shapes for a head of this class, or they do not fit.
    """
    heads = edits.get("heads")
    if heads is None or base_of(model) is model:
        return
    shapes = next((heads[cls.__name__] for cls in type(model).__mro__ if cls.__name__ in heads), None)
    if shapes is None:
        raise ValueError(
            f"{BLOCK}: the hidden size of this pruned checkpoint was cut, and how the head of {type(model).__name__} "
            f"uses it is not known; known are {', '.join(sorted(heads)) or 'none'}"
        )
    check_edits(model, {"transformers": edits.get("transformers"), "shapes": shapes})
    resize_all(model, shapes)


def resize_all(root: nn.Module, shapes: dict) -> None:
    """Give every parameter in ``shapes`` its smaller shape."""
    for path, shape in shapes.items():
        parent, _, name = path.rpartition(".")
        resize(root.get_submodule(parent), name, shape)


class Pruned:
    """Mixin for transformers' own model class: builds the full-size model, then applies the edits in its config."""

    def __init__(self: Any, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)  # pyright: ignore[reportCallIssue]: of the other base class
        if edits := (getattr(config, BLOCK, None) or {}).get("edits"):
            with torch.no_grad():
                apply_edits(self, edits)
                reset_emptied(self)
            if "heads" in edits:
                self.tie_weights()  # pyright: ignore[reportAttributeAccessIssue]: of the other base class


def keep_key_names(model_type: str, *classes: type) -> None:
    """Let custom classes read and write weights under the names that transformers' own classes use on disk.

    transformers renames some tensors when it loads and saves, but for custom classes only if the renaming is registered.
    Without this call, a renamed tensor would silently keep its random initial values.
    """
    from transformers.conversion_mapping import (
        get_checkpoint_conversion_mapping,
        register_checkpoint_conversion_mapping,
    )

    for name in (model_type, *(cls.__name__ for cls in classes)):
        if (renamings := get_checkpoint_conversion_mapping(name)) is not None:
            register_checkpoint_conversion_mapping(name, renamings, overwrite=True)
