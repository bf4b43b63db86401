"""``TokenWeights``: how much each token counts when a projection is fitted.

Least squares over all tokens fits best where numbers are large. In a BERT the residual stream of the first token is ten times
as large as that of the others after some layers, and a norm divides it out again. In the last layer of a classifier only one
token is read. A token is therefore weighed by the length of the gradient of the model's outputs there,

    weight = sqrt( ||dv/ds||^2 + 1 % of its mean over the batch ),     v = sum over rows of outputs . u

with ``s`` the residual stream after the sub-block and ``u`` a random direction of the outputs. The *squared* length would
be the Gauss-Newton weight. It lost, since a few tokens then decide everything (benchmarks/LOG.md). The weights use neither
labels nor the confidence of the predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateurs.errors import CalibrationError
from secateurs.numerics.precision import autocast_if_fast
from secateurs.oneshot.no_cache import no_cache
from secateurs.structure.layers import stacks
from secateurs.structure.structure import Structure
from secateurs.tasks.base import Batch, main_input, model_inputs

__all__ = ["OutputRows", "TokenWeights", "directions"]

OutputRows = Callable[[Any, Batch], Tensor]
"""``(outputs of the model, batch) -> rows x features``: the outputs that the weights are gradients of."""

FLOOR = 0.01
"""Smallest squared weight, as a fraction of the mean squared length, so that the fit uses every token."""

TOKENS = 2048
"""Tokens per backward pass, which keeps their activations in memory."""

IMAGE_TOKENS = 256
"""Tokens that an image counts as there: a usual one has 197."""


class TokenWeights:
    """Weighs the tokens of one batch at a time.

    Args:
        model: the dense model, in evaluation mode.
        structure: the groups whose projections will be fitted.
        outputs: all outputs that two models are compared by (``secateurs.tasks.base.Task.all_compared_outputs``).
        seed: seed of the random directions. The same batch gets the same weights at every call.
    """

    def __init__(self, model: nn.Module, structure: Structure, outputs: OutputRows, seed: int = 0) -> None:
        self.model, self.structure, self.outputs = model, structure, outputs
        self.seed = seed

    def __call__(self, batch: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "*uses batch tokens"]]:
        """The weight of every token for the fit of every group.

        Args:
            batch: a batch on the device of the model.

        Returns:
            Group name -> weights. They are not normalised: only their ratios matter. A group of a layer that is used
            several times has weights of shape (uses, batch, tokens).

        Raises:
            CalibrationError: a gradient is not finite.
        """
        given = main_input(batch)
        rows, tokens = len(given), given.shape[1] if given.ndim == 2 else IMAGE_TOKENS
        step = max(1, TOKENS // tokens)
        generator = torch.Generator().manual_seed(self.seed + int(given.sum()))
        parts = []
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(False)  # the gradients of parameters would take half of the time
        try:
            for start in range(0, rows, step):
                part = {
                    name: value[start : start + step] if len(value) == rows else value for name, value in batch.items()
                }
                parts.append(_squared_gradients(self.model, self.structure, part, self.outputs, generator))
        finally:
            for parameter in trained:
                parameter.requires_grad_()
        weights = {}
        for group in self.structure:
            squared = torch.cat([part[group.name] for part in parts], 1)
            squared = squared[0] if len(squared) == 1 else squared
            if not bool(torch.isfinite(squared).all()):
                raise CalibrationError(
                    f"the gradients at {group.output_projection} are not finite on the calibration data; check the "
                    "weights of the model, or weigh all tokens alike (--set weigh=even)"
                )
            mean = squared.mean()
            weights[group.name] = (squared + FLOOR * mean).sqrt() if mean > 0 else torch.ones_like(squared)
        return weights


def directions(outputs: Float[Tensor, "rows features"], generator: torch.Generator) -> Float[Tensor, "rows features"]:
    """One random unit vector ``u`` over the features, with a random sign for each row so that rows do not add up.

    With several features the mean of ``u`` is removed: a softmax ignores it.
    """
    rows, features = outputs.shape
    drawn = torch.randn(features, generator=generator)
    if features > 1:
        drawn = drawn - drawn.mean()
    signs = 1.0 - 2.0 * torch.randint(2, (rows, 1), generator=generator)
    return (signs * drawn / drawn.norm()).to(outputs)


def _squared_gradients(
    model: nn.Module, structure: Structure, batch: Batch, rows_of: OutputRows, generator: torch.Generator
) -> dict[str, Float[Tensor, "uses batch tokens"]]:
    """``||dv/ds||^2`` at every token and every use of its layer (the first axis), by group."""
    projected: dict[str, list[Tensor]] = {group.name: [] for group in structure}
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
            projected[name].append(output)

        return hook

    first = [model.get_submodule(stack[0]) for stack in stacks(model, structure)]
    handles = [layer.register_forward_pre_hook(detach, with_kwargs=True) for layer in first]
    handles += [
        model.get_submodule(group.output_projection).register_forward_hook(keep(group.name)) for group in structure
    ]
    try:
        with torch.enable_grad(), autocast_if_fast(main_input(batch).device):
            rows = rows_of(model(**model_inputs(batch), **no_cache(model)), batch)
            (rows * directions(rows, generator)).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.stack([_squared_length(use) for use in uses]) for name, uses in projected.items()}


def _squared_length(output: Float[Tensor, "*tokens columns"]) -> Float[Tensor, "*tokens"]:
    """The squared length of the gradient at every token; zeros if the output has no gradient."""
    if output.grad is None:
        return torch.zeros(output.shape[:-1], device=output.device)
    return output.grad.float().pow(2).sum(-1)
