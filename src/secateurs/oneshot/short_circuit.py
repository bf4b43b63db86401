"""Forward passes that skip modules whose outputs are known, while the modules around them run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["remembered", "short_circuit"]


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


@contextmanager
def remembered(module: nn.Module, outputs: dict[str, Any], name: str) -> Iterator[None]:
    """Let a module return its output under ``name``; run it and keep its output if there is none yet.

    Copies are kept and returned, since some layers (Falcon) add to an output in place. A tuple with other tensors beside
    the first one is not kept: they may be large, as attention weights are.
    """

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        rest: tuple[Any, ...] = output[1:] if isinstance(output, tuple) else ()
        if not any(isinstance(value, Tensor) for value in rest):
            outputs[name] = _copied(output)

    def forward(*args: Any, **kwargs: Any) -> Any:
        return _copied(outputs[name])

    own = module.__dict__.get("forward")
    handle = None
    if name in outputs:
        module.forward = forward
    else:
        handle = module.register_forward_hook(keep)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
        elif own is None:
            module.__dict__.pop("forward", None)
        else:
            module.forward = own


def _copied(output: Any) -> Any:
    """The same output, with a copy of its first tensor."""
    return (output[0].clone(), *output[1:]) if isinstance(output, tuple) else output.clone()
