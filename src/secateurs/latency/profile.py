"""``measure_table``: measure the latency table of a model on this machine from a few timings inside the model.

One layer of each shape is taken out of the model, together with the inputs that it gets in a forward pass of the model.
The layer is timed with one of its groups cut to ``k`` units and all its other groups emptied, and the time of the layer
with every group emptied is subtracted. An untimed run of the full-size layer precedes each reading, as in the model: a
layer that runs only after itself finds its weights and buffers in the caches, and narrow layers appeared up to 15 % too
fast. The full-size model, and the model with every group emptied, are timed in the same session. They fix both ends of the
table: ``dense = overhead + sum of curves`` and ``overhead = time of the emptied model``. A matrix whose ranks or inputs are
cut is timed alone, with the inputs that it gets in the model, because its few milliseconds are lost in the noise of the
rest of the layer.

A handful of random pruned models is timed whole at the end, and corrects the overhead and the curves of each kind
(``correct_table``).

In the regime ``generation`` this is done twice, for the pass over the prompt and for a step with the key-value cache, and the
two tables are added (``mix_tables``).

Differs from ZipLM (2302.04089), which adds up the curves of isolated layers and takes the rest as overhead. Here the curves
are scaled by the one factor that makes both ends exact, which is within a few per cent of 1 on a quiet machine, and then by
the correction.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from secateurs.latency.correct_table import correct
from secateurs.latency.environment import Environment
from secateurs.latency.interleave import Samples, interleave, warn_if_noisy
from secateurs.latency.mix_tables import mix
from secateurs.latency.passes import Pass, passes
from secateurs.latency.profile_fit import fit_table
from secateurs.latency.profile_plan import ProfilePlan, plan_profile
from secateurs.latency.profile_runs import FULL_SIZE, point_name, profile_runs
from secateurs.latency.random_models import model_run, spread_counts
from secateurs.latency.runtimes import runtime
from secateurs.latency.table import LatencyTable
from secateurs.latency.timer import Timer, timer_for
from secateurs.latency.workload import check, random_batch
from secateurs.progress import Track, silent
from secateurs.structure.cut import Kind
from secateurs.structure.structure import Structure
from secateurs.surgery.shared_copy import shared_copy

__all__ = ["measure_table"]

PRECISE = 0.03
"""Relative standard error of a run's median below which the run needs no further readings."""

PATIENCE = 2
"""Maximum time of a session in which readings are not precise, in multiples of ``seconds``.

`secateurs measure --table FILE --seconds N` sets a longer time.
"""

REPEATS = 3
"""Readings per visit of every run except the full-size and the dense model, which have one.

The runs of layers are short and therefore noisier, and their error counts once for every layer that shares the curve.
"""

MODELS = 8
"""Random pruned models that are timed whole."""

STEADY_ROUNDS = 15
"""Rounds from which the interval of a whole model's time is trusted: over fewer rounds it is too narrow."""

PRECISE_RATIO = 0.01
"""Half-width of the interval of a whole model's time, relative, at which it needs no further readings."""

DENSE = "dense"
"""Name of the run of the dense model, where that may be another model than the one whose curves are measured."""


def measure_table(
    model: nn.Module,
    structure: Structure,
    environment: Environment,
    *,
    dense: nn.Module | None = None,
    seed: int = 0,
    batch: Mapping[str, Any] | None = None,
    seconds: float = 20.0,
    rounds: tuple[int, int] = (5, 60),
    quick: bool = False,
    points: Mapping[Kind, Sequence[int]] | None = None,
    multiple: int | None = None,
    probe: bool = False,
    timer: Timer | None = None,
    track: Track = silent,
) -> LatencyTable:
    """Measure the latency table of a model in one environment. The model stays unchanged.

    Args:
        model: transformers model, dense or already pruned.
        structure: structure of the model.
        environment: environment of the table.
        dense: model that speed-ups refer to, if it is not ``model``: it has matrices where ``model`` has pairs of
            factors.
        seed: seed of the random tokens and of the timing order.
        batch: inputs on the environment's device, in place of random tokens; for generation the prompt.
        seconds: wall time in seconds after which no further round starts, if the readings are precise. Otherwise they
            continue for up to ``PATIENCE * seconds``. Whole models are timed for up to as long in addition. For
            generation each of the two tables takes that time.
        rounds: minimum and maximum number of rounds.
        quick: whether to spend a quarter of ``seconds``, without ``PATIENCE``, on 3 to 12 rounds.
        points: kind -> kept counts to measure, in place of the default; full size is always measured.
        multiple: multiple to which widths are snapped; by default 8 on the CPU and 64 on a GPU.
        probe: whether to measure the multiple of neurons instead, where the group is wide enough.
        timer: function that times one run; by default the timer of the environment.
        track: progress over the rounds.

    Raises:
        RecipeError: the environment cannot be used here, or a group does not belong to a single layer.
    """
    check(environment, model)
    read = timer or timer_for(environment)
    if quick:
        seconds, rounds = seconds / 4, (min(3, rounds[0]), min(12, rounds[1]))
    step = multiple or (64 if environment.device.startswith("cuda") else 8)
    dtype = runtime(environment.runtime).module_dtype(environment)

    def place(one: nn.Module) -> nn.Module:
        return shared_copy(one, environment.device, dtype).eval()

    placed = place(model)
    inputs = random_batch(placed, environment, seed=seed) if batch is None else batch
    plan = plan_profile(placed, structure, points or {}, step, probe)
    parts = {
        name: (
            _measure_pass(
                placed,
                structure,
                environment,
                timed,
                plan,
                dense=None if dense is None else place(dense),
                seed=seed,
                seconds=seconds,
                rounds=rounds,
                patience=1 if quick else PATIENCE,
                timer=read,
                track=track,
                label=f"latency {name.replace('_', ' ')}".strip(),
            ),
            number,
        )
        for name, (timed, number) in passes(environment, inputs).items()
    }
    return mix(parts) if environment.generates else parts[""][0]


def _measure_pass(
    model: nn.Module,
    structure: Structure,
    environment: Environment,
    timed: Pass,
    plan: ProfilePlan,
    *,
    dense: nn.Module | None,
    seed: int,
    seconds: float,
    rounds: tuple[int, int],
    patience: int,
    timer: Timer,
    track: Track,
    label: str,
) -> LatencyTable:
    """The latency table of one pass; ``measure_table`` describes the arguments.

    Args:
        model: model on the environment's device in its dtype; the same holds for ``dense``.
        structure: structure of the model.
        environment: environment of the table.
        timed: the pass.
        plan: planned curves of the model.
        dense: model that speed-ups refer to; ``None`` = ``model``.
        seed: seed of the timing order.
        seconds: wall time of the readings of the layers, and of those of whole models.
        rounds: minimum and maximum number of rounds.
        patience: multiples of ``seconds`` that the readings of the layers may take.
        timer: function that times one run.
        track: progress over the rounds.
        label: title of the progress display.
    """
    runs, preceded_by = profile_runs(model, structure, environment, timed, plan.curves)
    if dense is not None:
        runs[DENSE] = timed.of_model(runtime(environment.runtime).prepare(dense, environment, timed.inputs))
    began = time.perf_counter()

    def precise(seen: Samples) -> bool:
        visits = len(seen.ms[FULL_SIZE])
        return time.perf_counter() - began > seconds and all(seen.error(name, visits) < PRECISE for name in runs)

    samples = interleave(
        runs,
        environment,
        seed=seed,
        seconds=seconds * patience,
        enough=precise,
        rounds=rounds,
        repeats={name: REPEATS for name in runs if name not in (DENSE, FULL_SIZE)},
        preceded_by=preceded_by,
        timer=timer,
        track=track,
        label=label,
    )
    full_size = (FULL_SIZE, *(point_name(name, curve.units[-1]) for name, curve in plan.curves.items()))
    noise = max(samples.noise(name) for name in full_size)
    warn_if_noisy(noise, environment)
    dense_ms = None if dense is None else samples.median(DENSE)
    table = fit_table(samples, plan, structure, environment, dense_ms=dense_ms, noise=noise)
    baseline = runs[DENSE if dense is not None else FULL_SIZE]
    runs, preceded_by = {}, {}  # frees the layers before the whole models need memory
    chosen = {str(number): counts for number, counts in enumerate(spread_counts(structure, table, MODELS, seed))}
    whole = {name: model_run(model, structure, environment, timed, counts) for name, counts in chosen.items()}

    def ratios_are_precise(seen: Samples) -> bool:
        ratios = [seen.ratio(name, DENSE) for name in whole]
        precise_enough = all((high - low) / 2 <= PRECISE_RATIO * median for median, low, high in ratios)
        return len(seen.ms[DENSE]) >= STEADY_ROUNDS and precise_enough

    samples = interleave(
        {DENSE: baseline, **whole},
        environment,
        seed=seed,
        seconds=seconds,
        enough=ratios_are_precise,
        rounds=rounds,
        timer=timer,
        track=track,
        label=f"{label} of whole models",
    )
    return correct(table, samples, chosen, DENSE)
