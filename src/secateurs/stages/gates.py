"""Gates: a learned number in [0, 1] for every unit (fine) and every group (coarse), multiplied into the weights.

What CoFi (Xia, Zhong, Chen 2022) calls z_head and z_int are fine gates, z_MHA and z_FFN coarse ones. A fine gate
scales its unit where it is read: the columns of the output or down projection. A coarse gate scales all that the
sub-block adds to the residual stream: the rows of that projection, and its bias. So the model with gates *is* the
model with scaled weights: folding the gates in for good changes nothing, whatever their values, and where a gate is 0
its unit can be cut away.

A hidden gate (z_hidn) belongs to the whole model: it scales a dimension of all that is written to the residual stream, and
norms of the stream are taken over the dimensions that are open.

Differs from the authors' code, which multiplies activations and folds with an error, and which skips the norm behind a
removed post-LN sub-block: here a removed sub-block is what it is everywhere in Secateurs, masked and shrunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from secateurs.fold import Opening, fold
from secateurs.kept_norm import keep, release
from secateurs.numerics.hard_concrete import HardConcrete
from secateurs.structure import Structure

__all__ = ["Gated", "Gates"]

REACH = 4.605170185988092
"""``ln 100``: ``log_alpha`` stays within plus and minus this, so that no gate gets out of reach of the gradient."""

SPREAD = 0.01
"""Standard deviation of ``log_alpha`` at the start: no two units alike."""


class Gates(nn.Module):
    """``log_alpha`` of every gate of a structure, and what follows from it.

    Args:
        structure: its groups get gates, and its stream, if it has one.
        coarse: let whole groups be closed; else their coarse gates stay at 1.
        hidden: let dimensions of the stream be closed; else they stay at 1.
        start: ``log_alpha`` of all of them at the start.
        reach: how far from 0 they may go.
        seed: of the spread at the start.
        distribution: of every gate; CoFi's if ``None``.
        rather: of those that are rather open than shut as many stay as meet a budget; else of those expected to be open.
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
        rather: bool = True,
    ) -> None:
        super().__init__()
        self.rather = rather
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
        """One sample of every gate; the same for the same seed and step, on every machine and rank."""
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
        """As many open as are expected to be, each at its own value; the others exactly 0."""
        return self.opened(self.counts())

    def opened(self, counts: Mapping[str, int]) -> Opening:
        """The given number of units of each group, those with the highest ``log_alpha``; 0 closes the group."""
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

    def counts(self, shift: float = 0.0, reopened: int = 0, *, rather: bool = False) -> dict[str, int]:
        """Units expected to be open if every fine ``log_alpha`` were higher by ``shift``; 0 where the group closes.

        Args:
            shift: added to each fine ``log_alpha``.
            reopened: so many of the groups that close stay open nevertheless, the most open first.
            rather: count the units that are rather open than shut, in place of the expectation. A thousand gates that
                are all but shut still expect dozens to be open, and those would have weights of all but 0.
        """
        fine = self.distribution.open_probability(self.fine.detach().double() + shift)
        fine = ((fine > 0.5).double() if rather else fine).split(self.sizes)
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
        """Groups that their coarse gate closes more often than not, the most open first."""
        if not self.coarse.requires_grad:
            return []
        open_probability = self.distribution.open_probability(self.coarse.detach().double()).tolist()
        found = [(value, name) for value, name in zip(open_probability, self.names, strict=True) if value < 0.5]
        return [name for _, name in sorted(found, key=lambda pair: -pair[0])]

    def expected(self) -> tuple[dict[str, Float[Tensor, ""]], dict[str, Float[Tensor, ""]]]:
        """Probability that each group is there, and its expected number of open units if it is; differentiable.

        On the CPU, wherever the gates are: what is made of so few numbers would keep a GPU waiting.
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
        """Keep every ``log_alpha`` where its gate can still move; to be called after every step of the optimiser."""
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
    """A model with gates: sampled while it trains, deterministic while it is evaluated.

    Args:
        model: a transformers model.
        structure: of that model.
        gates: for that structure.
        seed: of the samples.
    """

    def __init__(self, model: nn.Module, structure: Structure, gates: Gates, *, seed: int = 0) -> None:
        super().__init__()
        self.model, self.gates = model, gates
        self.structure, self.seed = structure, seed
        self.step = 0
        """Samples of the same step are the same: in every forward pass of it, and on every rank."""

    @property
    def config(self) -> Any:
        return self.model.config

    def forward(self, **inputs: Any) -> Any:
        """The model's own outputs."""
        return self.opened(self.opening(), **inputs)

    def opening(self) -> Opening:
        """How far the gates are open now."""
        return self.gates.sample(self.seed, self.step) if self.training else self.gates.deterministic()

    def opened(self, opening: Opening, **inputs: Any) -> Any:
        """The model's outputs with its gates open so far."""
        self._norms(opening)
        return functional_call(self.model, fold(self.model, self.structure, opening, slim=True), (), inputs)

    @torch.no_grad()
    def folded(self, opening: Opening) -> nn.Module:
        """The model itself with the gates folded in for good."""
        for name, value in fold(self.model, self.structure, opening).items():
            self.model.get_parameter(name).copy_(value)
        self._norms(opening)
        return self.model

    def _norms(self, opening: Opening) -> None:
        """Norms of the stream look at open dimensions only."""
        stream = self.structure.stream
        if not stream:
            return
        kept = (opening.stream[stream.name] > 0).detach()
        whole = bool(kept.all())
        for path in stream.norms:
            norm = self.model.get_submodule(path)
            release(norm) if whole else keep(norm, kept)
