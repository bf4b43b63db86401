"""The groups one after the other, each on what the *pruned* groups before it produce, aimed at the dense stream.

The dense database fits every projection to dense inputs, as the paper does; in the pruned model the inputs have drifted.
``in_order`` stands every group at full size behind those already solved, and gathers two regressions of it:

- what its feeders read there against what they read in the dense model, so that they can be corrected for the drift;
- what its projection reads then against what it should add: ``s - r``, with ``s`` the dense model's residual stream right
  behind the sub-block and ``r`` the residual in the pruned model.

What to make of them is the caller's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from jaxtyping import Int
from torch import Tensor, nn

from secateurs.arithmetic import fast
from secateurs.layers import layer_paths
from secateurs.numerics.regression import Sums
from secateurs.structure import Group, Structure
from secateurs.tasks import model_inputs

__all__ = ["in_order"]

logger = logging.getLogger(__name__)

Batch = dict[str, Tensor]
Call = tuple[tuple[Any, ...], dict[str, Any]]


class Stitchable(Protocol):
    """The live model whose levels can be swapped (``secateurs.stages.stitch.Stitch``)."""

    model: nn.Module
    structure: Structure

    def install(
        self, name: str, units: Int[Tensor, " kept"], weight: Tensor, bias: Tensor | None, feeders: Mapping[str, Tensor]
    ) -> None: ...
    def reset(self, name: str, feeders: Mapping[str, Tensor]) -> None: ...
    def reset_all(self) -> None: ...
    def replace(self, parameters: Mapping[str, Tensor]) -> None: ...


@dataclass
class _Dense:
    """One batch in the dense model: what enters the first layer, what else every layer is called with, what the feeders of
    every group read, and the stream behind it."""

    entry: Tensor | None = None
    calls: dict[str, Call] = field(default_factory=dict)
    reads: dict[str, Tensor] = field(default_factory=dict)
    streams: dict[str, Tensor] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Memory of the hidden states."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (*self.reads.values(), *self.streams.values()))


def in_order(
    stitch: Stitchable,
    batches: Sequence[Batch],
    solve: Callable[[Group, Sums], Any],
    correct: Callable[[Sequence[str], Sums], Mapping[str, Tensor]] | None = None,
    *,
    head: str | None = None,
    device: torch.device | str = "cpu",
    padding: bool = False,
    memory_bytes: float = 3e9,
    track: Callable[..., Iterable[Any]] = lambda items, title, total=None: items,
    title: str = "fit to the pruned model",
) -> dict[str, Any]:
    """Visit the groups first layer first, each on what the groups before it, already solved, produce.

    Args:
        stitch: the live model.
        batches: calibration batches.
        solve: ``(group, sums of the projection) -> level`` (``secateurs.stages.levels.Level``) to install.
        correct: ``(paths of feeders, their sums) -> parameters``: new ones by name, at full size, which stand while the
            projection is observed. The level that ``solve`` returns holds them too.
        head: path of a module behind the last layer, corrected at the end.
        device: where the model computes.
        padding: let PAD tokens count.
        memory_bytes: what the dense hidden states may take; the first batches that fit are used.
        track: shows progress.
        title: of the progress.

    Returns:
        Group name -> the level that is now installed.
    """
    model, structure = stitch.model, stitch.structure
    stitch.reset_all()
    states: list[tuple[Batch, _Dense]] = []
    used = 0
    for batch in batches:
        inputs = {name: value.to(device) for name, value in model_inputs(batch).items()}
        dense = _observe(model, structure, inputs, head)
        used += dense.bytes
        if states and used > memory_bytes:
            logger.info("fit to the pruned model: %d of %d batches fit into memory", len(states), len(batches))
            break
        states.append((inputs, dense))
    entries = [dense.entry for _, dense in states]
    counted = [
        inputs["attention_mask"].bool() if "attention_mask" in inputs and not padding else None for inputs, _ in states
    ]

    def gather(look: Callable[[Any, _Dense], tuple[Tensor, Tensor]], starts: Sequence[Any]) -> Sums:
        sums = Sums()
        for start, (_, dense), tokens in zip(starts, states, counted, strict=True):
            x, t = look(start, dense)
            sums.add(x, t, tokens if x.ndim == 3 else None)  # a pooled vector is no token
        sums.flush()
        return sums

    solved: dict[str, Any] = {}
    for path in track(layer_paths(model, structure), title):
        layer = model.get_submodule(path)
        for group in structure.layers.get(path, ()):
            run = partial(_layer, layer, path)
            if correct is not None:
                drift = gather(partial(_drift, model, run, group.feeders[0], group.name), entries)
                stitch.reset(group.name, correct(group.feeders, drift))
            # A whole group drifts too: its inputs come from pruned layers.
            level = solved[group.name] = solve(group, gather(partial(_regression, model, run, group, path), entries))
            stitch.install(group.name, level.units, level.weight, level.bias, level.feeders)
        entries = [_layer(layer, path, entry, dense) for entry, (_, dense) in zip(entries, states, strict=True)]
    if correct is not None and head is not None:
        drift = gather(partial(_drift, model, partial(_whole, model), head, head), [inputs for inputs, _ in states])
        stitch.replace(correct((head,), drift))
    return solved


def _observe(model: nn.Module, structure: Structure, inputs: Batch, head: str | None) -> _Dense:
    """One dense forward pass."""
    seen = _Dense()

    def keep_call(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if seen.entry is None:
                seen.entry = args[0] if args else kwargs["hidden_states"]
            rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            seen.calls[path] = (args[1:], rest)

        return hook

    def keep(into: dict[str, Tensor], name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            into[name] = args[0]

        return hook

    def watch(path: str, into: dict[str, Tensor], name: str) -> Any:
        return model.get_submodule(path).register_forward_pre_hook(keep(into, name))

    handles = [
        *(
            model.get_submodule(path).register_forward_pre_hook(keep_call(path), with_kwargs=True)
            for path in layer_paths(model, structure)
        ),
        *(watch(group.feeders[0], seen.reads, group.name) for group in structure),
        *(watch(group.stream, seen.streams, group.name) for group in structure),
        *([watch(head, seen.reads, head)] if head else []),
    ]
    try:
        _whole(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _drift(
    model: nn.Module, run: Callable[[Any, _Dense], Any], path: str, name: str, start: Any, dense: _Dense
) -> tuple[Tensor, Tensor]:
    """What the module at ``path`` reads, here and in the dense model."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0])
        raise _Seen

    handle = model.get_submodule(path).register_forward_pre_hook(keep)
    try:
        run(start, dense)
    except _Seen:
        pass
    finally:
        handle.remove()
    return seen[0], dense.reads[name]


def _regression(
    model: nn.Module, run: Callable[[Any, _Dense], Any], group: Group, path: str, start: Any, dense: _Dense
) -> tuple[Tensor, Tensor]:
    """Input of the projection, and what it should put out: the dense stream less the residual."""
    seen: dict[str, Tensor] = {}

    def keep_reader(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        seen["input"], seen["output"] = args[0], output

    def keep_stream(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen["stream"] = args[0]
        raise _Seen

    reader = model.get_submodule(group.reader)
    inside = group.stream.startswith(f"{path}.")
    handles = [reader.register_forward_hook(keep_reader)]
    if inside:
        handles.append(model.get_submodule(group.stream).register_forward_pre_hook(keep_stream))
    try:
        # A pre-LN layer ends where the next norm reads: its output is the stream.
        seen["stream"] = run(start, dense)
    except _Seen:
        pass  # what follows in the layer is not needed
    finally:
        for handle in handles:
            handle.remove()
    return seen["input"], dense.streams[group.name] - (seen["stream"] - seen["output"])


class _Seen(Exception):
    """Ends the run of a layer early."""


def _layer(layer: nn.Module, path: str, entry: Tensor | None, dense: _Dense) -> Tensor:
    """Run one layer alone on other hidden states."""
    args, kwargs = dense.calls[path]
    with torch.inference_mode(), fast(next(layer.parameters()).device):
        output = layer(entry, *args, **kwargs)
    return output if isinstance(output, Tensor) else output[0]


def _whole(model: nn.Module, inputs: Batch, dense: _Dense | None = None) -> None:
    """Run the model as it is now."""
    with torch.inference_mode(), fast(next(model.parameters()).device):
        model(**inputs, **({"use_cache": False} if _caches(model) else {}))


def _caches(model: nn.Module) -> bool:
    """A key-value cache would remember tokens between the calls of one layer."""
    return bool(getattr(getattr(model, "config", None), "use_cache", False))
