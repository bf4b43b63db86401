"""``--dry-run``: the stages of a run, with ranges of their time and an estimate of the memory.

Model and data are read and checked, a few batches are timed, and the largest speed-up is measured. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from secateurs.errors import TargetUnreachable
from secateurs.pipeline.contract import STEERING_PROCESSES
from secateurs.pipeline.counted_work import (
    ATTEMPTS,
    BUILDS,
    MARGIN,
    PROCESS_SECONDS,
    SEARCHES,
    count_work,
    table_seconds,
)
from secateurs.pipeline.estimates import largest_speedup, timed_pass
from secateurs.pipeline.given_table import given_table, measured_here, place_of
from secateurs.pipeline.gradual import with_finished_targets
from secateurs.pipeline.keep_search import grid, tries_of
from secateurs.pipeline.load import Loaded, load
from secateurs.pipeline.memory_estimate import memory_bytes
from secateurs.pipeline.recipe import Recipe
from secateurs.pipeline.recipe_targets import AUTO, reachable
from secateurs.pipeline.run_folder import check_folder
from secateurs.structure.target import Keep, Speedup

__all__ = ["dry_run_table"]

REACH = 1.1
"""A target is refused if it exceeds the measured largest speed-up, at the upper end of its interval, by this factor."""

Range = tuple[float, float]


def dry_run_table(recipe: Recipe, folder: Path | None = None, *, resume: bool = False) -> Table:
    """A table with one row per stage.

    Args:
        recipe: what would be done.
        folder: folder for the results, if it is known.
        resume: continue the run in ``folder``.

    Raises:
        SecateursError: anything that would stop the run at its start, and targets out of reach.
    """
    if folder is not None:
        check_folder(folder, recipe, resume=resume)
        recipe = with_finished_targets(recipe, folder)
    table = given_table(recipe, folder)
    loaded = load(recipe)
    speedups = [target for target in recipe.targets if isinstance(target, Speedup)]
    if table is not None:
        table.check_groups(group.name for group in loaded.structure.timed)
        most = table.largest_speedup
        for target in reachable(recipe.speedup, recipe.targets, most):
            if isinstance(target, Speedup):
                target.budget(table)
        largest = f"The largest speed-up is {most:.2f}x, by the latency table."
    elif speedups or recipe.keep:
        most, largest = _reach(loaded, speedups[:1] if AUTO in recipe.speedup else speedups)
    else:
        most, largest = 1.0, ""
    targets = reachable(recipe.speedup, recipe.targets, most)
    measured = timed_pass(loaded)

    def passes(count: float) -> Range:
        return MARGIN[0] * count * measured.fastest, MARGIN[1] * count * measured.slowest

    work = count_work(loaded)
    # The contract neither steers nor builds again for a sparsity, or for a table that timings here cannot judge.
    steers = bool(speedups) and (table is None or measured_here(table, loaded.environment))
    builds = BUILDS if steers else (1, 1)
    searches = SEARCHES if steers and not loaded.method.trains else (1, 1)
    steered = [STEERING_PROCESSES * number for number in (ATTEMPTS if steers else (0, 0))]
    confirmed = [recipe.timing_processes * number for number in builds]
    timing = [sum(parts) * seconds for *parts, seconds in zip(steered, confirmed, PROCESS_SECONDS, strict=True)]
    rows: list[tuple[str, str, Range]] = [
        ("latency", f"table for {loaded.environment}", table_seconds(loaded.environment))
        if table is None
        else ("latency", f"given table: {place_of(table)}", (0.0, 0.0)),
        ("evaluate dense", f"{work.evaluated} sequences", passes(work.evaluate_dense)),
        (
            "prepare",
            f"{loaded.method.name}: {work.samples} texts, {len(loaded.structure)} groups"
            + ", each target" * recipe.gradual,
            passes(work.prepare * (len(targets) if recipe.gradual else 1)),
        ),
    ]
    for target in targets:
        parts = zip(
            _times(searches, passes(work.per_target)), _times(builds, passes(work.per_build)), timing, strict=True
        )
        low, high = (sum(part) for part in parts)
        if isinstance(target, Keep):  # every try searches, refits, and runs the texts that choose
            scored = passes(work.per_target + work.per_build + loaded.data.roles.choose.rows)
            low, high = low + scored[0], high + tries_of(len(grid(most))) * scored[1]
        rows.append((f"prune to {target}", f"folder {target.folder}", (low, high)))
    if how := loaded.finetuning:
        rows.append(("recover", f"{how}, each target", _times(builds, passes(len(targets) * work.recover))))
    rows.append(
        (
            "evaluate",
            f"{work.evaluated} sequences, divergence on {work.reported}, each target",
            _times(builds, passes(len(targets) * work.evaluate)),
        )
    )
    total = (sum(low for *_, (low, _) in rows), sum(high for *_, (_, high) in rows))
    printed = Table(
        "stage", "what", "about", title=Text(f"{recipe.model}: {loaded.data.summary()}"), title_justify="left"
    )
    for name, what, seconds in rows:
        printed.add_row(name, what, _duration(seconds))
    printed.add_section()
    printed.add_row("in all", "", _duration(total))
    memory = f"Memory: about {memory_bytes(loaded, measured.output_bytes) / 1e9:.1f} GB."
    time = ""
    if recipe.minutes is not None:
        time = f"With minutes {recipe.minutes:g}, fewer texts may be used, and trainings take the time that is left."
    printed.caption = " ".join(part for part in (largest, memory, time, "Nothing was written.") if part)
    return printed


def _reach(loaded: Loaded, targets: Sequence[Speedup]) -> tuple[float, str]:
    """The largest speed-up by a short timing, and a sentence that says so.

    Raises:
        TargetUnreachable: a target is out of its reach.
    """
    most = largest_speedup(loaded)
    for target in targets:
        if target.value > REACH * most.high:
            raise TargetUnreachable(
                f"Speedup {target.value:g} is out of reach on {loaded.environment}: without all that can be removed it is "
                f"{most.median:.1f} times as fast ({most.low:.1f} to {most.high:.1f}, timed for a few seconds). Lower the "
                "target, or measure on another batch or sequence length.",
                most.median,
            )
    return most.median, (
        f"The largest speed-up is about {most.median:.1f}x ({most.low:.1f} to {most.high:.1f}, timed for a few seconds); the "
        "latency table will tell."
    )


def _times(counts: tuple[int, int], seconds: Range) -> Range:
    """The range of what is done from ``counts[0]`` to ``counts[1]`` times."""
    return counts[0] * seconds[0], counts[1] * seconds[1]


def _duration(seconds: Range) -> str:
    """A range of seconds, in the unit of its upper end: ``2-5 min``."""
    low, high = seconds
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if high >= 1.5 * size:
            decimals = 1 if high < 10 * size and unit == "h" else 0
            ends = f"{low / size:.{decimals}f}", f"{high / size:.{decimals}f}"
            return f"{'-'.join(dict.fromkeys(ends))} {unit}"
    ends = f"{low:.0f}", f"{high:.0f}"
    return f"{'-'.join(dict.fromkeys(ends))} s"
