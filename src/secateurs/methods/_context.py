"""The level database once more, in the context of a profile: units and weights for what the pruned model really feeds.

``minimise ||r + W x + b - s||^2`` over the columns of a group that are kept (see ``secateurs.stages.sequential``) is
``||(W - W*) x||^2`` and a constant, with ``W*`` its solution on all columns. So the same order and factor apply as in the
dense database, to ``W*`` and the moments of ``x`` in place of the dense weights and moments.

Before that, what feeds the group is corrected for the drift of its input: with ``A y + a`` the best linear guess of the
dense model's ``y0`` from the pruned model's ``y``, a feeder ``W y + b`` becomes ``W (A y + a) + b``: again a linear map.
It is the least-squares fit of the feeder to its own dense output, solved once for all feeders of a group. The first linear
module behind the last layer (a pooler, a classifier) is corrected in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from secateurs.job import Job
from secateurs.numerics.low_rank import lowered
from secateurs.numerics.regression import Sums
from secateurs.stages.head import first_reader
from secateurs.stages.importance import Importance
from secateurs.stages.levels import Level, LevelDatabase, Projection
from secateurs.stages.sequential import in_order
from secateurs.stages.stitch import Stitch
from secateurs.structure import Group, Structure

__all__ = ["in_context"]

SCARCE = 10.0
"""The guess of the dense input is held to the identity the more, the fewer tokens there are for each of its dimensions."""


def in_context(
    stitch: Stitch,
    database: LevelDatabase,
    profile: Mapping[str, int],
    job: Job,
    *,
    damping: float,
    towards: float,
    correct: float | None,
    padding: bool,
    weigh: bool = False,
    ranks: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Level]:
    """Fit a profile, group by group, each behind the groups before it at their new levels.

    Args:
        stitch: the live model; left at ``profile`` with the new levels.
        database: the dense one.
        profile: group name -> kept units.
        job: texts and device.
        damping: of the Hessians.
        towards: ridge that holds ``W*`` to the dense weights.
        correct: ridge that holds ``A`` to the identity, given plenty of tokens; ``None`` leaves the feeders as they are.
        padding: let PAD tokens count.
        weigh: tokens count by their importance for what a projection should put out.
        ranks: path of a matrix -> the rank it gets, in groups that keep all their units.

    Returns:
        Group name -> the level that is now installed.
    """

    feeders: dict[str, Tensor] = {}

    def solve(group: Group, sums: Sums) -> Level:
        dense = database.projections[group.name]
        if group.reader in ranks:
            fitted = sums.solve(dense.weight, dense.bias, towards)
            weight, bias = lowered(*fitted, sums.moments, ranks[group.reader])
            return Level(torch.arange(group.size), weight, bias, dict(feeders))
        part = LevelDatabase.build(
            Structure((group,)),
            {group.name: Projection(*sums.solve(dense.weight, dense.bias, towards))},
            {group.name: sums.moments},
            damping=damping,
            compensate=database.compensate,
        )
        return replace(part.level(group.name, profile[group.name]), feeders=dict(feeders))

    def undrift(paths: Sequence[str], sums: Sums) -> dict[str, Tensor]:
        feeders.clear()
        for path in paths:
            weight, bias = stitch.linear(path)
            if correct is not None:
                weight, bias = straightened(weight, bias, sums, correct)
            if path in ranks:
                weight, bias = lowered(weight, bias, sums.moments, ranks[path])
            feeders[f"{path}.weight"] = stitch.oriented(path, weight)
            if bias is not None:
                feeders[f"{path}.bias"] = bias
        return feeders

    return in_order(
        stitch, job.batches, solve, undrift if correct is not None or ranks else None,
        head=first_reader(job.model, job.structure, job.batches[0], job.device) if correct is not None else None,
        weigh=Importance(job.model, job.structure, job.task.full_signal, job.seed) if weigh else None,
        device=job.device, padding=padding, track=job.track,
    )  # fmt: skip


def straightened(
    weight: Float[Tensor, "rows columns"], bias: Float[Tensor, " rows"] | None, sums: Sums, correct: float
) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, " rows"] | None]:
    """``W (A y + a) + b`` as one map, with ``A y + a`` the best guess of the dense input."""
    same = torch.eye(weight.shape[1], dtype=torch.float64, device=weight.device)
    ridge = correct * (1 + SCARCE * len(same) / sums.moments.count)
    guess, shift = sums.solve(same, None if bias is None else same.new_zeros(len(same)), ridge)
    # An output embedding in float64 would not fit; the product loses nothing that its own type could hold.
    exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
    moved = None if bias is None or shift is None else (bias + exact @ shift.to(exact)).to(bias)
    return exact @ guess.to(exact), moved
