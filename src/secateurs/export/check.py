"""``largest_difference``: how far the outputs of an exported file are from those of the model in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateurs.errors import CheckpointError
from secateurs.latency.runtimes import Execute

__all__ = ["TOLERANCE", "Difference", "compared", "largest_difference"]

TOLERANCE = 1e-4
"""Largest difference of an output in float32 with which a file is accepted, where no output exceeds 1; see ``Difference``."""


@dataclass(frozen=True)
class Difference:
    """How far an exported file is from PyTorch, over all outputs of all batches.

    Args:
        largest: largest absolute difference of any number.
        output: name of the output in which it lies.
        scale: largest absolute value of that output in PyTorch, or 1 if that is larger. Rounding in float32 grows with it.
        batches: number of batches.
        same_choice: share of the rows (of logits: of the positions that are not padding) whose largest logit is the same;
            ``None`` for a model without logits.
    """

    largest: float
    output: str
    scale: float
    batches: int
    same_choice: float | None = None

    @property
    def accepted(self) -> bool:
        """Whether the difference is at most ``TOLERANCE`` times the scale. NaN is not."""
        return self.largest <= TOLERANCE * self.scale


def largest_difference(model: Any, execute: Execute, batches: Sequence[Mapping[str, Tensor]], flags: Any) -> Difference:
    """Run every batch in PyTorch and in the exported file.

    Args:
        model: transformers model in float32.
        execute: runs the exported file.
        batches: batches of inputs.
        flags: further arguments of the model.

    Raises:
        CheckpointError: the file cannot run a batch: an axis is not dynamic, say.
    """
    pairs = []
    for batch in batches:
        with torch.no_grad():
            wanted = model(**batch, **flags)
        try:
            found = execute(batch)
        except Exception as error:
            shape = tuple(next(iter(batch.values())).shape)
            line = (str(error).strip() or repr(error)).splitlines()[0]
            raise CheckpointError(f"the exported file cannot run a batch of shape {shape}: {line[:300]}") from error
        pairs.append((wanted, found, batch.get("attention_mask")))
    return compared(pairs)


def compared(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any], Tensor | None]]) -> Difference:
    """The difference of outputs.

    Args:
        pairs: per batch the outputs of PyTorch, those of the file by the same names, and the attention mask. Outputs that are
            no tensors, and caches, are left out.
    """
    worst, same, count = (-1.0, "", 1.0), 0, 0
    for wanted, found, mask in pairs:
        for name, value in wanted.items():
            if not isinstance(value, Tensor) or name not in found:
                continue
            other = torch.as_tensor(np.asarray(found[name]))
            if other.shape != value.shape:
                raise CheckpointError(
                    f"the exported file gives {name} of shape {tuple(other.shape)}, and PyTorch {tuple(value.shape)}"
                )
            if not value.numel():
                continue
            apart = float((other.float() - value.float()).abs().max())
            scale = max(1.0, float(value.abs().max()))
            if np.isnan(apart) or apart / scale > worst[0] / worst[2]:
                worst = (apart, name, scale)
            if name == "logits" and value.shape[-1] > 1:
                agree = other.argmax(-1) == value.argmax(-1)
                if mask is not None and agree.shape == mask.shape:
                    agree = agree[mask.bool()]
                same, count = same + int(agree.sum()), count + agree.numel()
            if np.isnan(apart):
                return Difference(float("nan"), name, scale, len(pairs))
    if not worst[1]:
        raise CheckpointError("the exported file and the model in PyTorch have no output of the same name")
    return Difference(worst[0], worst[1], worst[2], len(pairs), same / count if count else None)
