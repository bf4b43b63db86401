"""``Traced``: a model or a part of one as a function of named tensors, which is what exporters trace.

The batch that a model is timed with may hold other things than tensors: ``use_cache``, or the captured calls of a layer. They
become constants. A whole model gets dynamic axes: the batch size, and the length of texts. A part keeps the shapes of its
calls, because it is only timed.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateurs.errors import SecateursError, UnsupportedModelError
from secateurs.surgery.shared_copy import shared_copy

__all__ = ["CapturedCalls", "Traced", "refuse_untraceable", "traced"]


class CapturedCalls(nn.Module):
    """A module that is run on the arguments of its calls in a forward pass of the model, one after the other.

    Args:
        module: layer, or one matrix of a layer.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, calls: Any) -> Any:
        return [self.module(*args, **kwargs) for args, kwargs in calls]


class _OfTensors(nn.Module):
    """``CapturedCalls`` as a function of tensors ``x0, x1 ...``; the other arguments of the calls are constants."""

    def __init__(self, module: nn.Module, leaves: list[Any], spec: Any, names: list[str | None]) -> None:
        super().__init__()
        self.module, self.leaves, self.spec, self.names = module, leaves, spec, names

    def forward(self, **tensors: Tensor) -> dict[str, Tensor]:
        leaves = [leaf if name is None else tensors[name] for leaf, name in zip(self.leaves, self.names, strict=True)]
        outputs = pytree.tree_leaves(self.module(**pytree.tree_unflatten(leaves, self.spec)))
        return {f"y{index}": tensor for index, tensor in enumerate(out for out in outputs if isinstance(out, Tensor))}


@dataclass(frozen=True)
class Traced:
    """A model that is ready to be traced.

    Args:
        module: copy of the model in float32, on the CPU, in evaluation mode. It shares the memory of the original.
        inputs: input name -> example tensor, with at least two rows and two tokens where an axis is dynamic, since tracers
            take an axis of size 1 for a constant.
        flags: further arguments that are constants, such as ``use_cache``.
        axes: input name -> its dynamic axes; ``None`` = see ``dynamic``.
        feed: turns a batch into the tensors by input name.
        dynamic: whether shapes may vary. Without ``axes`` the exporter finds out which.
        calibration: batches on which an int8 file is calibrated; ``None`` for a file in float32.
    """

    module: Any
    inputs: dict[str, Any]
    flags: dict[str, Any]
    axes: dict[str, tuple[int, ...]] | None
    feed: Callable[[Mapping[str, Any]], dict[str, Tensor]]
    dynamic: bool = False
    calibration: tuple[Mapping[str, Tensor], ...] | None = None

    @property
    def dynamic_shapes(self) -> dict[str, Any] | None:
        """The dynamic axes in the form that ``torch.export`` takes. It refuses a model for which one is not dynamic."""
        if self.axes is None:
            return None
        return {name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name, axes in self.axes.items()}


def traced(model: nn.Module, example: Mapping[str, Any]) -> Traced:
    """Make a model ready to be traced.

    Args:
        model: transformers model, or ``CapturedCalls``; it stays unchanged.
        example: batch of the model.
    """
    module = shared_copy(model, "cpu", torch.float32).eval().requires_grad_(False)
    if isinstance(model, CapturedCalls):
        return _of_calls(module, example)
    tensors = {name: value for name, value in example.items() if isinstance(value, Tensor)}
    axes = {name: tuple(range(1 if value.is_floating_point() else 2)) for name, value in tensors.items()}
    inputs = {name: _at_least_two(value.cpu(), axes[name]) for name, value in tensors.items()}
    flags = {name: value for name, value in example.items() if name not in tensors}
    return Traced(module, inputs, flags, axes, lambda batch: {name: batch[name] for name in inputs}, dynamic=True)


def _at_least_two(tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The tensor, repeated along each axis of size 1."""
    repeats = [2 if axis in axes and size == 1 else 1 for axis, size in enumerate(tensor.shape)]
    return tensor.repeat(repeats)


def _of_calls(module: nn.Module, example: Mapping[str, Any]) -> Traced:
    """The captured calls; a tensor that several calls are given is one input."""
    leaves, spec = pytree.tree_flatten(dict(example))
    inputs: dict[str, Tensor] = {}
    known: dict[int, str] = {}
    names: list[str | None] = []
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            names.append(None)
            continue
        if id(leaf) not in known:
            known[id(leaf)] = f"x{len(known)}"
            inputs[known[id(leaf)]] = leaf.cpu().clone()
        names.append(known[id(leaf)])
    constants = [None if name else leaf for leaf, name in zip(leaves, names, strict=True)]

    def feed(batch: Mapping[str, Any]) -> dict[str, Tensor]:
        found = pytree.tree_leaves(dict(batch))
        return {name: leaf for leaf, name in zip(found, names, strict=True) if name is not None}

    return Traced(_OfTensors(module, constants, spec, names), inputs, {}, None, feed)


@contextmanager
def refuse_untraceable(runtime: str, module: nn.Module) -> Iterator[None]:
    """Inside the block, an exporter prints nothing, and every error of it becomes one line.

    Args:
        runtime: name of the runtime that the model is exported to.
        module: the model.

    Raises:
        UnsupportedModelError: the exporter failed.
    """
    reports = [logging.getLogger(name) for name in ("transformers", "torch", "onnxscript", "onnx_ir")]
    levels = [report.level for report in reports]
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # of exporters, about their own code and the versions they were tested with
            for report in reports:
                report.setLevel(logging.ERROR)
            yield
    except SecateursError:
        raise
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UnsupportedModelError(
            f"{type(module).__name__} cannot be exported to {runtime}: {reason[:300]}"
        ) from error
    finally:
        for report, level in zip(reports, levels, strict=True):
            report.setLevel(level)
