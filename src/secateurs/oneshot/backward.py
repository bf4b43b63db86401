"""Backward passes through the layers: inputs of the output projections, and gradients at their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from secateurs.oneshot.batch_rows import rows_between
from secateurs.structure.layers import stacks
from secateurs.structure.structure import Structure
from secateurs.tasks.base import Batch, main_input

__all__ = ["LAYERS", "TOKENS", "observed_projections", "parts_of", "tokens_per_pass", "tokens_per_row"]

TOKENS = 2048
"""Tokens per backward pass of a model of at most ``LAYERS`` layers: the pass keeps their activations in memory."""

LAYERS = 6
"""A deeper model has fewer tokens per backward pass, so that memory does not grow with the depth."""

IMAGE_TOKENS = 256
"""Tokens that an image counts as there: a usual one has 197."""


def tokens_per_pass(model: nn.Module, structure: Structure) -> int:
    """Tokens per backward pass of this model."""
    return max(1, TOKENS * LAYERS // max(LAYERS, sum(map(len, stacks(model, structure)))))


def parts_of(batch: Batch, tokens: int) -> Iterator[Batch]:
    """The rows of a batch in parts of about so many tokens, at least one row each."""
    rows = len(main_input(batch))
    step = max(1, tokens // tokens_per_row(batch))
    for start in range(0, rows, step):
        yield rows_between(batch, start, start + step)


def tokens_per_row(batch: Mapping[str, Tensor]) -> int:
    """Tokens of every sequence of a batch, padding included; for images an estimate, since only the model knows them."""
    given = main_input(batch)
    return given.shape[1] if given.ndim == 2 else IMAGE_TOKENS


@contextmanager
def observed_projections(
    model: nn.Module, structure: Structure
) -> Iterator[tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]]]:
    """Within the context, a forward pass with gradients records what every output projection reads and writes.

    The gradient of an output is in its ``grad`` after a backward pass. Gradients of parameters, which would take half of
    the time, are not computed, nor are those in front of the first layer of a stack.

    Yields:
        Inputs and outputs of the output projections at every use of their layer, by group; filled by the forward pass.
    """
    read: dict[str, list[Tensor]] = {group.name: [] for group in structure}
    written: dict[str, list[Tensor]] = {group.name: [] for group in structure}
    begun: set[nn.Module] = set()

    def detach(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if module in begun:  # a later use of the first layer
            return args, kwargs
        begun.add(module)
        if args:
            return (args[0].detach().requires_grad_(), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": kwargs["hidden_states"].detach().requires_grad_()}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            output.retain_grad()
            read[name].append(args[0].detach())
            written[name].append(output)

        return hook

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    first = [model.get_submodule(stack[0]) for stack in stacks(model, structure)]
    handles = [layer.register_forward_pre_hook(detach, with_kwargs=True) for layer in first]
    handles += [
        model.get_submodule(group.output_projection).register_forward_hook(keep(group.name)) for group in structure
    ]
    try:
        yield read, written
    finally:
        for handle in handles:
            handle.remove()
        for parameter in trained:
            parameter.requires_grad_()
