"""Low-rank options: a sub-block made faster by splitting its matrices into factors, with all heads or neurons kept.

One decomposition in the metric of its inputs gives the best approximation of a matrix at every rank
(``secateurs.numerics.low_rank``). A *low-rank option* of a sub-block sets a rank for each of its matrices, all at about one
relative error. Its own error is measured on the output of the whole sub-block, on the same scale as that of the levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateurs.latency.table import LatencyTable
from secateurs.numerics.hessian import Moments
from secateurs.numerics.low_rank import Decomposition
from secateurs.oneshot.calibrate import calibrate, token_mask
from secateurs.oneshot.levels import Level, Projection
from secateurs.oneshot.recent import Recent
from secateurs.oneshot.replay import Replay
from secateurs.oneshot.stitch import Stitch
from secateurs.oneshot.windows import WINDOW_BYTES
from secateurs.progress import Track, silent
from secateurs.structure.cut import Cut, Kind
from secateurs.structure.layers import layer_paths
from secateurs.structure.structure import Group, Structure
from secateurs.tasks.base import Batch, main_input

__all__ = ["LowRankOption", "LowRankOptions", "input_projection_moments"]

MATRIX_ERRORS = tuple(0.5 * 0.6**step for step in range(14))
"""Relative errors of one matrix that are tried, from a half down to a thousandth."""

MEASURED_TOKENS = 2048
"""Tokens on which the error of an option is measured, at least (batches are not divided)."""


@dataclass(frozen=True)
class LowRankOption:
    """A rank for some matrices of a sub-block.

    Args:
        ranks: name of the rank group of a matrix -> components kept; other matrices stay as they are.
        ms: milliseconds of the sub-block with these ranks.
        error: relative squared error of the output of the sub-block.
    """

    ranks: Mapping[str, int]
    ms: float
    error: float


def input_projection_moments(
    model: nn.Module,
    structure: Structure,
    batches: Sequence[Batch],
    *,
    device: torch.device | str = "cpu",
    padding: bool = False,
    track: Track = silent,
) -> dict[str, Moments]:
    """Moments of the input of the input projections of every group, those in ``Group.memory`` excepted.

    Args:
        model: the dense model, on ``device``.
        structure: the groups, without low-rank options.
        batches: calibration batches (CPU tensors).
        device: device of the model.
        padding: count PAD tokens too.
        track: shows progress.

    Returns:
        Group name -> moments.
    """
    watched = tuple(_input_as_group(model, group) for group in structure)
    return calibrate(model, Structure(watched), batches, device=device, padding=padding, track=track)


def _input_as_group(model: nn.Module, group: Group) -> Group:
    """A group whose units are the input dimensions of the input projections, for ``calibrate``."""
    path = group.input_projections[0]
    module: Any = model.get_submodule(path)
    dim = 0 if hasattr(module, "nf") else 1
    size = module.weight.shape[dim]
    cuts = (Cut(f"{path}.weight", dim),)
    return Group(
        group.name,
        Kind.INTERMEDIATE,
        size,
        cuts,
        output_projection=path,
        block=path,
        layer=group.layer,
        stream=path,
        tokens=group.tokens,
    )


class LowRankOptions:
    """Finds the low-rank options of every group, and makes the level of each.

    Args:
        stitch: the live model with its dense weights; it is left so.
        structure: the groups and their low-rank options.
        output_moments: moments of the input of the output projection, by group.
        input_moments: moments of the input of the input projections, by group.
    """

    def __init__(
        self,
        stitch: Stitch,
        structure: Structure,
        output_moments: Mapping[str, Moments],
        input_moments: Mapping[str, Moments],
    ) -> None:
        self.stitch, self.output_moments, self.input_moments = stitch, output_moments, input_moments
        self.matrices: dict[str, list[Group]] = {}
        for group in structure.low_rank_options:
            self.matrices.setdefault(group.instead_of, []).append(group)
        self._levels = Recent[tuple[tuple[str, int], ...], Level](_bytes, WINDOW_BYTES)
        self._decompositions = Recent[str, Decomposition](lambda one: one.nbytes, WINDOW_BYTES)

    def find(
        self, table: LatencyTable, batches: Sequence[Batch], device: torch.device | str = "cpu", track: Track = silent
    ) -> dict[str, list[LowRankOption]]:
        """One option per group and matrix error that is tried, if it is faster than the full sub-block.

        Args:
            table: price of ranks.
            batches: batches on which errors are measured.
            device: device of the model.
            track: shows progress.
        """
        output_error = _OutputError(self.stitch, _first_tokens(batches), device)
        return {name: self._of(name, table, output_error) for name in track(list(self.matrices), "split matrices")}

    def level(self, name: str, ranks: Mapping[str, int]) -> Level:
        """All units of a group, with matrices of these ranks multiplied out; those used last are remembered."""
        return self._levels.get(tuple(ranks.items()), lambda: self._make(name, ranks))

    def _of(self, name: str, table: LatencyTable, output_error: _OutputError) -> list[LowRankOption]:
        found: dict[tuple[tuple[str, int], ...], LowRankOption] = {}
        full = table.group_cost(name, self.stitch.structure[name].size)
        errors = {matrix.name: self._decomposition(matrix).errors for matrix in self.matrices[name]}
        for error in MATRIX_ERRORS:
            ranks: dict[str, int] = {}
            saved = 0.0
            for matrix in self.matrices[name]:
                curve = table.curve(matrix.name)
                least = int((errors[matrix.name] > error).sum())
                rank = min(matrix.size, max(1, -(-least // curve.multiple)) * curve.multiple)
                if (less := curve.ms[-1] - float(curve(rank))) > 0:
                    ranks[matrix.name] = rank
                    saved += less
            key = tuple(ranks.items())
            if ranks and key not in found:
                found[key] = LowRankOption(ranks, max(0.0, full - saved), output_error(name, self.level(name, ranks)))
        return list(found.values())

    def _make(self, name: str, ranks: Mapping[str, int]) -> Level:
        group = self.stitch.structure[name]
        output = Projection(self.stitch.weight(name), self.stitch.bias(name))
        inputs: dict[str, Tensor] = {}
        for matrix in self.matrices[name]:
            if matrix.name not in ranks:
                continue
            weight, bias = self._decomposition(matrix).at(ranks[matrix.name])
            if matrix.product == group.output_projection:
                output = Projection(weight, bias)
            else:
                inputs[f"{matrix.product}.weight"] = self.stitch.oriented(matrix.product, weight)
                if bias is not None:
                    inputs[f"{matrix.product}.bias"] = bias
        return Level(torch.arange(group.size), output.weight, output.bias, inputs)

    def _decomposition(self, matrix: Group) -> Decomposition:
        """The decomposition of a matrix; those used last are remembered."""

        def make() -> Decomposition:
            is_output = self.stitch.structure[matrix.instead_of].output_projection == matrix.product
            moments = (self.output_moments if is_output else self.input_moments)[matrix.instead_of]
            return Decomposition.of(*self.stitch.linear(matrix.product), moments)

        return self._decompositions.get(matrix.name, make)


def _bytes(level: Level) -> float:
    """Bytes of the matrices of a level."""
    return level.weight.nbytes + sum(tensor.nbytes for tensor in level.input_projections.values())


class _OutputError:
    """Runs a level of one group in the dense model and compares the output of its output projection."""

    def __init__(self, stitch: Stitch, batches: Sequence[Batch], device: torch.device | str) -> None:
        self.stitch = stitch
        stitch.reset_all()
        layers = layer_paths(stitch.model, stitch.structure)
        self.replay = Replay(stitch.model, layers, batches, device, quick=True)
        self.replay.record(lambda outputs, batch: main_input(batch))
        self._dense: dict[str, list[Tensor]] = {}

    def __call__(self, name: str, level: Level) -> float:
        """``||y' - y||^2 / ||y||^2`` over the tokens that count."""
        if name not in self._dense:
            self._dense[name] = self._outputs(name)
        self.stitch.install(name, level)
        ours = self._outputs(name)
        self.stitch.reset(name)
        apart = sum(float((one - other).square().sum()) for one, other in zip(ours, self._dense[name], strict=True))
        return apart / max(sum(float(other.square().sum()) for other in self._dense[name]), 1e-30)

    def _outputs(self, name: str) -> list[Tensor]:
        group = self.stitch.structure[name]
        seen: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            seen.append(output.detach())

        def read(outputs: Any, batch: Batch) -> Tensor:
            mask = token_mask(batch, group.tokens)
            outputs = torch.cat(
                [output if mask is None else output[mask] for output in seen]
            )  # of every use of the layer
            seen.clear()
            return outputs.double()

        handle = self.stitch.model.get_submodule(group.output_projection).register_forward_hook(keep)
        try:
            return list(self.replay.run(read, group.layer))
        finally:
            handle.remove()


def _first_tokens(batches: Sequence[Batch]) -> list[Batch]:
    """The first batches that hold ``MEASURED_TOKENS`` tokens together."""
    chosen: list[Batch] = []
    tokens = 0
    for batch in batches:
        if tokens >= MEASURED_TOKENS:
            break
        chosen.append(batch)
        mask = token_mask(batch)
        tokens += MEASURED_TOKENS if mask is None else int(mask.sum())
    return chosen
