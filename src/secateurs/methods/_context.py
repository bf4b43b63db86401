"""The level database once more, in the context of a profile: units and weights for what the pruned model really feeds.

``minimise ||r + W x + b - s||^2`` over the columns of a group that are kept (see ``secateurs.stages.sequential``) is
``||(W - W*) x||^2`` and a constant, with ``W*`` its solution on all columns. So the same order and factor apply as in the
dense database, to ``W*`` and the moments of ``x`` in place of the dense weights and moments.
"""

from __future__ import annotations

from collections.abc import Mapping

from secateurs.job import Job
from secateurs.stages.levels import Level, LevelDatabase, Projection
from secateurs.stages.sequential import Sums, in_order
from secateurs.stages.stitch import Stitch
from secateurs.structure import Group, Structure

__all__ = ["in_context"]


def in_context(
    stitch: Stitch,
    database: LevelDatabase,
    profile: Mapping[str, int],
    job: Job,
    *,
    damping: float,
    towards: float,
    padding: bool,
) -> LevelDatabase:
    """Build the database anew, group by group, each behind the groups before it at their new levels.

    Args:
        stitch: the live model; left at ``profile`` with the new levels.
        database: the dense one.
        profile: group name -> kept units.
        job: texts and device.
        damping: of the Hessians.
        towards: ridge that holds ``W*`` to the dense weights.
        padding: let PAD tokens count.
    """
    parts: dict[str, LevelDatabase] = {}

    def solve(group: Group, sums: Sums) -> Level:
        dense = database.projections[group.name]
        projection = Projection(*sums.solve(dense.weight, dense.bias, towards))
        parts[group.name] = LevelDatabase.build(
            Structure((group,)),
            {group.name: projection},
            {group.name: sums.moments},
            damping=damping,
            compensate=database.compensate,
        )
        return parts[group.name].level(group.name, profile[group.name])

    levels = {name: database.level(name, kept) for name, kept in profile.items()}
    in_order(
        stitch, levels, job.batches, solve,
        whole=True, device=job.device, padding=padding, track=job.track,
    )  # fmt: skip
    return LevelDatabase.joined(database.structure, parts)
