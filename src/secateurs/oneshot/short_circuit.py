"""Forward passes that skip layers: the modules around them run, and the layers return hidden states that are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["short_circuit"]


@contextmanager
def short_circuit(
    layers: Sequence[nn.Module], given: Mapping[int, Tensor], rests: Sequence[tuple[Any, ...] | None]
) -> Iterator[None]:
    """Let ``layers`` return given hidden states, with what they returned beside them.

    Args:
        layers: layers that are not run.
        given: index of a layer -> the hidden states that it returns; the other layers return their input.
        rests: what every layer returned beside the hidden states; ``None`` = nothing.
    """

    def returning(output: Tensor | None, rest: tuple[Any, ...] | None) -> Callable[..., Any]:
        def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            found = hidden_states if output is None else output
            return found if rest is None else (found, *rest)

        return forward

    try:
        for index, (layer, rest) in enumerate(zip(layers, rests, strict=False)):
            layer.forward = returning(given.get(index), rest)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)
