"""``--keep``: the largest speed-up at which a model still keeps a share of the dense quality, found by bisection.

Each try allocates, refits and shrinks a model for one speed-up of the latency table, and scores its answers beside the dense
ones, text by text, on the texts of the role ``choose``. A try passes if the lower bound of the kept fraction reaches the
share. The bound is widened for the number of tries (Bonferroni), since the best of several would otherwise pass too easily.
Every try is kept on disk, for the other shares of a run and for a resumed one. The texts of the role ``report`` then say what
came of it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from secateurs.artifacts import read_json, write_json
from secateurs.errors import TargetUnreachable
from secateurs.pipeline.kept_quality import kept_quality
from secateurs.pipeline.target_context import TargetContext
from secateurs.report.kept_quality import KeptTry
from secateurs.structure.target import Budget, Keep, Speedup
from secateurs.surgery.shared_copy import shared_copy
from secateurs.surgery.shrink import shrink

__all__ = ["STEP", "bisect", "chosen_try", "fastest_that_keeps", "grid", "read_tries", "tries_of"]

logger = logging.getLogger(__name__)

STEP = 1.05
"""Ratio of neighbouring speed-ups that are tried."""

DOUBT = 0.05
"""Chance of a wrong pass that the bounds of all tries of a bisection allow together."""


def grid(largest: float) -> list[float]:
    """The speed-ups that may be tried: the powers of ``STEP`` below the largest reachable speed-up."""
    count = math.ceil(math.log(largest) / math.log(STEP)) - 1
    return [STEP**power for power in range(1, count + 1)]


def tries_of(count: int) -> int:
    """The largest number of tries of a bisection over ``count`` speed-ups."""
    return math.ceil(math.log2(count + 1))


def fastest_that_keeps(shared: TargetContext, target: Keep) -> Budget:
    """Find the largest speed-up that passes.

    Args:
        shared: what all targets share.
        target: the share to keep.

    Returns:
        The budget of the model that passed; ``Fitted.allocate`` and ``apply`` answer it with that model.

    Raises:
        TargetUnreachable: not even the smallest cut passes.
    """
    speedups = grid(shared.table.largest_speedup)
    path = shared.context.folder / "keep.json"
    tries = read_tries(path)
    steps = iter(shared.context.track(range(tries_of(len(speedups))), f"find the speed-up of {target}"))

    def passes(speedup: float) -> bool:
        next(steps, None)
        done = next((one for one in tries if one.speedup == speedup), None)
        if done is None:
            tries.append(_try(shared, speedup, doubt=DOUBT / max(1, tries_of(len(speedups)))))
            write_json(path, [asdict(one) for one in tries])
            done = tries[-1]
        return done.low >= target.value

    found = bisect(speedups, passes)
    for _ in steps:  # the progress bar ends
        pass
    if found is None:
        raise TargetUnreachable(_nothing_keeps(target, tries, shared.folder), 1.0)
    return _budget(shared, found)


def bisect(speedups: Sequence[float], passes: Callable[[float], bool]) -> float | None:
    """The largest of some ascending speed-ups that passes, if smaller ones pass more easily; ``None`` if none was found.

    Args:
        speedups: the speed-ups.
        passes: whether the model of a speed-up passes; called at most ``tries_of(len(speedups))`` times.
    """
    low, high = 0, len(speedups)
    while low < high:
        middle = (low + high) // 2
        if passes(speedups[middle]):
            low = middle + 1
        else:
            high = middle
    return speedups[low - 1] if low else None


def chosen_try(tries: Sequence[KeptTry], largest: float, target: Keep) -> KeptTry:
    """The try that the bisection for a share ended with. Other shares have left tries of their own.

    Args:
        tries: all tries of the run.
        largest: largest reachable speed-up.
        target: the share, for which a model was found.
    """
    found = {one.speedup: one for one in tries}
    speedup = bisect(grid(largest), lambda speedup: found[speedup].low >= target.value)
    assert speedup is not None
    return found[speedup]


def read_tries(path: Path) -> list[KeptTry]:
    """The tries that a run has on disk."""
    return [KeptTry(**values) for values in read_json(path)] if path.is_file() else []


def _try(shared: TargetContext, speedup: float, *, doubt: float) -> KeptTry:
    """Build and score the model of one speed-up; if no allocation is as fast, it keeps nothing."""
    loaded, context = shared.loaded, shared.context
    budget = _budget(shared, speedup)
    try:
        allocation = shared.fitted.allocate(budget)
    except TargetUnreachable:
        return KeptTry(speedup, 0.0, 0.0, 0, "")
    mask = shared.fitted.apply(allocation, budget.folder)
    model = shrink(shared_copy(context.model), context.structure, mask)
    batches = loaded.data.roles.choose.batches
    found = kept_quality(loaded, model, batches, shared.dense_answers_to_choose, confidence=1 - doubt)
    tried = KeptTry(speedup, found.fraction.value, found.fraction.low, found.texts, found.measure)
    logger.info("%.2fx keeps %.4f, at least %.4f, of the %s", speedup, tried.kept, tried.low, tried.measure)
    return tried


def _budget(shared: TargetContext, speedup: float) -> Budget:
    return Speedup(speedup).budget(shared.table)


def _nothing_keeps(target: Keep, tries: Sequence[KeptTry], folder: Path) -> str:
    """The error message: what the smallest cut that was tried keeps, and what can be done."""
    least = min((one for one in tries if one.texts), key=lambda one: one.speedup, default=None)
    kept = (
        f"at {least.speedup:.2f}x the model keeps {least.kept:.4f} of the {least.measure}, at least {least.low:.4f}, on "
        f"{least.texts} texts"
        if least is not None
        else "no cut fits"
    )
    return (
        f"no cut keeps {target.value:g} with {100 * (1 - DOUBT):.0f} % confidence: {kept}. The work is in {folder}: lower "
        "keep and resume there, or start anew with more texts"
    )
