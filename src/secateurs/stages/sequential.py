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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from secateurs.arithmetic import fast
from secateurs.layers import layer_paths
from secateurs.numerics.regression import Sums
from secateurs.structure import Group, Structure
from secateurs.tasks import model_inputs
from secateurs.uncached import uncached

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
class _State:
    """One batch on its way through both models, in front of the layer at hand.

    Nothing is kept of the layers behind or ahead but how they are called: so many texts fit into memory at once, and the
    more texts, the better the fit.

    Attributes:
        inputs: of the model.
        tokens: those that count; ``None`` = all.
        calls: what every layer is called with besides the hidden states.
        dense: the dense model's hidden states.
        pruned: the pruned model's.
        reads: what the feeders of a group read in the dense model, of the groups of this layer; and what the head reads.
        streams: the dense stream right behind a group, of the groups of this layer.
        weights: how much the tokens count, by group; empty = all alike.
    """

    inputs: Batch
    tokens: Bool[Tensor, "batch tokens"] | None = None
    calls: dict[str, Call] = field(default_factory=dict)
    dense: Any = None
    pruned: Any = None
    reads: dict[str, Tensor] = field(default_factory=dict)
    streams: dict[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)


def in_order(
    stitch: Stitchable,
    batches: Sequence[Batch],
    solve: Callable[[Group, Sums], Any],
    correct: Callable[[Sequence[str], Sums], Mapping[str, Tensor]] | None = None,
    *,
    head: str | None = None,
    weigh: Callable[[Batch], Mapping[str, Tensor]] | None = None,
    device: torch.device | str = "cpu",
    padding: bool = False,
    memory_bytes: float = 3e9,
    track: Callable[..., Iterable[Any]] = lambda items, title, total=None: items,
) -> dict[str, Any]:
    """Visit the groups first layer first, each on what the groups before it, already solved, produce.

    Args:
        stitch: the live model.
        batches: calibration batches.
        solve: ``(group, sums of the projection) -> level`` (``secateurs.stages.levels.Level``) to install.
        correct: ``(paths of feeders, their sums) -> parameters``: new ones by name, at full size, which stand while the
            projection is observed. The level that ``solve`` returns holds them too.
        head: path of a module behind the last layer, corrected at the end.
        weigh: how much the tokens of a batch count for what a projection should put out, by group
            (``secateurs.stages.importance``); ``None`` = all alike.
        device: where the model computes.
        padding: let PAD tokens count.
        memory_bytes: what the hidden states of all batches may take; the first batches that fit are used.
        track: shows progress.

    Returns:
        Group name -> the level that is now installed.
    """
    model, structure = stitch.model, stitch.structure
    stitch.reset_all()
    layers = layer_paths(model, structure)
    states = _enter(model, structure, batches, head, device, padding, memory_bytes)
    for state, batch in zip(states, batches, strict=False):  # those that fit into memory
        if weigh is not None:
            state.weights = weigh({name: value.to(device) for name, value in batch.items()})

    def gather(look: Callable[[_State], tuple[Tensor, Tensor]], weighed: str | None = None) -> Sums:
        sums = Sums()
        for state in states:
            x, t = look(state)
            weights = None if weighed is None else state.weights.get(weighed)
            sums.add(x, t, state.tokens if x.ndim == 3 else None, weights)  # a pooled vector is no token
        sums.flush()
        return sums

    solved: dict[str, Any] = {}
    for path in track(layers, "fit to the pruned model"):
        groups = structure.layers.get(path, ())
        for state in states:
            # Nothing in this layer has been changed yet.
            _pass_dense(model, path, groups, state, feeders=correct is not None)
        for group in groups:
            run = partial(_pruned_layer, model, path)
            if correct is not None:
                # Tokens alike: what a feeder makes of one token is read by others.
                drift = gather(partial(_drift, model, run, group.feeders[0], group.name))
                stitch.reset(group.name, correct(group.feeders, drift))
            # A whole group drifts too: its inputs come from pruned layers.
            sums = gather(partial(_regression, model, run, group, path), weighed=group.name)
            level = solved[group.name] = solve(group, sums)
            stitch.install(group.name, level.units, level.weight, level.bias, level.feeders)
        for state in states:
            state.pruned = _pruned_layer(model, path, state)
    if correct is not None and head is not None:
        drift = gather(partial(_drift, model, lambda state: _whole(model, state.inputs), head, head))
        stitch.replace(correct((head,), drift))
    return solved


def _enter(
    model: nn.Module,
    structure: Structure,
    batches: Sequence[Batch],
    head: str | None,
    device: torch.device | str,
    padding: bool,
    memory_bytes: float,
) -> list[_State]:
    """The batches that fit into memory, in front of the first layer."""
    layers = layer_paths(model, structure)
    most = max(len(structure.layers.get(path, ())) for path in layers)
    states: list[_State] = []
    used = 0
    for batch in batches:
        state = _State({name: value.to(device) for name, value in model_inputs(batch).items()})
        if "attention_mask" in state.inputs and not padding:
            state.tokens = state.inputs["attention_mask"].bool()
        _observe(model, layers, state, head)
        used += state.dense.nbytes * (2 + 2 * most) + sum(read.nbytes for read in state.reads.values())
        if states and used > memory_bytes:
            logger.info("fit to the pruned model: %d of %d batches fit into memory", len(states), len(batches))
            break
        states.append(state)
    return states


def _observe(model: nn.Module, layers: Sequence[str], state: _State, head: str | None) -> None:
    """One dense forward pass: what enters the first layer, how all of them are called, and what the head reads."""

    def keep_call(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if state.dense is None:
                state.dense = state.pruned = args[0] if args else kwargs["hidden_states"]
            rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            state.calls[path] = (args[1:], rest)

        return hook

    handles: list[Any] = [
        model.get_submodule(path).register_forward_pre_hook(keep_call(path), with_kwargs=True) for path in layers
    ]
    if head:
        handles.append(model.get_submodule(head).register_forward_pre_hook(_into(state.reads, head)))
    with _hooked(*handles):
        _whole(model, state.inputs)
    if head:  # a pooled vector is often a view of all tokens, and would keep them
        state.reads[head] = state.reads[head].clone()


def _pass_dense(model: nn.Module, path: str, groups: Sequence[Group], state: _State, *, feeders: bool) -> None:
    """Take the dense hidden states through a layer that is still whole, and note what its groups will be fitted to."""

    def watch(at: str, into: dict[str, Tensor], name: str) -> Any:
        return model.get_submodule(at).register_forward_pre_hook(_into(into, name))

    handles = [watch(group.feeders[0], state.reads, group.name) for group in groups if feeders]
    handles += [watch(group.stream, state.streams, group.name) for group in groups if _inside(group, path)]
    with _hooked(*handles):
        state.dense = _layer(model, path, state.dense, state)
    # A pre-LN layer ends where the next norm reads: its output is the stream.
    state.streams.update({group.name: state.dense for group in groups if not _inside(group, path)})


def _into(seen: dict[str, Tensor], name: str, *, last: bool = False) -> Callable[..., None]:
    """A hook that keeps what a module reads; the ``last`` thing that a run is for."""

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen[name] = args[0]
        if last:
            raise _Seen

    return hook


def _inside(group: Group, layer: str) -> bool:
    """Whether the stream behind a group is read in its own layer."""
    return group.stream.startswith(f"{layer}.")


def _drift(
    model: nn.Module, run: Callable[[_State], Any], path: str, name: str, state: _State
) -> tuple[Tensor, Tensor]:
    """What the module at ``path`` reads, here and in the dense model."""
    seen: dict[str, Tensor] = {}
    with _hooked(model.get_submodule(path).register_forward_pre_hook(_into(seen, name, last=True))):
        run(state)
    return seen[name], state.reads.pop(name)


def _regression(
    model: nn.Module, run: Callable[[_State], Any], group: Group, path: str, state: _State
) -> tuple[Tensor, Tensor]:
    """Input of the projection, and what it should put out: the dense stream less the residual."""
    seen: dict[str, Tensor] = {}

    def keep_reader(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        seen["input"], seen["output"] = args[0], output

    handles = [model.get_submodule(group.reader).register_forward_hook(keep_reader)]
    if _inside(group, path):
        handles.append(model.get_submodule(group.stream).register_forward_pre_hook(_into(seen, "stream", last=True)))
    with _hooked(*handles):
        seen["stream"] = run(state)
    return seen["input"], state.streams.pop(group.name) - (seen["stream"] - seen["output"])


class _Seen(Exception):
    """Ends the run of a layer early: what follows is not needed."""


@contextmanager
def _hooked(*handles: Any) -> Iterator[None]:
    """With these hooks, one of which may end the run."""
    try:
        yield
    except _Seen:
        pass
    finally:
        for handle in handles:
            handle.remove()


def _pruned_layer(model: nn.Module, path: str, state: _State) -> Tensor:
    """Run one layer, as it is now, on the pruned model's hidden states."""
    return _layer(model, path, state.pruned, state)


def _layer(model: nn.Module, path: str, entry: Tensor, state: _State) -> Tensor:
    """Run one layer alone on these hidden states."""
    args, kwargs = state.calls[path]
    layer = model.get_submodule(path)
    with torch.inference_mode(), fast(next(layer.parameters()).device):
        output = layer(entry, *args, **kwargs)
    return output if isinstance(output, Tensor) else output[0]


def _whole(model: nn.Module, inputs: Batch) -> None:
    """Run the model as it is now."""
    with torch.inference_mode(), fast(next(model.parameters()).device):
        model(**inputs, **uncached(model))
