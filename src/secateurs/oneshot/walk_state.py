"""``WalkState``: one calibration batch on its way through the dense and the pruned model; and the hooks that observe it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from secateurs.numerics.precision import autocast_if_fast
from secateurs.oneshot.calibrate import token_mask
from secateurs.oneshot.dense_record import DenseRecord, Place
from secateurs.oneshot.kept_inputs import KeptInput
from secateurs.oneshot.no_cache import no_cache
from secateurs.oneshot.shared_arguments import SharedArguments
from secateurs.oneshot.short_circuit import short_circuit
from secateurs.structure.layers import layer_paths, stacks
from secateurs.structure.structure import Structure
from secateurs.tasks.base import Batch, model_inputs

__all__ = ["FirstStates", "WalkState", "add_use", "hooked", "keep_input", "observe", "run_model"]

logger = logging.getLogger(__name__)

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class WalkState:
    """One batch in front of the current layer, in both models.

    Only the arguments of the other layers' calls are kept, so that many texts fit into memory at once: the fit improves
    with the number of texts.

    Attributes:
        inputs: inputs of the model.
        tokens: tokens that count, by ``Group.tokens``; empty = all.
        calls: arguments of every use of every layer besides the hidden states, in the dense model. A layer that is used
            several times in a row has several calls.
        pruned_calls: the same in the pruned model, for the stack of the current layer. The layers of a decoder are given
            the output of the encoder, which is another one in the pruned model.
        entries: hidden states in front of the first use of the first layer of every stack, in the dense model.
        recorded: what calibration saw of the dense model (``DenseRecord``), by place; empty = it is run again.
        dense: hidden states of the dense model.
        pruned: hidden states of the pruned model.
        reads: inputs of the input projections of this layer in the dense model, by the path of the first projection
            with this input; and the input of the head. Those of several uses follow one another along the first axis.
        streams: dense residual stream right after a group, by group of this layer; likewise.
        weights: weights of the tokens, by group; empty = all alike.
        inputs_of: what the output projections of blocks of this layer read in the pruned model, by path of the block.
        solved: outputs of blocks of this layer in the pruned model, by path, that nothing changes any more.
    """

    inputs: Batch
    tokens: dict[str, Bool[Tensor, "batch tokens"]] = field(default_factory=dict)
    calls: dict[str, list[Call]] = field(default_factory=dict)
    pruned_calls: dict[str, list[Call]] = field(default_factory=dict)
    entries: dict[str, Tensor] = field(default_factory=dict)
    recorded: Mapping[Place, Tensor] = field(default_factory=dict)
    dense: Any = None
    pruned: Any = None
    reads: dict[str, Tensor] = field(default_factory=dict)
    streams: dict[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    inputs_of: dict[str, KeptInput] = field(default_factory=dict)
    solved: dict[str, Any] = field(default_factory=dict)


class FirstStates:
    """Makes the states of all batches in front of the first layer. Every walk starts there, so they are remembered.

    The arguments of the layers are known without running the layers in most models: they are masks and positions. The
    first batch tells: it is run once as a whole, and once with all layers skipped.

    Args:
        padding: count PAD tokens too.
        memory_bytes: memory for the hidden states of all batches; one batch is always kept.
        record: what is known of the dense model behind the first layer; ``None`` = nothing.

    Attributes:
        skippable: whether the layers were skipped: the other arguments of the layers do not depend on what layers compute,
            and a layer returns its hidden states and nothing else, alone or in a tuple.
        rests: what every layer returns beside the hidden states: no tuple (``None``), or the rest of a tuple. It is empty
            or all ``None`` where layers are skippable.
    """

    def __init__(self, *, padding: bool = False, memory_bytes: float = 3e9, record: DenseRecord | None = None) -> None:
        self.padding, self.memory_bytes, self.record = padding, memory_bytes, record
        self._known: list[WalkState] = []
        self._batches: Sequence[Batch] = ()
        self.skippable = False
        self.rests: list[tuple[Any, ...] | None] = []

    def __call__(
        self,
        model: nn.Module,
        structure: Structure,
        batches: Sequence[Batch],
        head: str | None,
        device: torch.device | str,
    ) -> list[WalkState]:
        """The batches that fit into memory, in front of the first layer.

        Args:
            model: the model with its dense weights, on ``device``.
            structure: names the layers.
            batches: calibration batches (CPU tensors): always the same ones, or the first ones of them.
            head: path of a module whose input is kept too, or ``None``; always the same.
            device: device of the model.
        """
        known = self._batches[: len(batches)]
        if len(known) < len(batches) or any(one is not other for one, other in zip(known, batches, strict=True)):
            self._known, self._batches = self._make(model, structure, batches, head, device), batches
        return [
            replace(
                state,
                recorded=self.record.of(batch) if self.record else {},
                reads=dict(state.reads),
                streams={},
                inputs_of={},
                solved={},
                dense=None,
                pruned=None,
            )
            for state, batch in zip(self._known, batches, strict=False)  # the batches that fit into memory
        ]

    def skipped(
        self, model: nn.Module, layers: Sequence[str], last: Tensor | None = None
    ) -> AbstractContextManager[None]:
        """Within the context the layers are not run. The last one returns ``last``."""
        given = {} if last is None else {len(layers) - 1: last}
        return short_circuit([model.get_submodule(path) for path in layers], given, self.rests)

    def _make(
        self,
        model: nn.Module,
        structure: Structure,
        batches: Sequence[Batch],
        head: str | None,
        device: torch.device | str,
    ) -> list[WalkState]:
        layers = layer_paths(model, structure)
        starts = [stack[0] for stack in stacks(model, structure)]
        most = max(len(structure.layers.get(path, ())) for path in layers)
        states: list[WalkState] = []
        used, self.skippable = 0, False
        shared = SharedArguments()
        for batch in batches:
            state = WalkState({name: value.to(device) for name, value in model_inputs(batch).items()})
            if not self.padding:
                masks = {group.tokens for group in structure} | {"attention_mask"}
                found = {name: token_mask(state.inputs, name) for name in masks if name in state.inputs}
                state.tokens = {name: mask for name, mask in found.items() if mask is not None}
            if self.skippable:
                with self.skipped(model, layers):
                    state.calls, state.entries = observe(model, layers, starts, state)
            else:
                rests: dict[str, tuple[Any, ...] | None] = {}
                hooks = [model.get_submodule(path).register_forward_hook(_keep_rest(rests, path)) for path in layers]
                with hooked(*hooks):
                    state.calls, state.entries = observe(model, layers, starts, state, head)
                if not states and len(starts) == 1:
                    self.rests = [rests[path] for path in layers]
                    nothing = all(value is None for rest in self.rests for value in rest or ())
                    with self.skipped(model, layers):
                        self.skippable = nothing and _same(observe(model, layers, starts, state)[0], state.calls)
            before = shared.nbytes
            state.calls = state.pruned_calls = shared(state.calls)
            used += shared.nbytes - before
            longest = max(entry.nbytes for entry in state.entries.values())
            uses = max(len(calls) for calls in state.calls.values())
            used += longest * (1 + most + 2 * most * uses) + sum(read.nbytes for read in state.reads.values())
            used += 2 * longest * (len(starts) - 1)  # the outputs of the encoder in both models
            if states and used > self.memory_bytes:
                logger.info("fit to the pruned model: %d of %d batches fit into memory", len(states), len(batches))
                break
            states.append(state)
        return states


def _keep_rest(rests: dict[str, tuple[Any, ...] | None], path: str) -> Callable[..., None]:
    """A forward hook that keeps what a layer returns beside the hidden states."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        rests[path] = output[1:] if isinstance(output, tuple) else None

    return hook


def _same(one: Any, other: Any) -> bool:
    """Whether two nests of tensors and other arguments are equal to the last bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(torch.equal(one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        mine, theirs = cast(Mapping[Any, Any], one), cast(Mapping[Any, Any], other)
        return mine.keys() == theirs.keys() and all(_same(mine[key], theirs[key]) for key in mine)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        ours, others = cast(Sequence[Any], one), cast(Sequence[Any], other)
        return len(ours) == len(others) and all(map(_same, ours, others))
    return type(one) is type(other) and bool(one == other)


def observe(
    model: nn.Module, layers: Sequence[str], starts: Sequence[str], state: WalkState, head: str | None = None
) -> tuple[dict[str, list[Call]], dict[str, Tensor]]:
    """One forward pass of the model as it is now.

    Args:
        model: the model.
        layers: paths of the layers to observe.
        starts: paths of the layers whose hidden states are kept.
        state: holds the inputs; the input of the head is added to its ``reads``.
        head: path of a module whose input is kept too, or ``None``.

    Returns:
        The arguments of every use of every layer besides the hidden states; and the hidden states in front of the first
        use of ``starts``.
    """
    calls: dict[str, list[Call]] = {}
    entries: dict[str, Tensor] = {}

    def keep_call(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if path in starts and path not in entries:
                entries[path] = args[0] if args else kwargs["hidden_states"]
            rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            calls.setdefault(path, []).append((args[1:], rest))

        return hook

    handles: list[Any] = [
        model.get_submodule(path).register_forward_pre_hook(keep_call(path), with_kwargs=True) for path in layers
    ]
    if head:
        handles.append(model.get_submodule(head).register_forward_pre_hook(keep_input(state.reads, head)))
    with hooked(*handles):
        run_model(model, state.inputs)
    if head:  # a pooled vector is often a view of all tokens, and would keep them in memory
        state.reads[head] = state.reads[head].clone()
    return calls, entries


def run_model(model: nn.Module, inputs: Batch) -> None:
    """One forward pass of the model as it is now, without a cache."""
    with torch.inference_mode(), autocast_if_fast(next(model.parameters()).device):
        model(**inputs, **no_cache(model))


def add_use(seen: dict[str, Tensor], name: str, value: Tensor) -> None:
    """Put a tensor of one more use of a module behind those of its earlier uses, along the first axis."""
    seen[name] = torch.cat([seen[name], value]) if name in seen else value


def keep_input(seen: dict[str, Tensor], name: str, *, last: int = 0) -> Callable[..., None]:
    """A forward pre-hook that adds the input of every use of a module under ``name``.

    Args:
        seen: the inputs.
        name: key of the inputs.
        last: number of the use at which the run ends; 0 = the run goes on.
    """
    uses = 0

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal uses
        uses += 1
        add_use(seen, name, args[0])
        if uses == last:
            raise _EndOfRun

    return hook


class _EndOfRun(Exception):
    """Ends a run early: its remaining modules are not needed."""


@contextmanager
def hooked(*handles: Any) -> Iterator[None]:
    """Runs with hooks that are removed at the end; one of them may end the run."""
    try:
        yield
    except _EndOfRun:
        pass
    finally:
        for handle in handles:
            handle.remove()
