"""``Replay``: repeated forward passes over the same batches, each starting at the first layer that changed.

A candidate of the search differs from the incumbent in a few groups. The layers before the first changed one give the same
outputs as before, so the hidden states at the entry of every layer are kept, and earlier layers are skipped. This holds for
every model family: a layer is a module whose first input is the hidden states, and which returns them, alone or as the
first entry of a tuple. The other entries of the tuple are kept too, since later layers may use them (a position bias). Where
a decoder follows an encoder, the output of the encoder's last layer is kept too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from secateurs.numerics.precision import autocast_if_fast
from secateurs.oneshot.short_circuit import short_circuit
from secateurs.tasks.base import Batch, model_inputs

__all__ = ["Replay"]


class Replay:
    """Forward passes over fixed batches, from any layer on.

    Args:
        model: a model in evaluation mode, on ``device``.
        layers: paths of the transformer layers, in data order.
        batches: batches of a task (CPU tensors).
        device: device of the model.
        memory_bytes: memory for cached hidden states; batches that do not fit are computed from the first layer.
        quick: compute in bfloat16 where that is faster.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        batches: Sequence[Batch],
        device: torch.device | str = "cpu",
        memory_bytes: float = 2e9,
        quick: bool = False,
    ) -> None:
        self.model = model
        self.layers = [model.get_submodule(path) for path in layers]
        self.position = {path: index for index, path in enumerate(layers)}
        holders = [path.rpartition(".")[0] for path in layers]
        self.starts = [index for index, holder in enumerate(holders) if index == 0 or holder != holders[index - 1]]
        self.batches = list(batches)
        self.device = torch.device(device)
        self.memory_bytes = memory_bytes
        self.quick = quick
        self._entries: list[list[Tensor | None]] = []
        self._ends: list[dict[int, Tensor]] = []  # what the last layers of all stacks but the last one return
        self._rests: list[list[tuple[Any, ...] | None]] = []  # what layers return beside the hidden states

    def record(self, read: Callable[[Any, Batch], Tensor]) -> list[Tensor]:
        """Run every batch through the model as it is now, keep the hidden states at every layer, and read the outputs.

        Returns:
            ``read(outputs, batch)`` for every batch.
        """
        self._entries, self._ends, self._rests = [], [], []
        used, found = 0.0, []
        for batch in self.batches:
            entries: list[Tensor | None] = [None] * len(self.layers)
            ends: dict[int, Tensor] = {}
            rests: list[tuple[Any, ...] | None] = [None] * len(self.layers)

            def keep(index: int, entries: list[Tensor | None] = entries) -> Callable[..., None]:
                def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                    if entries[index] is None:  # the first use of the layer
                        entries[index] = (args[0] if args else kwargs["hidden_states"]).detach()

                return hook

            def keep_output(
                index: int, ends: dict[int, Tensor] = ends, rests: list[tuple[Any, ...] | None] = rests
            ) -> Callable[..., None]:
                def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
                    rests[index] = output[1:] if isinstance(output, tuple) else None
                    if index + 1 in self.starts:
                        ends[index] = output[0] if isinstance(output, tuple) else output

                return hook

            handles = [
                handle
                for index, layer in enumerate(self.layers)
                for handle in (
                    layer.register_forward_pre_hook(keep(index), with_kwargs=True),
                    layer.register_forward_hook(keep_output(index)),
                )
            ]
            try:
                found.append(self._read(batch, read))
            finally:
                for handle in handles:
                    handle.remove()
            used += sum(entry.numel() * entry.element_size() for entry in entries if entry is not None)
            fits = used <= self.memory_bytes
            self._entries.append(entries if fits else [None] * len(self.layers))
            self._ends.append(ends if fits else {})
            self._rests.append(rests if fits else [])
        return found

    def run(self, read: Callable[[Any, Batch], Tensor], start: str | None = None) -> Iterator[Tensor]:
        """Read the outputs of every batch, computed from layer ``start`` on.

        Args:
            read: ``(outputs, batch) -> tensor``.
            start: path of the first layer that differs from the recorded model; ``None`` runs everything.
        """
        first = self.position[start] if start is not None else 0
        for index, batch in enumerate(self.batches):
            entry = self._entries[index][first] if first and self._entries else None
            if entry is None:
                yield self._read(batch, read)
            else:
                with short_circuit(self.layers[:first], self._given(index, first, entry), self._rests[index]):
                    yield self._read(batch, read)

    def _given(self, batch: int, first: int, entry: Tensor) -> dict[int, Tensor]:
        """Index of a layer before ``first`` -> hidden states to return: at the ends of stacks, and right before ``first``."""
        given = {last: output for last, output in self._ends[batch].items() if last < first}
        return given if first in self.starts else {**given, first - 1: entry}

    def _read(self, batch: Batch, read: Callable[[Any, Batch], Tensor]) -> Tensor:
        inputs = {name: value.to(self.device) for name, value in batch.items()}
        with torch.inference_mode(), autocast_if_fast(self.device) if self.quick else nullcontext():
            return read(self.model(**model_inputs(inputs)), inputs)
