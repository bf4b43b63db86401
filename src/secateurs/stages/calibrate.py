"""Calibration: what every output projection sees on the data, as sums of ``x``, ``x x^T`` and a token count.

PAD tokens are left out. Labels are not needed. The sums are streamed batch by batch, so memory does not grow with the
number of samples: it is that of one float64 Gram matrix a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from secateurs.errors import CalibrationError
from secateurs.numerics.hessian import Moments
from secateurs.structure import Group, Structure
from secateurs.tasks import model_inputs

__all__ = ["calibrate", "token_mask"]

Batch = dict[str, Tensor]

CHUNK_TOKENS = 4096
"""Tokens gathered before they are added to the Gram matrices."""


def token_mask(batch: Batch, *, padding: bool = False) -> Bool[Tensor, "batch sequence"]:
    """Which tokens count: all that are not PAD, or all of them with ``padding`` (as the paper's code does)."""
    ids = batch["input_ids"]
    mask = batch.get("attention_mask")
    return torch.ones_like(ids, dtype=torch.bool) if padding or mask is None else mask.bool()


def calibrate(
    model: nn.Module,
    structure: Structure,
    batches: Sequence[Batch],
    *,
    device: torch.device | str = "cpu",
    weigh: Callable[[Batch], Mapping[str, Tensor]] | None = None,
    padding: bool = False,
    track: Callable[..., Iterable[Any]] = lambda items, title, total=None: items,
) -> dict[str, Moments]:
    """Moments of the reader inputs of every group.

    Args:
        model: in evaluation mode, on ``device``.
        structure: whose readers are watched.
        batches: calibration batches (CPU tensors).
        weigh: how much the tokens of a batch count, by group (``secateurs.stages.importance``); ``None`` = all alike.
        padding: count PAD tokens too.

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
    for batch in track(batches, "calibrate"):
        inputs = {name: value.to(device) for name, value in batch.items()}
        tokens = token_mask(inputs, padding=padding).flatten()
        weights = weigh(inputs) if weigh is not None else {}  # runs the model too, so it comes before the hooks
        with watch, torch.inference_mode():
            model(**model_inputs(inputs))
        for group in groups:
            watch.take(group, tokens, weights.get(group.name))
        if watch.tokens >= CHUNK_TOKENS:
            watch.flush(groups, moments)
    watch.flush(groups, moments)
    return moments


class _Watch:
    """Hooks that hold the input of every reader in one forward pass, and the tokens not yet summed.

    The hooks are on the model inside ``with watch:`` alone, so that they see no pass but the one they are meant for.
    A Gram matrix costs as much to add to for ten tokens as for a thousand, so tokens are gathered before they are summed.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group]) -> None:
        self.seen: dict[str, Tensor] = {}
        self.waiting: dict[str, list[tuple[Tensor, Tensor | None]]] = {group.name: [] for group in groups}
        self.tokens = 0
        self.readers = [(group, model.get_submodule(group.reader)) for group in groups]
        self.handles: list[Any] = []

    def _keep(self, group: Group) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            self.seen[group.name] = args[0].detach()

        return hook

    def take(
        self, group: Group, tokens: Bool[Tensor, " tokens"], weights: Float[Tensor, "batch sequence"] | None
    ) -> None:
        """Gather the inputs of the tokens that count, and their weights.

        Raises:
            CalibrationError: an input is not finite.
        """
        inputs: Float[Tensor, "kept columns"] = self.seen.pop(group.name).flatten(0, -2)[tokens]
        if not torch.isfinite(inputs).all():
            raise CalibrationError(
                f"the inputs of {group.reader} are not finite on the calibration data; check the weights of the model, "
                "or use --dtype float32"
            )
        waiting = self.waiting[group.name]
        waiting.append((inputs, None if weights is None else weights.flatten()[tokens].double()))
        self.tokens = max(self.tokens, sum(len(rows) for rows, _ in waiting))

    def flush(self, groups: Sequence[Group], moments: dict[str, Moments]) -> None:
        """Add what was gathered to the moments."""
        for group in groups:
            waiting = self.waiting[group.name]
            if waiting:
                weights = [part for _, part in waiting if part is not None]
                moments[group.name].update(
                    torch.cat([rows for rows, _ in waiting]), torch.cat(weights) if weights else None
                )
                waiting.clear()
        self.tokens = 0

    def __enter__(self) -> None:
        self.handles = [reader.register_forward_hook(self._keep(group)) for group, reader in self.readers]

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
