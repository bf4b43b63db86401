"""The level database: for every group, the order in which units are removed and the best weights at *any* kept count.

One greedy elimination and one Cholesky factor per group (``secateurs.numerics``) serve every level of every target. With bias
compensation the output projection is refitted as least squares with an intercept: moments are centred,
``Hc = H - N mu mu^T``, and ``b' = b + (W - W') mu``. Inputs that change no output are dead: they are removed first and get
zero weight; the bias takes over the contribution of an input that is constant. Dead inputs are determined once, from the
undamped moments, and the order, the weights and the errors use the same mask.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from secateurs.errors import CalibrationError
from secateurs.numerics.hessian import Moments, damped
from secateurs.numerics.level_factor import LevelFactor
from secateurs.numerics.obs import elimination_order
from secateurs.numerics.parallel_map import parallel_map
from secateurs.oneshot.recent import Recent
from secateurs.oneshot.stored_moments import StoredMoments
from secateurs.oneshot.windows import WINDOW_BYTES
from secateurs.progress import Track, silent
from secateurs.structure.structure import Group, Structure

__all__ = ["Level", "LevelDatabase", "Projection", "Whitening"]

logger = logging.getLogger(__name__)
_PANEL = 256  # columns per product of a whitening
_MEMORY = 4 << 30  # bytes for all eliminations that run at once
_COPIES = 4  # float64 matrices (columns x columns) that one elimination holds


@dataclass(frozen=True)
class Projection:
    """A dense output projection in Linear's orientation: ``weight`` (rows x columns), ``bias`` (rows) or ``None``."""

    weight: Float[Tensor, "rows columns"]
    bias: Float[Tensor, " rows"] | None


@dataclass(frozen=True)
class Level:
    """One kept count of a group: the kept units, and the weights of the output projection on them.

    Attributes:
        units: kept units, ascending.
        weight: columns of the kept units, in Linear's orientation.
        bias: new bias of the output projection; ``None`` leaves the dense one.
        input_projections: parameter name -> value that replaces a dense parameter of an input projection, at full size.
    """

    units: Int[Tensor, " kept"]
    weight: Float[Tensor, "rows kept*width"]
    bias: Float[Tensor, " rows"] | None
    input_projections: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Whitening:
    """Turns the inputs of an output projection into independent ones, in the order in which its units are added.

    Attributes:
        columns: ``q``, the inputs in reverse order of removal.
        inverse: ``C^-1``, lower triangular, with ``C C^T`` the Hessian in the order ``q``.
        reduced: ``Y``, the weights on the independent inputs.
        mean: mean of the inputs in the order ``q``.
    """

    columns: Int[Tensor, " columns"]
    inverse: Float[Tensor, "columns columns"]
    reduced: Float[Tensor, "columns rows"]
    mean: Float[Tensor, " columns"]

    def to(self, device: torch.device | str) -> Whitening:
        """The same on another device."""
        return Whitening(*(getattr(self, part.name).to(device) for part in fields(self)))

    def __call__(self, inputs: Float[Tensor, "... columns"]) -> Float[Tensor, "... columns"]:
        """``C^-1 (x - mean)``, in panels that skip most of the zeros."""
        x = inputs.float().index_select(-1, self.columns) - self.mean
        white = torch.empty_like(x)
        for start in range(0, x.shape[-1], _PANEL):
            stop = min(start + _PANEL, x.shape[-1])
            white[..., start:stop] = x[..., :stop] @ self.inverse[start:stop, :stop].T
        return white


class LevelDatabase:
    """Every level of every group.

    Args:
        structure: the groups.
        projections: group name -> dense output projection.
        moments: group name -> moments of the input of the output projection; they may stay on disk (``StoredMoments``).
        orders: group name -> units in the order of removal.
        damping: fraction of the mean diagonal added to the Hessian.
        compensate: refit biases too.
    """

    def __init__(
        self,
        structure: Structure,
        projections: Mapping[str, Projection],
        moments: Mapping[str, Moments],
        orders: Mapping[str, Int[Tensor, " units"]],
        *,
        damping: float,
        compensate: bool,
    ) -> None:
        self.structure = structure
        self.projections = projections
        self.moments = moments
        self.orders = orders
        self.damping = damping
        self.compensate = compensate
        self._means: dict[str, Tensor] = {}
        self._factors = Recent[str, LevelFactor](lambda factor: factor.nbytes, WINDOW_BYTES)
        self._levels = Recent[tuple[str, int], Level](lambda level: level.weight.nbytes, WINDOW_BYTES)

    @classmethod
    def build(
        cls,
        structure: Structure,
        projections: Mapping[str, Projection],
        moments: Mapping[str, Moments],
        *,
        damping: float = 1e-2,
        compensate: bool = True,
        keep: int = 0,
        track: Track = silent,
    ) -> LevelDatabase:
        """Run the greedy elimination of every group, until ``keep`` units are left: smaller levels mean nothing.

        Raises:
            CalibrationError: a Hessian is not finite or not positive definite.
        """
        database = cls(structure, projections, moments, {}, damping=damping, compensate=compensate)

        def order(group: Group) -> Int[Tensor, " units"]:
            weight = projections[group.name].weight.double()
            try:
                return elimination_order(
                    weight, database.hessian(group.name), width=group.width, dead=database.dead(group.name), keep=keep
                ).order
            except (ValueError, torch.linalg.LinAlgError) as error:
                raise CalibrationError(
                    f"the Hessian of {group.output_projection} cannot be used ({error}); use more calibration samples"
                ) from None

        groups = list(structure)
        widest = max((len(moments[group.name].mean) for group in groups), default=1)
        found = parallel_map(order, groups, min(torch.get_num_threads(), max(1, _MEMORY // (_COPIES * 8 * widest**2))))
        orders = {
            group.name: order
            for group, order in zip(groups, track(found, "order the units", total=len(groups)), strict=True)
        }
        database.orders = orders
        return database

    def hessian(self, name: str) -> Float[Tensor, "columns columns"]:
        """Damped ``X X^T``, centred where the bias is refitted."""
        return damped(self.gram(name), self.damping, self.dead(name))

    def gram(self, name: str) -> Float[Tensor, "columns columns"]:
        """``X X^T``, centred where the bias is refitted."""
        moments = self.moments[name]
        return moments.centred() if self.compensates(name) else moments.gram

    def dead(self, name: str) -> Bool[Tensor, " columns"]:
        """The inputs that change no output: constant where the bias is refitted, always zero where it is not."""
        return self.moments[name].dead(centred=self.compensates(name))

    def compensates(self, name: str) -> bool:
        """Whether the bias of a group is refitted."""
        return self.compensate and self.projections[name].bias is not None

    def level(self, name: str, kept: int) -> Level:
        """The level of a group at a kept count. Those used last are remembered, and so are their factors."""
        return self._levels.get((name, kept), lambda: self._make(name, kept))

    def errors(self, name: str) -> Float[Tensor, " units+1"]:
        """Relative squared output error by kept count: entry 0 (nothing kept) is 1 or less, the last is 0.

        ``p_k = sum |W_k x + b_k - (W x + b)|^2 / sum |W x + b|^2``, the prior of the paper, on the calibration data and
        without damping. Where the bias is not refitted it is left out of both sums. Damped weights may fit slightly worse
        than those of the next smaller level; the larger error then counts for the smaller level too, so that the errors
        do not increase with the kept count.
        """
        projection, moments = self.projections[name], self.moments[name]
        errors = self._factor(name).errors_under(self.gram(name))
        energy = errors[0]
        if projection.bias is not None and self.compensates(name):
            weight, bias = projection.weight.double().cpu(), projection.bias.double().cpu()
            energy = energy + moments.count * (weight @ moments.mean.cpu() + bias).square().sum()
        falling = errors.flip(0).cummax(0).values.flip(0).clamp(max=errors[0])
        return falling / energy.clamp_min(torch.finfo(torch.float64).tiny)

    def whitening(self, name: str) -> Whitening:
        """What tells the change of the output at every level (``LevelFactor.whitening``), in float32.

        The mean is 0 where the bias is not refitted.
        """
        columns, inverse, reduced = self._factor(name).whitening()
        mean = self._mean(name) if self.compensates(name) else inverse.new_zeros(len(columns))
        return Whitening(columns, inverse.float(), reduced.float(), mean[columns].float())

    def _mean(self, name: str) -> Float[Tensor, " columns"]:
        if name not in self._means:
            self._means[name] = self.moments[name].mean.cpu()
        return self._means[name]

    def _factor(self, name: str) -> LevelFactor:
        def make() -> LevelFactor:
            group, weight = self.structure[name], self.projections[name].weight.double()
            return LevelFactor(weight, self.hessian(name), self.orders[name], width=group.width, dead=self.dead(name))

        return self._factors.get(name, make)

    def _make(self, name: str, kept: int) -> Level:
        group, projection = self.structure[name], self.projections[name]
        if kept == group.size:
            return Level(torch.arange(group.size), projection.weight, projection.bias)
        if kept == 0:  # takes no factor
            units, weight = torch.arange(0), projection.weight.double()[:, :0]
        else:
            factor = self._factor(name)
            units, weight = factor.kept(kept), factor.weight(kept)
        bias = projection.bias
        if bias is not None and self.compensates(name):
            mean = self._mean(name)
            columns = (units[:, None] * group.width + torch.arange(group.width)).flatten()
            bias = bias.double() + projection.weight.double() @ mean - weight @ mean[columns]
        to = projection.weight.dtype
        return Level(units, weight.to(to), bias.to(to) if bias is not None else None)

    def save(self, folder: Path) -> None:
        """Write the order and the moments of every group, from which everything else follows; a file for each group."""
        stored = StoredMoments(folder, self.structure)
        for name, order in self.orders.items():
            stored.put(name, self.moments[name], order)

    @classmethod
    def load(
        cls,
        folder: Path,
        structure: Structure,
        projections: Mapping[str, Projection],
        *,
        damping: float,
        compensate: bool,
    ) -> LevelDatabase:
        """Read the orders that ``save`` wrote; the moments stay on disk until they are needed.

        Raises:
            CheckpointError: a file is damaged or of another model.
        """
        stored = StoredMoments(folder, structure)
        orders = {name: stored.order(name) for name in stored}
        return cls(structure, projections, stored, orders, damping=damping, compensate=compensate)
