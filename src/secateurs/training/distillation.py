"""SquareHead distillation: a student is trained to reproduce the outputs and all layers of its dense teacher.

SquareHead (Kurtic et al., 2310.06927, eq. 2) compares every student layer with the same layer of the teacher, in addition to
the divergence of the compared outputs. Student and teacher need the same depth and hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from secateurs.numerics.precision import autocast_if_fast
from secateurs.numerics.token_rows import states_at, token_positions
from secateurs.tasks.base import Task, main_input, model_inputs
from secateurs.training.layer_states import layer_states
from secateurs.training.objective import Objective

__all__ = ["SquareHead", "square_head"]

EPSILON = torch.finfo(torch.bfloat16).eps

Hidden = Sequence[Float[Tensor, "batch sequence hidden"]]


def square_head(student: Hidden, teacher: Hidden, tokens: Bool[Tensor, "batch sequence"]) -> Float[Tensor, ""]:
    """``mean over layers k of ||s_k - t_k||^2 / (||t_k||^2 + eps)``, with norms over the tokens in the mask.

    Differs from the paper in the mean over layers instead of the sum, so that the weight does not depend on depth.

    Args:
        student: hidden states ``s_k`` of the student; index 0 (the embeddings) is skipped, since pruning does not change it.
        teacher: hidden states ``t_k`` of the teacher, likewise.
        tokens: token mask, false at padding.
    """
    terms, where = [], token_positions(tokens)
    for ours, theirs in zip(student[1:], teacher[1:], strict=True):
        wanted = states_at(theirs, where).float()
        terms.append((states_at(ours, where).float() - wanted).pow(2).mean() / (wanted.pow(2).mean() + EPSILON))
    return torch.stack(terms).mean()


@dataclass(frozen=True)
class SquareHead(Objective):
    """The fine-tuning objective ``logits * divergence + hidden * square_head``; it needs no labels.

    Args:
        teacher: the dense model, in evaluation mode, on the student's device.
        task: defines the compared outputs and their divergence.
        logits: weight of the divergence of the compared outputs.
        hidden: weight of the distance of the layers (``square_head``).
        name: name in messages.
    """

    teacher: nn.Module
    task: Task
    logits: float = 1.0
    hidden: float = 1.0
    name: str = "recovery"

    def loss(self, model: nn.Module, inputs: dict[str, Tensor], step: int) -> Float[Tensor, ""]:
        """See ``Objective.loss``."""
        features = model_inputs(inputs)
        model.eval()  # no dropout: the outputs to reproduce come from a teacher without dropout
        outputs = model(**features, output_hidden_states=True)
        # The Trainer's mixed precision covers the student only.
        with torch.no_grad(), autocast_if_fast(main_input(inputs).device):
            wanted = self.teacher(**features, output_hidden_states=True)
        divergence = self.task.divergence(
            self.task.compared_outputs(outputs, inputs), self.task.compared_outputs(wanted, inputs)
        ).mean()
        pairs = zip(layer_states(outputs, inputs), layer_states(wanted, inputs), strict=True)
        distances = [square_head(ours, theirs, tokens) for (ours, tokens), (theirs, _) in pairs]
        return self.logits * divergence + self.hidden * torch.stack(distances).mean()
