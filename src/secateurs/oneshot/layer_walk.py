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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from secateurs.numerics.precision import autocast_if_fast
from secateurs.numerics.regression import RegressionSums
from secateurs.oneshot.behind_norm import output_for
from secateurs.oneshot.dense_record import dense_places
from secateurs.oneshot.gather import gather
from secateurs.oneshot.kept_inputs import KEPT_BYTES, KeptInput
from secateurs.oneshot.short_circuit import remembered
from secateurs.oneshot.walk_state import FirstStates, WalkState, add_use, hooked, keep_input, observe, run_model
from secateurs.return_memory import trim_heap
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
        self._columns: dict[str, tuple[str, Tensor]] = {}  # block -> projection, columns of its input that the fit kept
        self._kept_bytes = 0
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

        return gather(self._states, look, group.tokens_of(path))

    def output_regression(self, group: Group) -> RegressionSums:
        """The input of the output projection in the pruned model against what the projection should add."""
        self._kept_bytes = 0
        sums = gather(self._states, lambda state: self._regression(group, state), group.tokens, group.name)
        self._solved.append(group.block)
        return sums

    def fitted(self, group: Group, units: Int[Tensor, " kept"]) -> None:
        """Say that the group now is what it was in ``output_regression``, but for its output projection and these units.

        Without this call its block runs again.

        Args:
            group: the group, with its new weights in the model.
            units: those it keeps, as indices into the units it had.
        """
        kept = units if len(units) else torch.arange(1)  # a removed group is installed as one unit
        columns = kept[:, None] * group.width + torch.arange(group.width)
        self._columns[group.block] = group.output_projection, columns.flatten()

    def leave(self) -> None:
        """Take the pruned hidden states through the layer, whose groups are solved now."""
        for state in self._states:
            state.pruned = self._pruned_layer(state)[-1]
            state.solved.clear()
            state.inputs_of.clear()
        self._solved.clear()
        self._columns.clear()
        trim_heap()

    def head_drift(self) -> RegressionSums:
        """The input of the head in the pruned model against that in the dense model."""
        assert self.head is not None
        path = self.head

        def look(state: WalkState) -> tuple[Tensor, Tensor]:
            if not self._starts.skippable:
                return self._read_by(path, lambda: run_model(self.model, state.inputs)), state.reads.pop(path)
            return self._read_behind(path, state, state.pruned), self._read_behind(path, state, state.dense)

        return gather(self._states, look, self.structure.groups[-1].tokens)

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

        places = dense_places(self.model, self.structure, self.layer, input_drifts=self.input_drifts)
        inputs = [path for kind, path in places if kind == "input"]
        seen: dict[str, Tensor] = {}
        if all(place in state.recorded for place in places):
            seen, output = (
                {path: state.recorded["input", path] for path in inputs},
                state.recorded["output", self.layer],
            )
            state.dense = output
        else:
            watched = {path: self.model.get_submodule(path) for path in inputs}
            with hooked(
                *(module.register_forward_pre_hook(keep_input(seen, path)) for path, module in watched.items())
            ):
                outputs = self._run_layer(state.dense, state.calls)
            state.dense, output = outputs[-1], _joined(outputs)
        reads = {paths[0] for group in groups if self.input_drifts for paths in group.inputs}
        state.reads.update({path: seen[path] for path in reads})
        # A pre-LN layer ends where the next norm begins: its output is the residual stream.
        state.streams.update({g.name: seen[g.stream] if self._ends_inside(g) else output for g in groups})

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
        with KeptInput.watched(self.model, group) as kept, hooked(*handles):
            outputs = self._pruned_layer(state)
            seen["stream"] = _joined(outputs)
        # Norms over all units take other statistics of fewer units, and a later use of the layer has another input.
        once = not group.joint_norms and len(state.pruned_calls[self.layer]) == 1
        if once and kept.serves and self._kept_bytes + kept.nbytes <= KEPT_BYTES:
            self._kept_bytes += kept.nbytes
            state.inputs_of[group.block] = kept
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
                if path in self._columns and (kept := state.inputs_of.pop(path, None)):
                    projection, columns = self._columns[path]
                    with self._no_gradients():
                        state.solved[path] = kept.fitted(self.model.get_submodule(projection), columns)
                stack.enter_context(remembered(self.model.get_submodule(path), state.solved, path))
            return self._run_layer(state.pruned, state.pruned_calls)

    def _run_layer(self, entry: Tensor, calls: Mapping[str, Sequence[Call]]) -> list[Tensor]:
        """The output of every use of the layer, as it is now, from these hidden states on; other arguments in ``calls``."""
        layer, outputs = self.model.get_submodule(self.layer), list[Tensor]()
        with self._no_gradients():
            for args, kwargs in calls[self.layer]:
                output = layer(entry, *args, **kwargs)
                entry = output if isinstance(output, Tensor) else output[0]
                outputs.append(entry)
        return outputs

    @contextmanager
    def _no_gradients(self) -> Iterator[None]:
        with torch.inference_mode(), autocast_if_fast(next(self.model.parameters()).device):
            yield


def _joined(outputs: Sequence[Tensor]) -> Tensor:
    """The outputs of all uses, one after the other along the first axis."""
    return outputs[0] if len(outputs) == 1 else torch.cat(list(outputs))
