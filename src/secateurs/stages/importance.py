"""How much each token counts when a projection is fitted: by what an error made there does to the model's outputs.

Least squares over all tokens spends its effort where numbers are large. In a BERT the first token's stream is ten times as
large as the others' behind some layers, and a norm divides that out again; in the last layer of a classifier all tokens but
one are never read. So a token counts by the length of the gradient of the outputs there,

    weight = sqrt( ||dv/ds||^2 + 1 % of its mean over the batch ),     v = sum over rows of signal . u

with ``s`` the residual stream behind the sub-block and ``u`` a random direction of what the model says.
The *squared* length would be the Gauss-Newton weight, under which a few tokens decide everything: it lost
(benchmarks/LOG.md). Neither labels nor the confidence of the predictions enter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateurs.arithmetic import fast
from secateurs.errors import CalibrationError
from secateurs.layers import layer_paths
from secateurs.structure import Structure
from secateurs.tasks import model_inputs
from secateurs.uncached import uncached

__all__ = ["Importance", "Signal", "directions"]

Signal = Callable[[Any, dict[str, Tensor]], Tensor]
"""``(outputs, batch) -> rows x features``: what a model says."""

FLOOR = 0.01
"""No token counts for nothing: a fit with too few of them is a poor one."""

TOKENS = 2048
"""A backward pass holds the activations of so many tokens."""


class Importance:
    """Weighs the tokens of one batch after the other.

    Args:
        model: the dense model, in evaluation mode.
        structure: whose readers are watched.
        signal: what the model says, all of it (``secateurs.tasks.Task.full_signal``).
        seed: of the directions. The same batch gets the same weights, whenever and wherever it is weighed.
    """

    def __init__(self, model: nn.Module, structure: Structure, signal: Signal, seed: int = 0) -> None:
        self.model, self.structure, self.signal = model, structure, signal
        self.seed = seed

    def __call__(self, batch: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "batch tokens"]]:
        """Weight of every token for the fit of every group.

        Args:
            batch: on the device of the model.

        Returns:
            Group name -> weights, not normalised: only their ratios mean something.

        Raises:
            CalibrationError: a gradient is not finite.
        """
        rows, tokens = batch["input_ids"].shape
        step = max(1, TOKENS // tokens)
        generator = torch.Generator().manual_seed(self.seed + int(batch["input_ids"].sum()))
        parts = []
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(False)  # their gradients would take half of the time
        try:
            for start in range(0, rows, step):
                part = {
                    name: value[start : start + step] if len(value) == rows else value for name, value in batch.items()
                }
                parts.append(_gradients(self.model, self.structure, part, self.signal, generator))
        finally:
            for parameter in trained:
                parameter.requires_grad_()
        weights = {}
        for group in self.structure:
            squared = torch.cat([part[group.name] for part in parts])
            if not bool(torch.isfinite(squared).all()):
                raise CalibrationError(
                    f"the gradients behind {group.reader} are not finite on the calibration data; check the weights of "
                    "the model, or leave tokens unweighed (--set weigh=even)"
                )
            mean = squared.mean()
            weights[group.name] = (squared + FLOOR * mean).sqrt() if mean > 0 else torch.ones_like(squared)
        return weights


def directions(signal: Float[Tensor, "rows features"], generator: torch.Generator) -> Float[Tensor, "rows features"]:
    """One random unit vector, with a random sign for each row, so that rows do not add up.

    The common part of several features is left out: a softmax does not see it.
    """
    rows, features = signal.shape
    drawn = torch.randn(features, generator=generator)
    if features > 1:
        drawn = drawn - drawn.mean()
    signs = 1.0 - 2.0 * torch.randint(2, (rows, 1), generator=generator)
    return (signs * drawn / drawn.norm()).to(signal)


def _gradients(
    model: nn.Module, structure: Structure, batch: dict[str, Tensor], signal: Signal, generator: torch.Generator
) -> dict[str, Float[Tensor, "batch tokens"]]:
    """Squared length of the gradient behind every group."""
    outputs: dict[str, Tensor] = {}

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args:
            return (args[0].detach().requires_grad_(), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": kwargs["hidden_states"].detach().requires_grad_()}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            output.retain_grad()
            outputs[name] = output

        return hook

    first = model.get_submodule(layer_paths(model, structure)[0])
    handles = [first.register_forward_pre_hook(enter, with_kwargs=True)]
    handles += [model.get_submodule(group.reader).register_forward_hook(keep(group.name)) for group in structure]
    try:
        with torch.enable_grad(), fast(batch["input_ids"].device):
            said = signal(model(**model_inputs(batch), **uncached(model)), batch)
            (said * directions(said, generator)).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    return {
        group.name: torch.zeros(batch["input_ids"].shape, device=batch["input_ids"].device)
        if (gradient := outputs[group.name].grad) is None
        else gradient.float().pow(2).sum(-1)
        for group in structure
    }
