"""Calibration: sums of ``x``, ``x x^T`` and a token count over what every output projection reads on the data.

PAD tokens are left out. Labels are not needed. The sums are added batch by batch, so that memory does not grow with the
number of samples: it is one float64 Gram matrix per group.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from secateurs.errors import CalibrationError
from secateurs.numerics.hessian import Moments
from secateurs.oneshot.dense_record import DenseRecord
from secateurs.progress import Track, silent
from secateurs.return_memory import trim_heap
from secateurs.structure.structure import Group, Structure
from secateurs.tasks.base import Batch, model_inputs

__all__ = ["Weigh", "calibrate", "token_mask"]

CHUNK_TOKENS = 4096
"""Tokens gathered before they are added to the Gram matrices, at most."""

CHUNK_BYTES = 400e6
"""Memory for gathered tokens: those of six layers of the width of BERT-base."""


class Weigh(Protocol):
    """Weighs the tokens of a batch for the fit of every group."""

    def knows(self, batch: Batch, /) -> bool:
        """Whether this batch was weighed before, so that its weights take no backward pass."""
        ...

    def observe(self, batch: Batch, wanted: Collection[str], /) -> tuple[Mapping[str, Tensor], dict[str, list[Tensor]]]:
        """Weights of the tokens by group; and the inputs of the output projections of the wanted groups at every use."""
        ...

    def __call__(self, batch: Batch, /) -> Mapping[str, Tensor]:
        """Weights of the tokens, by group."""
        ...


def token_mask(
    batch: Batch, name: str = "attention_mask", *, padding: bool = False
) -> Bool[Tensor, "batch sequence"] | None:
    """The tokens that count: all but PAD, or all of them with ``padding`` (as in the paper's code).

    ``None`` = all tokens of images, whose number only the model knows.

    Args:
        batch: inputs of the model.
        name: which tokens (``Group.tokens``): those of the only stack or of the encoder, or those of the decoder.
        padding: count PAD tokens too.
    """
    ids = batch.get(name.replace("attention_mask", "input_ids"))
    mask = batch.get(name)
    if ids is None:
        return None
    return torch.ones_like(ids, dtype=torch.bool) if padding or mask is None else mask.bool()


def calibrate(
    model: nn.Module,
    structure: Structure,
    batches: Sequence[Batch],
    *,
    device: torch.device | str = "cpu",
    weigh: Weigh | None = None,
    padding: bool = False,
    record: DenseRecord | None = None,
    track: Track = silent,
) -> dict[str, Moments]:
    """Moments of the input of the output projection of every group.

    Args:
        model: a model in evaluation mode, on ``device``.
        structure: the groups.
        batches: calibration batches (CPU tensors).
        device: device of the model.
        weigh: weighs the tokens (``TokenWeights``); ``None`` = all tokens alike.
        padding: count PAD tokens too.
        record: keeps what a later fit compares with; ``None`` = nothing is kept.
        track: shows progress.

    Returns:
        Group name -> moments (fp64).

    Raises:
        CalibrationError: there is no data, or an activation is not finite.
    """
    if not batches:
        raise CalibrationError("there are no calibration batches; give at least one text")
    groups = list(structure)
    moments = {group.name: Moments(group.size * group.width) for group in groups}
    watch = _Watch(model, groups)
    masks = {group.tokens for group in groups}
    for batch in track(batches, "calibrate"):
        inputs = {name: value.to(device) for name, value in batch.items()}
        tokens = {name: token_mask(inputs, name, padding=padding) for name in masks}
        weights: Mapping[str, Tensor] = {}
        known = True
        with nullcontext() if record is None else record.recording(batch):
            if weigh is not None:
                known = weigh.knows(inputs)
                weights, watch.seen = (weigh(inputs), {}) if known else weigh.observe(inputs, moments)
            if known:
                with watch, torch.inference_mode():
                    model(**model_inputs(inputs))
        for group in groups:
            watch.take(group, tokens[group.tokens], weights.get(group.name))
        if watch.tokens >= CHUNK_TOKENS or watch.nbytes >= CHUNK_BYTES:
            watch.flush(groups, moments)
    watch.flush(groups, moments)
    return moments


class _Watch:
    """Hooks that keep the input of every output projection in one forward pass; and the tokens not yet summed.

    The hooks are on the model only inside ``with watch:``, so that they see no other forward pass. Adding to a Gram matrix
    takes as long for ten tokens as for a thousand, so tokens are gathered before they are summed.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group]) -> None:
        self.seen: dict[str, list[Tensor]] = {}  # one input for every use of a layer
        self.waiting: dict[str, list[tuple[Tensor, Tensor | None]]] = {group.name: [] for group in groups}
        self.tokens = self.nbytes = 0
        self.projections = [(group, model.get_submodule(group.output_projection)) for group in groups]
        self.handles: list[Any] = []

    def _keep(self, group: Group) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            self.seen.setdefault(group.name, []).append(args[0].detach())

        return hook

    def take(
        self,
        group: Group,
        tokens: Bool[Tensor, "batch sequence"] | None,
        weights: Float[Tensor, "*uses batch sequence"] | None,
    ) -> None:
        """Gather the inputs of the tokens that count (``None`` = of all), and their weights.

        Raises:
            CalibrationError: an input is not finite.
        """
        chosen = slice(None) if tokens is None or bool(tokens.all()) else tokens.flatten()
        parts = [one.flatten(0, -2)[chosen] for one in self.seen.pop(group.name)]
        inputs: Float[Tensor, "kept columns"] = parts[0] if len(parts) == 1 else torch.cat(parts)
        # A sum shows it for less. A sum of finite numbers may overflow, so they are then looked at one by one.
        if not torch.isfinite(inputs.sum()) and not torch.isfinite(inputs).all():
            raise CalibrationError(
                f"the inputs of {group.output_projection} are not finite on the calibration data; check the weights of "
                "the model, or use --dtype float32"
            )
        waiting = self.waiting[group.name]
        if weights is not None:
            weights = weights.reshape(len(parts), -1)[:, chosen].flatten().double()
        waiting.append((inputs, weights))
        self.nbytes += inputs.nbytes
        self.tokens = max(self.tokens, sum(len(rows) for rows, _ in waiting))

    def flush(self, groups: Sequence[Group], moments: dict[str, Moments]) -> None:
        """Add the gathered tokens to the moments."""
        for group in groups:
            waiting = self.waiting[group.name]
            if waiting:
                weights = [part for _, part in waiting if part is not None]
                moments[group.name].update(
                    torch.cat([rows for rows, _ in waiting]), torch.cat(weights) if weights else None
                )
                waiting.clear()
        self.tokens = self.nbytes = 0
        trim_heap()

    def __enter__(self) -> None:
        self.handles = [module.register_forward_hook(self._keep(group)) for group, module in self.projections]

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
