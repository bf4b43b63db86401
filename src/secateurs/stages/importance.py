"""How much each token counts when a projection is fitted: by what an error made there does to the model's outputs.

Least squares over all tokens spends its effort where numbers are large. In a BERT the first token's stream is ten times as
large as the others' behind some layers, and a norm divides that out again; in the last layer of a classifier all tokens but
one are never read. So a token counts by the length of the gradient of the outputs there,

    weight = sqrt( ||dv/ds||^2 + 1 % of its mean over the batch ),     v = signal . u

with ``s`` the residual stream behind the sub-block and ``u`` a random direction, one for every row of the task's signal.
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
from secateurs.layers import layer_paths
from secateurs.structure import Structure
from secateurs.tasks import model_inputs

__all__ = ["Importance", "Signal", "directions"]

Signal = Callable[[Any, dict[str, Tensor]], Tensor]
"""``(outputs, batch) -> rows x features``: what a model says (``secateurs.tasks.Task.signal``)."""

FLOOR = 0.01
"""No token counts for nothing: a fit with too few of them is a poor one."""

TOKENS = 2048
"""A backward pass holds the activations of so many tokens."""


class Importance:
    """Weighs the tokens of one batch after the other.

    Args:
        model: the dense model, in evaluation mode.
        structure: whose readers are watched.
        signal: what the model says.
        seed: of the directions: the same batches in the same order get the same weights, on any device.
    """

    def __init__(self, model: nn.Module, structure: Structure, signal: Signal, seed: int = 0) -> None:
        self.model, self.structure, self.signal = model, structure, signal
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, batch: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "batch tokens"]]:
        """Weight of every token for the fit of every group.

        Args:
            batch: on the device of the model.

        Returns:
            Group name -> weights, not normalised: only their ratios mean something.
        """
        rows, tokens = batch["input_ids"].shape
        step = max(1, TOKENS // tokens)
        parts = []
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(False)  # their gradients would take half of the time
        try:
            for start in range(0, rows, step):
                part = {
                    name: value[start : start + step] if len(value) == rows else value for name, value in batch.items()
                }
                parts.append(_gradients(self.model, self.structure, part, self.signal, self.generator))
        finally:
            for parameter in trained:
                parameter.requires_grad_()
        weights = {}
        for group in self.structure:
            squared = torch.cat([part[group.name] for part in parts])
            mean = squared.mean()
            weights[group.name] = (squared + FLOOR * mean).sqrt() if mean > 0 else torch.ones_like(squared)
        return weights


def directions(signal: Float[Tensor, "rows features"], generator: torch.Generator) -> Float[Tensor, "rows features"]:
    """A random unit vector for each row; of several features their common part, which no softmax sees, is left out."""
    drawn = torch.randn(signal.shape, generator=generator, dtype=torch.float32, device=generator.device)
    if drawn.shape[-1] > 1:
        drawn = drawn - drawn.mean(-1, keepdim=True)
    return torch.nn.functional.normalize(drawn, dim=-1).to(signal)


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
        # Checkpointed key-value caches and the like are of no use here, and some cannot be differentiated through.
        caching = {"use_cache": False} if getattr(getattr(model, "config", None), "use_cache", False) else {}
        with torch.enable_grad(), fast(batch["input_ids"].device):
            said = signal(model(**model_inputs(batch), **caching), batch)
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
