"""``Replay``: run a model again and again on the same batches, starting at the layer that changed.

A candidate of the search differs from the incumbent in a few groups. Everything before the first changed layer gives
what it gave before, so the hidden states at the entry of every layer are kept, and earlier layers are short-circuited.
No family is named: a layer is a module that takes hidden states first and returns them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from secateurs.arithmetic import fast
from secateurs.tasks import model_inputs

__all__ = ["Replay"]

Batch = dict[str, Tensor]


class Replay:
    """Forward passes over fixed batches, from any layer on.

    Args:
        model: in evaluation mode.
        layers: paths of the transformer layers, in data order.
        batches: of a task; the model is shown its own inputs alone.
        device: where the model is.
        memory_bytes: cached hidden states may take this much; what does not fit is computed again.
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
        self.batches = list(batches)
        self.device = torch.device(device)
        self.memory_bytes = memory_bytes
        self.quick = quick
        self._entries: list[list[Tensor | None]] = []

    def record(self, read: Callable[[Any, Batch], Tensor]) -> list[Tensor]:
        """Run every batch through the model as it is now, keep the entry of every layer, and read the outputs.

        Returns:
            ``read(outputs, batch)`` of every batch.
        """
        self._entries = []
        used, signals = 0.0, []
        for batch in self.batches:
            entries: list[Tensor | None] = [None] * len(self.layers)

            def keep(index: int, entries: list[Tensor | None] = entries) -> Callable[..., None]:
                def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                    entries[index] = (args[0] if args else kwargs["hidden_states"]).detach()

                return hook

            handles = [
                layer.register_forward_pre_hook(keep(index), with_kwargs=True)
                for index, layer in enumerate(self.layers)
            ]
            try:
                signals.append(self._read(batch, read))
            finally:
                for handle in handles:
                    handle.remove()
            used += sum(entry.numel() * entry.element_size() for entry in entries if entry is not None)
            self._entries.append(entries if used <= self.memory_bytes else [None] * len(self.layers))
        return signals

    def run(self, read: Callable[[Any, Batch], Tensor], start: str | None = None) -> Iterator[Tensor]:
        """Read the outputs of every batch, computing only from layer ``start`` on.

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
                with _short_circuit(self.layers[:first], entry):
                    yield self._read(batch, read)

    def _read(self, batch: Batch, read: Callable[[Any, Batch], Tensor]) -> Tensor:
        inputs = {name: value.to(self.device) for name, value in batch.items()}
        with torch.inference_mode(), fast(self.device) if self.quick else nullcontext():
            return read(self.model(**model_inputs(inputs)), inputs)


@contextmanager
def _short_circuit(layers: Sequence[nn.Module], entry: Tensor) -> Iterator[None]:
    """Layers hand on what they get; the last of them hands out ``entry``."""

    def hand_on(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states

    def hand_out(*args: Any, **kwargs: Any) -> Tensor:
        return entry

    try:
        for layer in layers[:-1]:
            layer.forward = hand_on
        layers[-1].forward = hand_out
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)
