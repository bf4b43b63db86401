"""Gates: a learned number in [0, 1] for every unit (fine) and every group (coarse), multiplied into the weights.

CoFi (Xia, Zhong, Chen 2022) calls fine gates z_head and z_int, coarse gates z_MHA and z_FFN. A fine gate scales the columns
of its unit in the output projection. A coarse gate scales all that the sub-block adds to the residual stream: the rows of
the output projection and its bias. A model with gates therefore equals the model with scaled weights. Folding gates of any
value into the weights changes no output, and a unit with gate 0 can be cut away.

A hidden gate (z_hidn) scales one dimension of everything that is written to the residual stream, and norms over the stream
are taken over the open dimensions. Likewise norms over all units of a group (``Group.joint_norms``) are taken over its open
units.

Differs from the authors' code in two points. It multiplies activations, and folds them with an error. It also skips the norm
after a removed post-LN sub-block; here a removed sub-block is defined alike in the masked and in the shrunk model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from secateurs.gates.choices import REACH
from secateurs.gates.fold import Opening, fold
from secateurs.numerics.hard_concrete import HardConcrete
from secateurs.structure.structure import Structure
from secateurs.surgery.masked_norm import mask_joint_norms, mask_norm, unmask_norm

__all__ = ["Gated", "Gates"]

SPREAD = 0.01
"""Standard deviation of ``log_alpha`` at the start, so that no two units are equal."""


class Gates(nn.Module):
    """``log_alpha`` of every gate of a structure.

    Args:
        structure: the groups that get gates, and the residual stream if it is pruned.
        coarse: learn coarse gates; otherwise they stay at 1.
        hidden: learn hidden gates; otherwise they stay at 1.
        start: ``log_alpha`` of all gates at the start.
        reach: bound on the absolute value of ``log_alpha``.
        seed: seed of the spread at the start.
        distribution: distribution of every gate; ``None`` = CoFi's.
        threshold_at_half: a budget counts a gate as open if its open probability is above 1/2; otherwise it counts the
            expected number of open gates.
    """

    def __init__(
        self,
        structure: Structure,
        *,
        coarse: bool = True,
        hidden: bool = True,
        start: float = REACH,
        reach: float = REACH,
        seed: int = 0,
        distribution: HardConcrete | None = None,
        threshold_at_half: bool = True,
    ) -> None:
        super().__init__()
        self.threshold_at_half = threshold_at_half
        self.names = tuple(group.name for group in structure)
        self.sizes = [group.size for group in structure]
        self.distribution, self.reach = distribution or HardConcrete(), reach
        generator = torch.Generator().manual_seed(seed)
        self.stream = structure.stream
        parts = [sum(self.sizes), len(self.sizes), self.stream.size if self.stream else 0]
        log_alpha = start - SPREAD * torch.randn(sum(parts), generator=generator).abs()
        units, groups, dimensions = log_alpha.split(parts)
        self.fine = nn.Parameter(units.clone())
        self.coarse = nn.Parameter(groups.clone(), requires_grad=coarse)
        self.hidden = nn.Parameter(dimensions.clone(), requires_grad=hidden and self.stream is not None)

    def sample(self, seed: int, step: int) -> Opening:
        """One sample of every gate. It depends on seed and step alone, not on the machine or the rank."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        parts = [len(self.fine), len(self.coarse), len(self.hidden)]
        fine, coarse, hidden = torch.rand(sum(parts), generator=generator).to(self.fine).split(parts)
        sample = self.distribution.sample
        return self._opening(
            sample(self.fine, fine),
            sample(self.coarse, coarse) if self.coarse.requires_grad else torch.ones_like(self.coarse),
            sample(self.hidden, hidden) if self.hidden.requires_grad else torch.ones_like(self.hidden),
        )

    def deterministic(self) -> Opening:
        """The expected number of gates open, each at its own value; the others are exactly 0."""
        return self.opened(self.counts())

    def opened(self, counts: Mapping[str, int]) -> Opening:
        """Open the given number of units of each group, those with the highest ``log_alpha``; 0 closes the group."""
        fine = [
            self.distribution.deterministic(log_alpha, counts[name])
            for name, log_alpha in zip(self.names, self.fine.split(self.sizes), strict=True)
        ]
        stays = torch.tensor([counts[name] > 0 for name in self.names]).to(self.coarse)
        coarse = self.distribution.soft(self.coarse) if self.coarse.requires_grad else torch.ones_like(self.coarse)
        hidden = torch.ones_like(self.hidden)
        if self.stream and self.hidden.requires_grad:
            hidden = self.distribution.deterministic(self.hidden, counts[self.stream.name])
        return self._opening(torch.cat(fine), coarse * stays, hidden)

    def counts(self, shift: float = 0.0, reopened: int = 0, *, threshold_at_half: bool = False) -> dict[str, int]:
        """Expected number of open units of each group; 0 where the coarse gate closes the group.

        Args:
            shift: offset that is added to each fine ``log_alpha``.
            reopened: number of closed groups that count as open, those with the highest open probability first.
            threshold_at_half: count the units with an open probability above 1/2 instead. A thousand gates with a small
                open probability still expect dozens of open units, whose weights would be almost 0.
        """
        fine = self.distribution.open_probability(self.fine.detach().double() + shift)
        fine = ((fine > 0.5).double() if threshold_at_half else fine).split(self.sizes)
        closed = set(self.closed()[reopened:])
        counts = {
            name: 0 if name in closed else round(float(group.sum()))
            for name, group in zip(self.names, fine, strict=True)
        }
        if self.stream:
            hidden = self.distribution.open_probability(self.hidden.detach().double()).sum().item()
            counts[self.stream.name] = max(1, round(hidden)) if self.hidden.requires_grad else self.stream.size
        return counts

    def closed(self) -> list[str]:
        """Groups whose coarse gate has an open probability below 1/2, the highest probability first."""
        if not self.coarse.requires_grad:
            return []
        open_probability = self.distribution.open_probability(self.coarse.detach().double()).tolist()
        found = [(value, name) for value, name in zip(open_probability, self.names, strict=True) if value < 0.5]
        return [name for _, name in sorted(found, key=lambda pair: -pair[0])]

    def expected(self) -> tuple[dict[str, Float[Tensor, ""]], dict[str, Float[Tensor, ""]]]:
        """Probability that each group is present, and its expected number of open units if it is; differentiable.

        Computed on the CPU, since a GPU would wait for such small tensors.
        """
        fine = self.distribution.open_probability(self.fine.cpu()).split(self.sizes)
        coarse = self.distribution.open_probability(self.coarse.cpu())
        if not self.coarse.requires_grad:
            coarse = torch.ones_like(coarse)
        present = dict(zip(self.names, coarse, strict=True))
        counts = {name: group.sum() for name, group in zip(self.names, fine, strict=True)}
        if self.stream:
            hidden = self.distribution.open_probability(self.hidden.cpu()) if self.hidden.requires_grad else None
            counts[self.stream.name] = fine[0].new_tensor(self.stream.size) if hidden is None else hidden.sum()
        return present, counts

    @torch.no_grad()
    def clamp(self) -> None:
        """Clip every ``log_alpha`` to ``reach``; to be called after every optimiser step."""
        for log_alpha in self.parameters():
            log_alpha.clamp_(-self.reach, self.reach)

    def _opening(
        self, fine: Float[Tensor, " units"], coarse: Float[Tensor, " groups"], hidden: Float[Tensor, " hidden"]
    ) -> Opening:
        return Opening(
            dict(zip(self.names, fine.split(self.sizes), strict=True)),
            dict(zip(self.names, coarse, strict=True)),
            {self.stream.name: hidden} if self.stream else {},
        )


class Gated(nn.Module):
    """A model with gates, which are sampled in training mode and deterministic in evaluation mode.

    Args:
        model: a transformers model.
        structure: structure of ``model``.
        gates: gates of ``structure``.
        seed: seed of the samples.
    """

    def __init__(self, model: nn.Module, structure: Structure, gates: Gates, *, seed: int = 0) -> None:
        super().__init__()
        self.model, self.gates = model, gates
        self.structure, self.seed = structure, seed
        self.step = 0
        """Optimiser step. All forward passes of one step use the same sample, on every rank."""

    @property
    def config(self) -> Any:
        return self.model.config

    def forward(self, **inputs: Any) -> Any:
        """The outputs of the gated model."""
        return self.opened(self.opening(), **inputs)

    def opening(self) -> Opening:
        """The current values of the gates."""
        return self.gates.sample(self.seed, self.step) if self.training else self.gates.deterministic()

    def opened(self, opening: Opening, **inputs: Any) -> Any:
        """The outputs of the model with these values of its gates."""
        self._norms(opening)
        return functional_call(self.model, fold(self.model, self.structure, opening, slim=True), (), inputs)

    @torch.no_grad()
    def folded(self, opening: Opening) -> nn.Module:
        """Fold the gates into the weights of the model, in place, and return it."""
        for name, value in fold(self.model, self.structure, opening).items():
            self.model.get_parameter(name).copy_(value)
        self._norms(opening)
        return self.model

    def _norms(self, opening: Opening) -> None:
        """Take the norms of the stream over the open dimensions, and those over the units of a group over its open units."""
        for group in self.structure:
            if group.joint_norms:
                value = opening.fine[group.name] * opening.coarse[group.name]
                mask_joint_norms(self.model, group, (value > 0).detach())
        stream = self.structure.stream
        if not stream:
            return
        kept = (opening.stream[stream.name] > 0).detach()
        whole = bool(kept.all())
        for path in stream.norms:
            norm = self.model.get_submodule(path)
            unmask_norm(norm) if whole else mask_norm(norm, kept)
