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

import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateurs.errors import CalibrationError
from secateurs.numerics.precision import autocast_if_fast
from secateurs.oneshot.backward import observed_projections, parts_of, tokens_per_pass
from secateurs.oneshot.no_cache import no_cache
from secateurs.structure.structure import Structure
from secateurs.tasks.base import Batch, main_input, model_inputs

__all__ = ["OutputRows", "TokenWeights", "directions"]

OutputRows = Callable[[Any, Batch], Tensor]
"""``(outputs of the model, batch) -> rows x features``: the outputs that the weights are gradients of."""

FLOOR = 0.01
"""Smallest squared weight, as a fraction of the mean squared length, so that the fit uses every token."""


class TokenWeights:
    """Weighs the tokens of one batch at a time. Weights are remembered, since every refit asks for them again.

    Args:
        model: the dense model, in evaluation mode. It must be dense whenever a batch is weighed for the first time.
        structure: the groups whose projections will be fitted.
        outputs: all outputs that two models are compared by (``secateurs.tasks.base.Task.all_compared_outputs``).
        seed: seed of the random directions. The same batch gets the same weights at every call.
    """

    def __init__(self, model: nn.Module, structure: Structure, outputs: OutputRows, seed: int = 0) -> None:
        self.model, self.structure, self.outputs = model, structure, outputs
        self.seed = seed
        self.tokens = tokens_per_pass(model, structure)
        self._known: dict[bytes, dict[str, Tensor]] = {}

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
        known = self._known.get(_key(batch))
        return self.observe(batch, ())[0] if known is None else known

    def knows(self, batch: Mapping[str, Tensor]) -> bool:
        """Whether this batch was weighed before."""
        return _key(batch) in self._known

    def observe(
        self, batch: Mapping[str, Tensor], wanted: Collection[str] | None = None
    ) -> tuple[dict[str, Float[Tensor, "*uses batch tokens"]], dict[str, list[Tensor]]]:
        """The weights, and the inputs of the output projections at every use, from one forward and backward pass.

        Args:
            batch: a batch on the device of the model.
            wanted: names of the groups whose inputs are returned; ``None`` = all. The weights are of all groups.

        Raises:
            CalibrationError: a gradient is not finite.
        """
        wanted = self.structure.sizes if wanted is None else wanted
        generator = torch.Generator().manual_seed(self.seed + int(main_input(batch).sum()))
        parts = [
            _squared_gradients(self.model, self.structure, part, self.outputs, generator, wanted)
            for part in parts_of(dict(batch), self.tokens)
        ]
        weights: dict[str, Tensor] = {}
        inputs: dict[str, list[Tensor]] = {}
        for group in self.structure:
            squared = torch.cat([lengths[group.name] for _, lengths in parts], 1)
            weights[group.name] = _weights(group.output_projection, squared[0] if len(squared) == 1 else squared)
            if group.name in wanted:
                uses = zip(*(read.pop(group.name) for read, _ in parts), strict=True)
                inputs[group.name] = [torch.cat(of_parts) for of_parts in uses]
        self._known[_key(batch)] = weights
        return weights, inputs


def _key(batch: Mapping[str, Tensor]) -> bytes:
    """Tells batches apart by the content of all model inputs."""
    digest = hashlib.sha256()
    for name, value in sorted(model_inputs(batch).items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.digest()


def _weights(path: str, squared: Float[Tensor, "*uses batch tokens"]) -> Float[Tensor, "*uses batch tokens"]:
    """Weights from squared lengths of gradients, with the floor; all 1 where nothing has a gradient."""
    if not bool(torch.isfinite(squared).all()):
        raise CalibrationError(
            f"the gradients at {path} are not finite on the calibration data; check the weights of the model, or weigh all "
            "tokens alike (--set weigh=even)"
        )
    mean = squared.mean()
    return (squared + FLOOR * mean).sqrt() if mean > 0 else torch.ones_like(squared)


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
    model: nn.Module,
    structure: Structure,
    batch: Batch,
    rows_of: OutputRows,
    generator: torch.Generator,
    wanted: Collection[str],
) -> tuple[dict[str, list[Tensor]], dict[str, Float[Tensor, "uses batch tokens"]]]:
    """What the wanted output projections read at every use, and ``||dv/ds||^2`` at every use and token, by group."""
    quick = autocast_if_fast(main_input(batch).device)
    with observed_projections(model, structure) as (read, written), torch.enable_grad(), quick:
        rows = rows_of(model(**model_inputs(batch), **no_cache(model)), batch)
        (rows * directions(rows, generator)).sum().backward()
    texts = len(main_input(batch))
    kept = {name: read[name] for name in wanted}
    return kept, {name: torch.stack([_squared_length(use, texts) for use in uses]) for name, uses in written.items()}


def _squared_length(output: Float[Tensor, "*tokens columns"], texts: int) -> Float[Tensor, "batch tokens"]:
    """The squared length of the gradient at every token; zeros if the output has no gradient.

    Some layers (OPT) flatten the tokens of a batch, so the axes are restored.
    """
    if output.grad is None:
        return torch.zeros(output.shape[:-1], device=output.device).reshape(texts, -1)
    return output.grad.float().pow(2).sum(-1).reshape(texts, -1)
