"""Distillation: what a student is trained to reproduce of its dense teacher.

SquareHead (Kurtic et al., 2310.06927, eq. 2) compares every layer with its own twin, beside the divergence of the task's
signal. Depth and hidden size do not change under pruning, so layers match one to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from secateurs.arithmetic import fast
from secateurs.numerics.token_rows import counted, rows
from secateurs.objective import Objective
from secateurs.tasks import model_inputs

__all__ = ["SquareHead", "square_head"]

EPSILON = torch.finfo(torch.bfloat16).eps

Hidden = Sequence[Float[Tensor, "batch sequence hidden"]]


def square_head(student: Hidden, teacher: Hidden, tokens: Bool[Tensor, "batch sequence"]) -> Float[Tensor, ""]:
    """``mean over layers of ||s_k - t_k||^2 / (||t_k||^2 + eps)`` over the tokens that count.

    Index 0 (the embeddings) is left out: pruning does not change it. Differs from the source in taking the mean over
    layers instead of their sum, so that the weight does not depend on depth.
    """
    terms, where = [], counted(tokens)
    for ours, theirs in zip(student[1:], teacher[1:], strict=True):
        wanted = rows(theirs, where).float()
        terms.append((rows(ours, where).float() - wanted).pow(2).mean() / (wanted.pow(2).mean() + EPSILON))
    return torch.stack(terms).mean()


@dataclass(frozen=True)
class SquareHead(Objective):
    """The objective of recovery: the divergence of the task's signal, and every layer like its twin.

    Args:
        teacher: the dense model, in evaluation mode, on the student's device.
        task: whose ``signal`` and ``divergence`` are matched.
        logits: weight of the divergence.
        hidden: weight of the layers' distance.
    """

    teacher: nn.Module
    task: Any
    logits: float = 1.0
    hidden: float = 1.0
    name: str = "recovery"

    def loss(self, model: nn.Module, inputs: dict[str, Tensor], step: int) -> Tensor:
        """The weighted sum; needs no labels."""
        features = model_inputs(inputs)
        model.eval()  # the teacher answers without dropout, and so must whoever learns to answer like it
        outputs = model(**features, output_hidden_states=True)
        # The Trainer's mixed precision covers the student alone.
        with torch.no_grad(), fast(inputs["input_ids"].device):
            wanted = self.teacher(**features, output_hidden_states=True)
        divergence = self.task.divergence(self.task.signal(outputs, inputs), self.task.signal(wanted, inputs)).mean()
        apart = square_head(outputs.hidden_states, wanted.hidden_states, inputs["attention_mask"].bool())
        return self.logits * divergence + self.hidden * apart
