"""Distillation: what a student is trained to reproduce of its dense teacher.

Two losses are offered beside the divergence of the task's signal. ``square_head`` (Kurtic et al., 2310.06927, eq. 2)
compares every layer with its own twin. ``LayerMatching`` (CoFi: Xia, Zhong, Chen 2022, section 3.2) lets a few teacher
layers be learned by whichever student layers lie nearest to them, since a pruned student may lack some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from secateurs.arithmetic import fast

__all__ = ["LayerMatching", "SquareHead", "match", "square_head", "teacher_layers"]

EPSILON = torch.finfo(torch.bfloat16).eps

Hidden = Sequence[Float[Tensor, "batch sequence hidden"]]


def square_head(student: Hidden, teacher: Hidden, tokens: Bool[Tensor, "batch sequence"]) -> Float[Tensor, ""]:
    """``mean over layers of ||s_k - t_k||^2 / (||t_k||^2 + eps)`` over the tokens that count.

    Index 0 (the embeddings) is left out: pruning does not change it. Differs from the source in taking the mean over
    layers instead of their sum, so that the weight does not depend on depth.
    """
    terms = []
    for ours, theirs in zip(student[1:], teacher[1:], strict=True):
        wanted = theirs[tokens].float()
        terms.append((ours[tokens].float() - wanted).pow(2).mean() / (wanted.pow(2).mean() + EPSILON))
    return torch.stack(terms).mean()


def teacher_layers(count: int) -> tuple[int, ...]:
    """The layers of a teacher that are to be learned: the ends of its four quarters, or all if there are fewer.

    >>> teacher_layers(12), teacher_layers(6), teacher_layers(3)
    ((2, 5, 8, 11), (0, 2, 3, 5), (0, 1, 2))
    """
    quarters = min(4, count)
    return tuple(count * (part + 1) // quarters - 1 for part in range(quarters))


def match(
    distances: Float[Tensor, "teacher student"], kept: Sequence[bool], *, descending: bool
) -> list[tuple[int, int]]:
    """Which student layer learns from which teacher layer.

    Args:
        distances: between every chosen teacher layer (ascending) and every student layer.
        kept: student layers that are not pruned away; the others have nothing to learn with.
        descending: from the last teacher layer down, each match must lie below the one before it (the authors'
            version 4), so that layers keep their order; else each takes the nearest of all (version 3).

    Returns:
        Pairs (row of ``distances``, student layer). A teacher layer for which nothing is left is dropped.
    """
    pairs: list[tuple[int, int]] = []
    below = len(kept)
    for row in reversed(range(len(distances))):
        allowed = [layer for layer, stays in enumerate(kept) if stays and (not descending or layer < below)]
        if not allowed:
            continue
        nearest = min(allowed, key=lambda layer: (float(distances[row, layer]), -layer))
        pairs.append((row, nearest))
        below = nearest
    return pairs[::-1]


class LayerMatching(nn.Module):
    """``sum over matched layers of MSE(W s_m(i), t_i)`` over the tokens that count, with one learned ``W`` (and bias).

    ``W`` starts as the identity (its leading part where the student is narrower) and is thrown away in the end.

    Args:
        student: width of the student's hidden states.
        teacher: width of the teacher's.
        descending: see ``match``.
    """

    def __init__(self, student: int, teacher: int, *, descending: bool = True) -> None:
        super().__init__()
        self.transform = nn.Linear(student, teacher)
        with torch.no_grad():
            self.transform.weight.copy_(torch.eye(teacher, student))
            self.transform.bias.zero_()
        self.descending = descending

    def forward(
        self, student: Hidden, teacher: Hidden, tokens: Bool[Tensor, "batch sequence"], kept: Sequence[bool]
    ) -> Float[Tensor, ""]:
        """Hidden states with the embeddings at index 0; ``kept`` says of each student layer whether it is there.

        Differs from the authors' code in leaving padding out, and in matching layers that are kept alone.
        """
        chosen = [teacher[layer + 1][tokens].float() for layer in teacher_layers(len(teacher) - 1)]
        candidates = {layer: student[layer + 1][tokens] for layer, stays in enumerate(kept) if stays}
        ours = {layer: self.transform(states).float() for layer, states in candidates.items()}
        with torch.no_grad():
            distances = torch.full((len(chosen), len(kept)), torch.inf)
            for row, wanted in enumerate(chosen):
                for layer, states in ours.items():
                    distances[row, layer] = (states - wanted).square().mean()
        pairs = match(distances, kept, descending=self.descending)
        if not pairs:
            return student[0].new_zeros((), dtype=torch.float32)
        return torch.stack([(ours[layer] - chosen[row]).square().mean() for row, layer in pairs]).sum()


@dataclass(frozen=True)
class SquareHead:
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
        features = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**features, output_hidden_states=True)
        # The Trainer's mixed precision covers the student alone.
        with torch.no_grad(), fast(inputs["input_ids"].device):
            wanted = self.teacher(**features, output_hidden_states=True)
        divergence = self.task.divergence(self.task.signal(outputs, inputs), self.task.signal(wanted, inputs)).mean()
        apart = square_head(outputs.hidden_states, wanted.hidden_states, inputs["attention_mask"].bool())
        return self.logits * divergence + self.hidden * apart

    def groups(self, model: nn.Module, learning_rate: float) -> list[dict[str, Any]]:
        """Everything, at one rate."""
        return [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]

    def stepped(self, model: nn.Module) -> None:
        """Nothing to do."""
