"""Layer-wise distillation for a student with removed layers (CoFi: Xia, Zhong, Chen 2022, section 3.2).

Each of a few teacher layers is matched with the kept student layer whose hidden states are nearest to it after one learned
linear map.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from secateurs.gates.choices import Matching
from secateurs.numerics.token_rows import states_at, token_positions

__all__ = ["LayerMatching", "match", "teacher_layers"]

Hidden = Sequence[Float[Tensor, "batch sequence _"]]


def teacher_layers(count: int) -> tuple[int, ...]:
    """The teacher layers to match: the last layer of each quarter, or all layers if there are fewer than four.

    >>> teacher_layers(12), teacher_layers(6), teacher_layers(3)
    ((2, 5, 8, 11), (0, 2, 3, 5), (0, 1, 2))
    """
    quarters = min(4, count)
    return tuple(count * (part + 1) // quarters - 1 for part in range(quarters))


def _drawn_layers(count: int, seed: int) -> tuple[int, ...]:
    """One random layer of each quarter; the same for the same seed."""
    ends = (-1, *teacher_layers(count))
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        int(torch.randint(low + 1, high + 1, (), generator=generator)) for low, high in itertools.pairwise(ends)
    )


def match(distances: Float[Tensor, "teacher student"], kept: Sequence[bool], *, ordered: bool) -> list[tuple[int, int]]:
    """The student layer for each teacher layer.

    Args:
        distances: distance between every chosen teacher layer (ascending) and every student layer.
        kept: student layers that are not removed; only those are matched.
        ordered: from the last teacher layer down, each match must lie below the one before it.

    Returns:
        Pairs (row of ``distances``, student layer). A teacher layer without a student layer left is dropped.

    >>> near = torch.tensor([[5.0, 0.0, 1.0], [5.0, 0.0, 1.0]])
    >>> match(near, [True, True, True], ordered=False), match(near, [True, True, True], ordered=True)
    ([(0, 1), (1, 1)], [(0, 0), (1, 1)])
    """
    pairs: list[tuple[int, int]] = []
    below = len(kept)
    for row in reversed(range(len(distances))):
        allowed = [layer for layer, stays in enumerate(kept) if stays and (not ordered or layer < below)]
        if not allowed:
            continue
        nearest = min(allowed, key=lambda layer: (float(distances[row, layer]), -layer))
        pairs.append((row, nearest))
        below = nearest
    return pairs[::-1]


class LayerMatching(nn.Module):
    """``sum over matched layers of MSE(W s_m(i), t_i)`` over the tokens that count, with one learned ``W`` (and bias).

    ``W`` starts as the identity (its leading part if the student is narrower) and is dropped after the training.

    Args:
        student: width of the student's hidden states.
        teacher: width of the teacher's hidden states.
        matching: see ``Matching``.
        seed: seed of the layers that are drawn.
    """

    def __init__(self, student: int, teacher: int, *, matching: Matching = "ordered", seed: int = 0) -> None:
        super().__init__()
        self.transform = nn.Linear(student, teacher)
        with torch.no_grad():
            self.transform.weight.copy_(torch.eye(teacher, student))
            self.transform.bias.zero_()
        self.matching, self.seed = matching, seed

    def forward(
        self,
        student: Hidden,
        teacher: Hidden,
        tokens: Bool[Tensor, "batch sequence"],
        kept: Sequence[bool],
        step: int = 0,
    ) -> Float[Tensor, ""]:
        """The loss of one batch.

        Differs from the authors' code: padding is left out, and only kept layers are matched.

        Args:
            student: hidden states of the student, embeddings at index 0.
            teacher: hidden states of the teacher, embeddings at index 0.
            tokens: tokens that count.
            kept: whether each student layer is kept.
            step: optimiser step, for ``random``.
        """
        count = len(teacher) - 1
        wanted = (
            _drawn_layers(count, self.seed * 1_000_003 + step) if self.matching == "random" else teacher_layers(count)
        )
        where = token_positions(tokens)
        chosen = [states_at(teacher[layer + 1], where).float() for layer in wanted]
        ours = {
            layer: self.transform(states_at(student[layer + 1], where)).float()
            for layer, stays in enumerate(kept)
            if stays
        }
        with torch.no_grad():
            distances = chosen[0].new_full((len(chosen), len(kept)), torch.inf)
            for row, theirs in enumerate(chosen):
                for layer, states in ours.items():
                    distances[row, layer] = (states - theirs).square().mean()
            distances = distances.cpu()  # one transfer from a GPU
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(distances)  # one match for all processes
        pairs = match(distances, kept, ordered=self.matching != "any")
        if not pairs:
            return self.transform.bias.sum() * 0.0
        return torch.stack([(ours[layer] - chosen[row]).square().mean() for row, layer in pairs]).sum()
