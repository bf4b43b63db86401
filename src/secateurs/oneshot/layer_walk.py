"""``LayerWalk``: two models side by side, layer by layer: the dense one, and the one being pruned.

The level database fits every projection to dense inputs, as the paper does. In the pruned model the inputs have drifted.
The walk takes the hidden states of both models through the layers together, and gathers two regressions for a group at
full size behind the groups that are already pruned:

- ``input_drift``: the input of its input projections in the pruned model against that in the dense model;
- ``output_regression``: the input of its output projection in the pruned model against what the projection should output.
  With ``s`` the dense model's residual stream right after the sub-block and ``r`` the pruned model's residual, this is
  ``s - r``, or ``(s - r) / c`` where the output is multiplied by ``c``, a constant or a vector, before it is added. With a
  norm behind the projection it is the output that this norm maps as closely as it can to ``s - r``
  (``secateurs.oneshot.behind_norm``).

A decoder with an encoder in front of it is a second stack. Its layers are given the output of the encoder as an argument:
the dense output in the dense model, and the pruned encoder's output in the pruned model.

A layer may be used several times in a row (ALBERT). Its groups are solved once, and the regressions are sums over all uses:
every use has its own hidden states, and in the pruned model they come from the earlier uses with the groups solved so far.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateurs.numerics.precision import autocast_if_fast
from secateurs.numerics.regression import RegressionSums
from secateurs.oneshot.behind_norm import output_for
from secateurs.oneshot.short_circuit import remembered
from secateurs.oneshot.walk_state import FirstStates, WalkState, add_use, hooked, keep_input, observe, run_model
from secateurs.structure.layers import layer_paths, stacks
from secateurs.structure.structure import Group, Structure
from secateurs.tasks.base import Batch

__all__ = ["LayerWalk"]

logger = logging.getLogger(__name__)

Call = tuple[tuple[Any, ...], dict[str, Any]]


class LayerWalk:
    """Visits the layers first to last. Between ``enter`` and ``leave`` of a layer its groups are solved one by one.

    Args:
        model: the live model, with all its dense weights.
        structure: the groups.
        batches: calibration batches; those whose hidden states fit into memory are used, first ones first.
        head: path of a linear module after the last layer whose input drift is wanted at the end, or ``None``.
        input_drifts: whether ``input_drift`` will be asked for.
        token_weights: batch -> weights of its tokens by group (``secateurs.oneshot.token_weights``); ``None`` = all alike.
        device: device of the model.
        starts: makes the states in front of the first layer, and remembers them for the next walk; ``None`` = there is
            none.
    """

    def __init__(
        self,
        model: nn.Module,
        structure: Structure,
        batches: Sequence[Batch],
        *,
        head: str | None = None,
        input_drifts: bool = False,
        token_weights: Callable[[Batch], Mapping[str, Tensor]] | None = None,
        device: torch.device | str = "cpu",
        starts: FirstStates | None = None,
    ) -> None:
        self.model, self.structure, self.head = model, structure, head
        self.input_drifts = input_drifts
        self.layers = layer_paths(model, structure)
        self._stacks = {stack[0]: stack for stack in stacks(model, structure)}
        self.layer = ""
        self._solved: list[str] = []  # blocks of this layer whose groups are solved
        self._starts = starts or FirstStates()
        self._states = self._starts(model, structure, batches, head, device)
        for state, batch in zip(self._states, batches, strict=False):  # the batches that fit into memory
            if token_weights is not None:
                state.weights = token_weights({name: value.to(device) for name, value in batch.items()})

    def enter(self, layer: str) -> tuple[Group, ...]:
        """Take the dense hidden states through a layer whose weights are still dense.

        Returns:
            The groups of the layer, in data order.
        """
        self.layer = layer
        if layer in self._stacks:
            for state in self._states:
                self._enter_stack(layer, state)
        groups = self.structure.layers.get(layer, ())
        for state in self._states:
            self._dense_pass(groups, state)
        return groups

    def input_drift(self, group: Group, path: str) -> RegressionSums:
        """The input of an input projection in the pruned model against that in the dense model; tokens count alike.

        Args:
            group: a group of the layer.
            path: the first path of one of ``group.inputs``.
        """

        def look(state: WalkState) -> tuple[Tensor, Tensor]:
            read = self._read_by(path, lambda: self._pruned_layer(state), len(state.calls[self.layer]))
            return read, state.reads.pop(path)

        return _gather(self._states, look, group.tokens_of(path))

    def output_regression(self, group: Group) -> RegressionSums:
        """The input of the output projection in the pruned model against what the projection should add."""
        sums = _gather(self._states, lambda state: self._regression(group, state), group.tokens, group.name)
        self._solved.append(group.block)
        return sums

    def leave(self) -> None:
        """Take the pruned hidden states through the layer, whose groups are solved now."""
        for state in self._states:
            state.pruned = self._pruned_layer(state)[-1]
            state.solved.clear()
        self._solved.clear()

    def head_drift(self) -> RegressionSums:
        """The input of the head in the pruned model against that in the dense model."""
        assert self.head is not None
        path = self.head

        def look(state: WalkState) -> tuple[Tensor, Tensor]:
            if not self._starts.skippable:
                return self._read_by(path, lambda: run_model(self.model, state.inputs)), state.reads.pop(path)
            return self._read_behind(path, state, state.pruned), self._read_behind(path, state, state.dense)

        return _gather(self._states, look, self.structure.groups[-1].tokens)

    def _read_behind(self, path: str, state: WalkState, last: Tensor) -> Tensor:
        """The input of the module at ``path`` if the last layer returns ``last``, of which it is no view."""
        with self._starts.skipped(self.model, self.layers, last):
            return self._read_by(path, lambda: run_model(self.model, state.inputs)).clone()

    def _enter_stack(self, layer: str, state: WalkState) -> None:
        """Put a batch in front of the first layer of a stack, whose layers are all dense."""
        state.dense = state.pruned = state.entries[layer]
        if layer != self.layers[0]:
            state.pruned_calls, entries = observe(self.model, self._stacks[layer], (layer,), state)
            state.pruned = entries[layer]

    def _dense_pass(self, groups: Sequence[Group], state: WalkState) -> None:
        """Record what the groups of the layer will be fitted to."""

        def watch(at: str, into: dict[str, Tensor], name: str) -> Any:
            return self.model.get_submodule(at).register_forward_pre_hook(keep_input(into, name))

        inside = [group for group in groups if self._ends_inside(group)]
        reads = [paths[0] for group in groups if self.input_drifts for paths in group.inputs]
        handles = [watch(path, state.reads, path) for path in reads]
        handles += [watch(group.stream, state.streams, group.name) for group in inside]
        with hooked(*handles):
            outputs = self._run_layer(state.dense, state.calls)
        state.dense = outputs[-1]
        # A pre-LN layer ends where the next norm begins: its output is the residual stream.
        state.streams.update({group.name: _joined(outputs) for group in groups if not self._ends_inside(group)})

    def _regression(self, group: Group, state: WalkState) -> tuple[Tensor, Tensor]:
        seen: dict[str, Tensor] = {}

        def keep(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            add_use(seen, "input", args[0])
            add_use(seen, "output", output.clone())  # Falcon adds the attention to it, in place

        handles = [self.model.get_submodule(group.output_projection).register_forward_hook(keep)]
        if self._ends_inside(group):
            module = self.model.get_submodule(group.stream)
            uses = len(state.calls[self.layer])
            handles.append(module.register_forward_pre_hook(keep_input(seen, "stream", last=uses)))
        with hooked(*handles):
            outputs = self._pruned_layer(state)
            seen["stream"] = _joined(outputs)
        # Some layers (OPT) flatten the tokens of a batch in front of a module, so everything is compared flat.
        wanted = state.streams.pop(group.name).flatten(0, -2)
        seen = {name: value.flatten(0, -2) for name, value in seen.items()}
        if not group.post_norm:
            return seen["input"], self._unscaled(group, wanted, seen["stream"], seen["output"])
        norm = self.model.get_submodule(group.post_norm)
        with torch.inference_mode():
            residual = seen["stream"] - group.scale * norm(seen["output"])
        return seen["input"], output_for(norm, seen["output"], (wanted - residual) / group.scale)

    def _unscaled(
        self,
        group: Group,
        wanted: Float[Tensor, "tokens hidden"],
        stream: Float[Tensor, "tokens hidden"],
        output: Float[Tensor, "tokens hidden"],
    ) -> Float[Tensor, "tokens hidden"]:
        """What the projection should output so that the stream becomes ``wanted``, given stream and output as they are."""
        scale: Any = group.scale
        if group.channel_scale:
            scale = scale * self.model.get_parameter(group.channel_scale).detach()
        found = (wanted - (stream - scale * output)) / scale
        # A dimension that is scaled by 0 adds nothing, whatever the projection outputs.
        return torch.where(scale == 0, output, found) if group.channel_scale else found

    def _read_by(self, path: str, run: Callable[[], object], uses: int = 1) -> Tensor:
        """The inputs of the module at ``path`` in a run that ends at its last use."""
        seen: dict[str, Tensor] = {}
        with hooked(self.model.get_submodule(path).register_forward_pre_hook(keep_input(seen, path, last=uses))):
            run()
        return seen[path]

    def _ends_inside(self, group: Group) -> bool:
        """The residual stream after a group is an input of a module of the same layer."""
        return group.stream.startswith(f"{self.layer}.")

    def _pruned_layer(self, state: WalkState) -> list[Tensor]:
        """The output of every use of the layer in the pruned model. What its solved blocks compute is remembered.

        Not where the layer is used several times: the input of a later use changes with every group.
        """
        blocks = self._solved if len(state.pruned_calls[self.layer]) == 1 else []
        with ExitStack() as stack:
            for path in blocks:
                stack.enter_context(remembered(self.model.get_submodule(path), state.solved, path))
            return self._run_layer(state.pruned, state.pruned_calls)

    def _run_layer(self, entry: Tensor, calls: Mapping[str, Sequence[Call]]) -> list[Tensor]:
        """The output of every use of the layer, as it is now, from these hidden states on; other arguments in ``calls``."""
        layer, outputs = self.model.get_submodule(self.layer), list[Tensor]()
        with torch.inference_mode(), autocast_if_fast(next(layer.parameters()).device):
            for args, kwargs in calls[self.layer]:
                output = layer(entry, *args, **kwargs)
                entry = output if isinstance(output, Tensor) else output[0]
                outputs.append(entry)
        return outputs


def _joined(outputs: Sequence[Tensor]) -> Tensor:
    """The outputs of all uses, one after the other along the first axis."""
    return outputs[0] if len(outputs) == 1 else torch.cat(list(outputs))


def _gather(
    states: Sequence[WalkState],
    look: Callable[[WalkState], tuple[Tensor, Tensor]],
    tokens: str,
    weights_of: str | None = None,
) -> RegressionSums:
    """Sums over all batches and the tokens of one mask (``Group.tokens``); with token weights of a group."""
    sums = RegressionSums()
    for state in states:
        x, t = (value.flatten(0, -2) for value in look(state))
        weights = None if weights_of is None else state.weights.get(weights_of)
        mask = state.tokens.get(tokens)
        # The rows of a pooled vector are texts, to which no mask of tokens applies. Several uses of a layer have one mask.
        uses = len(x) // mask.numel() if mask is not None and len(x) % mask.numel() == 0 else 0
        counted = mask.flatten().repeat(uses) if mask is not None and uses else None
        sums.add(x, t, counted, None if weights is None else weights.flatten())
    sums.flush()
    return sums
