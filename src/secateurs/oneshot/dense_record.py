"""``DenseRecord``: what the last fit compares with, kept from the calibration of the dense model as far as memory goes.

Every fit of every target needs the residual stream of the dense model after each sub-block, and what the input projections
read there. Calibration has just run the dense model on the same batches. What it saw is kept for the first batches; for
those that do not fit into memory the dense layers run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from secateurs.structure.layers import layer_paths
from secateurs.structure.structure import Structure
from secateurs.tasks.base import Batch

__all__ = ["RECORD_BYTES", "DenseRecord", "Place", "dense_places"]

RECORD_BYTES = 2.0**30
"""Memory for all batches together."""

Place = tuple[str, str]
"""``("input", path of a module)`` or ``("output", path of a layer)``."""


def dense_places(model: nn.Module, structure: Structure, layer: str, *, input_drifts: bool) -> tuple[Place, ...]:
    """Where a fit reads the dense model in one layer: its output, and inputs of some of its modules.

    Args:
        model: the model.
        structure: the groups.
        layer: path of the layer.
        input_drifts: whether the inputs of the input projections are compared too.
    """
    groups = structure.layers.get(layer, ())
    inside = [group.stream for group in groups if group.stream.startswith(f"{layer}.")]
    reads = [paths[0] for group in groups if input_drifts for paths in group.inputs]
    return (*(("input", path) for path in dict.fromkeys([*reads, *inside])), ("output", layer))


class DenseRecord:
    """Batch -> tensors by place, in the dense model.

    Args:
        model: the model.
        structure: the groups.
        input_drifts: see ``dense_places``.
        memory_bytes: memory for all tensors.
    """

    def __init__(
        self, model: nn.Module, structure: Structure, *, input_drifts: bool, memory_bytes: float = RECORD_BYTES
    ) -> None:
        self.model = model
        self.places = [
            place
            for layer in layer_paths(model, structure)
            for place in dense_places(model, structure, layer, input_drifts=input_drifts)
        ]
        self._left = memory_bytes
        self._known: dict[
            int, tuple[Batch, Mapping[Place, Tensor]]
        ] = {}  # the batch is kept, so that its id stays its own

    def of(self, batch: Batch) -> Mapping[Place, Tensor]:
        """What was recorded of this very object; empty = nothing."""
        return self._known[id(batch)][1] if id(batch) in self._known else {}

    @contextmanager
    def recording(self, batch: Batch) -> Iterator[None]:
        """Within the context the dense model is run on this batch: at once, or on some of its rows after the other.

        Nothing is kept of a batch that does not fit into the memory that is left, nor of a layer that is used several times.
        """
        if self._left <= 0 or id(batch) in self._known:
            yield
            return
        seen: dict[Place, list[Tensor]] = {place: [] for place in self.places}
        last = torch.empty(0)  # a layer's output is what the next layer reads: it is kept once
        runs = 0

        def count(*_: Any) -> None:
            nonlocal runs
            runs += 1

        def keep(place: Place, value: Tensor) -> None:
            nonlocal last
            if last.shape != value.shape or not torch.equal(last, value):
                last = value.detach().clone()
            seen[place].append(last)

        def keep_input(place: Place) -> Callable[..., None]:
            return lambda module, args, kwargs: keep(place, args[0] if args else kwargs["hidden_states"])

        def keep_output(place: Place) -> Callable[..., None]:
            return lambda module, args, output: keep(place, output if isinstance(output, Tensor) else output[0])

        handles: list[Any] = [self.model.register_forward_pre_hook(count)]
        for place in self.places:
            module = self.model.get_submodule(place[1])
            handles.append(
                module.register_forward_pre_hook(keep_input(place), with_kwargs=True)
                if place[0] == "input"
                else module.register_forward_hook(keep_output(place))
            )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self._put(batch, seen, runs)

    def _put(self, batch: Batch, seen: Mapping[Place, Sequence[Tensor]], runs: int) -> None:
        joined: dict[tuple[int, ...], Tensor] = {}
        self._left -= sum({id(part): part.nbytes for parts in seen.values() for part in parts}.values())
        if self._left < 0:
            return
        once = {place: parts for place, parts in seen.items() if len(parts) == runs}
        for parts in once.values():
            joined.setdefault(tuple(map(id, parts)), parts[0] if runs == 1 else torch.cat(list(parts)))
        self._known[id(batch)] = batch, {place: joined[tuple(map(id, parts))] for place, parts in once.items()}
