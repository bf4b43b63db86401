"""The sequential refit: every group of an allocation fitted once more, to the inputs that the pruned model really gives it.

``minimise ||W x + b - t||^2`` over the kept columns of a group (``t = s - r``: see ``secateurs.oneshot.layer_walk``)
equals ``||(W - W*) x||^2`` plus a constant, with ``W*`` its solution on all columns. The same elimination order and factor
as in the level database therefore apply, to ``W*`` and the moments of ``x`` in place of the dense weights and moments. The
columns are those of a larger level of the database, a few more than are kept: with all of them the fit takes twice as long
and is no better (benchmarks/LOG.md).

Before that, the input projections of the group are corrected for the drift of their input. With ``A y + a`` the best linear
estimate of the dense model's input ``y0`` from the pruned model's input ``y``, a projection ``W y + b`` becomes
``W (A y + a) + b``, again a linear map. This is the least-squares fit of the projection to its own dense output, solved once
for all input projections of a group that have one input: k and v of a cross-attention are corrected for the drift of the
encoder's output, and q for that of the decoder's stream. The first linear module after the last layer (a pooler, a
classifier) is corrected in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from secateurs.context import PruneContext
from secateurs.numerics.low_rank import Decomposition
from secateurs.numerics.regression import RegressionSums
from secateurs.oneshot.head import first_linear_of_head
from secateurs.oneshot.layer_walk import LayerWalk
from secateurs.oneshot.levels import Level, LevelDatabase, Projection
from secateurs.oneshot.stitch import Stitch
from secateurs.oneshot.walk_state import FirstStates
from secateurs.structure.structure import Group, Structure
from secateurs.tasks.base import Batch

__all__ = ["Refit", "sequential_refit"]

TOKENS_PER_DIMENSION = 10.0
"""The drift correction is held to the identity twice as strongly at this number of tokens per input dimension."""


@dataclass(frozen=True)
class Refit:
    """How strongly each fit is regularised.

    Args:
        damping: fraction of the mean diagonal added to each Hessian.
        output_ridge: ridge that holds ``W*`` to the dense weights.
        drift_ridge: ridge that holds ``A`` to the identity, with plenty of tokens; ``None`` = no drift correction.
        spare: units that a refit chooses from beyond those it keeps, as a fraction of these (``preselected``).
        ranks: path of a matrix -> the rank it is truncated to, in groups that keep all their units.
    """

    damping: float
    output_ridge: float
    drift_ridge: float | None
    spare: float = 0.1
    ranks: Mapping[str, int] = field(default_factory=dict[str, int])


def sequential_refit(
    stitch: Stitch,
    database: LevelDatabase,
    allocation: Mapping[str, int],
    context: PruneContext,
    batches: Sequence[Batch],
    how: Refit,
    *,
    starts: FirstStates | None = None,
    token_weights: Callable[[Batch], Mapping[str, Tensor]] | None = None,
) -> dict[str, Level]:
    """Fit an allocation group by group, each after the groups before it at their new levels.

    Args:
        stitch: the live model; left at ``allocation`` with the new levels.
        database: level database of the dense model.
        allocation: group name -> kept units.
        context: task, device and seed.
        batches: calibration batches to fit on.
        how: regularisation and ranks.
        starts: remembers the states in front of the first layer for the next refit; ``None`` = there is none.
        token_weights: weighs the tokens of a batch by group; ``None`` = all alike.

    Returns:
        Group name -> the level that is now installed.
    """
    model, structure = context.model, stitch.structure
    corrects = how.drift_ridge is not None
    stitch.reset_all()
    walk = LayerWalk(
        model,
        structure,
        batches,
        head=first_linear_of_head(model, structure, batches[0], context.device) if corrects else None,
        input_drifts=corrects or bool(how.ranks),
        token_weights=token_weights,
        device=context.device,
        starts=starts,
    )
    levels: dict[str, Level] = {}
    for layer in context.track(walk.layers, "fit to the pruned model"):
        for group in walk.enter(layer):
            inputs: dict[str, Tensor] = {}
            if walk.input_drifts:
                for paths in group.inputs:
                    inputs |= correct_input_drift(stitch, paths, walk.input_drift(group, paths[0]), how)
            # A group of full size is refitted too: its inputs come from pruned layers.
            kept = allocation[group.name]
            first = database.level(group.name, preselected(group.size, kept, how.spare))
            stitch.install(group.name, replace(first, input_projections=inputs))
            fitted = fit_level(group, first, walk.output_regression(group), kept, how, compensate=database.compensate)
            levels[group.name] = replace(fitted, input_projections=inputs)
            stitch.install(group.name, levels[group.name])
            walk.fitted(group, torch.searchsorted(first.units, fitted.units))
        walk.leave()
    if walk.head is not None:
        stitch.replace(correct_input_drift(stitch, (walk.head,), walk.head_drift(), how))
    return levels


def preselected(size: int, kept: int, spare: float) -> int:
    """Units that the refit chooses from, for a level of ``kept`` units: some more than that, at least one."""
    return min(size, math.ceil(kept * (1 + spare)) + 1)


def fit_level(group: Group, first: Level, sums: RegressionSums, kept: int, how: Refit, *, compensate: bool) -> Level:
    """The level of one group from its output regression: ``W*``, then the elimination on it.

    Args:
        group: the group, at full size.
        first: the units to choose from, with the weights that ``W*`` is held to.
        sums: regression over the inputs of these units.
        kept: units of the level.
        how: damping, ridge and ranks.
        compensate: refit biases too.
    """
    target = sums.solve(first.weight, first.bias, how.output_ridge)
    if group.output_projection in how.ranks:
        weight, bias = Decomposition.of(*target, sums.moments).at(how.ranks[group.output_projection])
        return Level(torch.arange(group.size), weight, bias)
    refitted = LevelDatabase.build(
        Structure((replace(group, size=len(first.units)),)),
        {group.name: Projection(*target)},
        {group.name: sums.moments},
        damping=how.damping,
        compensate=compensate,
        keep=kept,
    )
    level = refitted.level(group.name, kept)
    return replace(level, units=first.units[level.units])


def correct_input_drift(stitch: Stitch, paths: Sequence[str], drift: RegressionSums, how: Refit) -> dict[str, Tensor]:
    """New weights and biases of linear modules that share one drifted input; truncated where ``how.ranks`` says so.

    Args:
        stitch: holds the dense weights.
        paths: paths of the modules.
        drift: regression of the dense input on the pruned model's input.
        how: ridge and ranks.

    Returns:
        Parameter name -> new value, at full size.
    """
    corrected: dict[str, Tensor] = {}
    for path in paths:
        weight, bias = stitch.linear(path)
        if how.drift_ridge is not None:
            weight, bias = composed_with_estimate(weight, bias, drift, how.drift_ridge)
        if path in how.ranks:
            weight, bias = Decomposition.of(weight, bias, drift.moments).at(how.ranks[path])
        corrected[f"{path}.weight"] = stitch.oriented(path, weight)
        if bias is not None:
            corrected[f"{path}.bias"] = bias
    return corrected


def composed_with_estimate(
    weight: Float[Tensor, "rows columns"], bias: Float[Tensor, " rows"] | None, drift: RegressionSums, ridge: float
) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, " rows"] | None]:
    """``W (A y + a) + b`` as one map, with ``A y + a`` the best linear estimate of the dense input.

    The ridge towards the identity is larger when there are few tokens per dimension.
    """
    identity = torch.eye(weight.shape[1], dtype=torch.float64, device=weight.device)
    held = ridge * (1 + TOKENS_PER_DIMENSION * len(identity) / drift.moments.count)
    estimate, shift = drift.solve(identity, None if bias is None else identity.new_zeros(len(identity)), held)
    # An output embedding in float64 would not fit into memory; float32 holds all digits of the product's own dtype.
    exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
    moved = None if bias is None or shift is None else (bias + exact @ shift.to(exact)).to(bias)
    return exact @ estimate.to(exact), moved
