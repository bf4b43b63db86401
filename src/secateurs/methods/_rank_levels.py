"""Another way to make a sub-block faster: its matrices as pairs of factors, all heads or neurons kept.

For every matrix the best approximation of every rank is at hand from one decomposition in the metric of its inputs
(``secateurs.numerics.low_rank``). A *splitting* of a sub-block takes a rank for each of its matrices, all at about one
relative error, and is judged by the error that the whole sub-block then makes, on the scale of a group's levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateurs.latency_table import LatencyTable
from secateurs.layers import layer_paths
from secateurs.numerics.hessian import Moments
from secateurs.numerics.low_rank import factors, lowered
from secateurs.stages.calibrate import calibrate, token_mask
from secateurs.stages.levels import Level, Projection
from secateurs.stages.replay import Replay
from secateurs.stages.stitch import Stitch
from secateurs.structure import Cut, Group, Kind, Structure

__all__ = ["RankLevels", "Splitting", "input_moments"]

Batch = dict[str, Tensor]

ERRORS = tuple(0.5 * 0.6**step for step in range(14))
"""Relative errors of one matrix that are tried, from a half down to a thousandth."""

JUDGED_TOKENS = 2048
"""Tokens on which the error of a splitting is measured, at least (a batch is not divided)."""


@dataclass(frozen=True)
class Splitting:
    """A rank for some matrices of a sub-block.

    Args:
        ranks: name of the group of ranks -> components kept; matrices that are not named stay whole.
        ms: time of the sub-block then.
        error: relative squared error of its output.
    """

    ranks: Mapping[str, int]
    ms: float
    error: float


def input_moments(
    model: nn.Module,
    structure: Structure,
    batches: Sequence[Batch],
    *,
    device: torch.device | str = "cpu",
    padding: bool = False,
    track: Callable[..., Iterable[Any]] = lambda items, title, total=None: items,
) -> dict[str, Moments]:
    """Moments of what the feeders of every group read; they all read one thing.

    Args:
        structure: the groups, without alternatives.

    Returns:
        Group name -> moments.
    """
    watched = tuple(_reads(model, group) for group in structure)
    return calibrate(model, Structure(watched), batches, device=device, padding=padding, track=track)


def _reads(model: nn.Module, group: Group) -> Group:
    """What the feeders of a group read, as if its dimensions were units."""
    path = group.feeders[0]
    module: Any = model.get_submodule(path)
    dim = 0 if hasattr(module, "nf") else 1
    size = module.weight.shape[dim]
    cuts = (Cut(f"{path}.weight", dim),)
    return Group(group.name, Kind.INTERMEDIATE, size, cuts, reader=path, block=path, layer=group.layer, stream=path)


class RankLevels:
    """Splittings of every group, and the level that each of them is.

    Args:
        stitch: the live model, at its dense weights; left so.
        structure: with the alternatives.
        moments: of what readers read, by group.
        reads: of what feeders read, by group.
    """

    def __init__(
        self,
        stitch: Stitch,
        structure: Structure,
        moments: Mapping[str, Moments],
        reads: Mapping[str, Moments],
    ) -> None:
        self.stitch, self.moments, self.reads = stitch, moments, reads
        self.matrices: dict[str, list[Group]] = {}
        for group in structure.alternatives:
            self.matrices.setdefault(group.instead_of, []).append(group)
        self._levels: dict[tuple[tuple[str, int], ...], Level] = {}

    def splittings(
        self,
        table: LatencyTable,
        batches: Sequence[Batch],
        device: torch.device | str = "cpu",
        track: Callable[..., Iterable[Any]] = lambda items, title, total=None: items,
    ) -> dict[str, list[Splitting]]:
        """What is worth offering for every group: one splitting for each error that is tried, if it is faster than the
        whole.

        Args:
            table: prices ranks.
            batches: to judge splittings on.
            device: where the model computes.
            track: shows progress.
        """
        judge = _Judge(self.stitch, _some(batches), device)
        return {name: self._of(name, table, judge) for name in track(list(self.matrices), "split matrices")}

    def level(self, name: str, ranks: Mapping[str, int]) -> Level:
        """All units of a group, and matrices of these ranks, multiplied out (cached)."""
        key = tuple(ranks.items())
        if key not in self._levels:
            self._levels[key] = self._make(name, ranks)
        return self._levels[key]

    def _of(self, name: str, table: LatencyTable, judge: _Judge) -> list[Splitting]:
        found: dict[tuple[tuple[str, int], ...], Splitting] = {}
        whole = table.group_cost(name, self.stitch.structure[name].size)
        spectra = {matrix.name: self._spectrum(matrix) for matrix in self.matrices[name]}
        for error in ERRORS:
            ranks: dict[str, int] = {}
            saved = 0.0
            for matrix in self.matrices[name]:
                curve = table.curve(matrix.name)
                least = int((spectra[matrix.name] > error).sum())
                rank = min(matrix.size, max(1, -(-least // curve.multiple)) * curve.multiple)
                if (less := curve.ms[-1] - float(curve(rank))) > 0:
                    ranks[matrix.name] = rank
                    saved += less
            key = tuple(ranks.items())
            if ranks and key not in found:
                found[key] = Splitting(ranks, max(0.0, whole - saved), judge(name, self.level(name, ranks)))
        return list(found.values())

    def _spectrum(self, matrix: Group) -> Float[Tensor, " ranks+1"]:
        """Relative squared output error of a matrix by the number of components kept."""
        weight, bias, moments = self._matrix(matrix)
        gram = (moments.gram if bias is None else moments.centred()).cpu() / moments.count
        first, second = factors(weight.cpu(), gram=gram)
        # Components do not overlap in the output: their energies add up.
        energy = second.square().sum(0) * torch.einsum("ki,ij,kj->k", first, gram, first)
        left = energy.flip(0).cumsum(0).flip(0)
        return torch.cat([left, left.new_zeros(1)]) / left[0].clamp_min(torch.finfo(left.dtype).tiny)

    def _make(self, name: str, ranks: Mapping[str, int]) -> Level:
        group = self.stitch.structure[name]
        reader = Projection(self.stitch.weight(name), self.stitch.bias(name))
        feeders: dict[str, Tensor] = {}
        for matrix in self.matrices[name]:
            if matrix.name not in ranks:
                continue
            weight, bias = lowered(*self._matrix(matrix), ranks[matrix.name])
            if matrix.product == group.reader:
                reader = Projection(weight, bias)
            else:
                feeders[f"{matrix.product}.weight"] = self.stitch.oriented(matrix.product, weight)
                if bias is not None:
                    feeders[f"{matrix.product}.bias"] = bias
        return Level(torch.arange(group.size), reader.weight, reader.bias, feeders)

    def _matrix(self, matrix: Group) -> tuple[Tensor, Tensor | None, Moments]:
        weight, bias = self.stitch.linear(matrix.product)
        reads = self.stitch.structure[matrix.instead_of].reader == matrix.product
        return weight, bias, (self.moments if reads else self.reads)[matrix.instead_of]


class _Judge:
    """Runs a level of one group in the dense model and compares what its reader puts out."""

    def __init__(self, stitch: Stitch, batches: Sequence[Batch], device: torch.device | str) -> None:
        self.stitch = stitch
        stitch.reset_all()
        layers = layer_paths(stitch.model, stitch.structure)
        self.replay = Replay(stitch.model, layers, batches, device, quick=True)
        self.replay.record(lambda outputs, batch: batch["input_ids"])
        self._dense: dict[str, list[Tensor]] = {}

    def __call__(self, name: str, level: Level) -> float:
        """``||y' - y||^2 / ||y||^2`` over the tokens that count."""
        if name not in self._dense:
            self._dense[name] = self._outputs(name)
        self.stitch.install(name, level.units, level.weight, level.bias, level.feeders)
        ours = self._outputs(name)
        self.stitch.reset(name)
        apart = sum(float((one - other).square().sum()) for one, other in zip(ours, self._dense[name], strict=True))
        return apart / max(sum(float(other.square().sum()) for other in self._dense[name]), 1e-30)

    def _outputs(self, name: str) -> list[Tensor]:
        group = self.stitch.structure[name]
        seen: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            seen[:] = [output.detach()]

        def read(outputs: Any, batch: Batch) -> Tensor:
            return seen[0][token_mask(batch)].double()

        handle = self.stitch.model.get_submodule(group.reader).register_forward_hook(keep)
        try:
            return list(self.replay.run(read, group.layer))
        finally:
            handle.remove()


def _some(batches: Sequence[Batch]) -> list[Batch]:
    """The first batches with as many tokens as are wanted."""
    chosen: list[Batch] = []
    for batch in batches:
        if sum(int(token_mask(one).sum()) for one in chosen) >= JUDGED_TOKENS:
            break
        chosen.append(batch)
    return chosen
