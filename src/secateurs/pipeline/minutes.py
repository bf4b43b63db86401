"""``--minutes``: refuse too little time before the work, and choose the texts to fit when the dense model is evaluated.

The longest fixed parts are measured beforehand: a forward pass, and a process that times models. What is left after the
texts is for training, whose length is chosen when it begins (``secateurs.pipeline.training_length``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from secateurs.errors import RecipeError
from secateurs.latency.table import LatencyTable
from secateurs.pipeline.counted_work import PASSES_OF_TRAINING, count_work
from secateurs.pipeline.estimates import timed_pass
from secateurs.pipeline.load import Loaded
from secateurs.pipeline.run_plan import PASSES, PROCESSES, Costs, later_stages, plan_run, todo_of
from secateurs.pipeline.run_progress import RunProgress
from secateurs.pipeline.time_budget import LANDING, TimeBudget
from secateurs.pipeline.time_folder import seconds_of_process
from secateurs.pipeline.training_length import LEAST_STEPS, SHORTEST_MASKS
from secateurs.structure.target import Target

__all__ = ["LEAST_TEXTS", "choose_texts", "measured_costs", "most_texts", "plan_and_check"]

logger = logging.getLogger(__name__)

LEAST_TEXTS = 128
"""Texts to fit, at least. With fewer, a layer of usual width has hardly more tokens than columns."""

STEP = 32
"""Texts by which choices differ."""

DOUBT = 2.0
"""Texts are chosen so that their work may take this many times as long as predicted, at the expense of the training."""

DOUBT_WITHOUT_TRAINING = 1.2
"""The same where nothing is trained that could give time back."""

REFUSED = 1.1
"""A run is refused if it is predicted to take this many times as long as it has."""


def plan_and_check(
    loaded: Loaded, progress: RunProgress, budget: TimeBudget, folder: Path, given: LatencyTable | None
) -> Costs:
    """Plan the run, and refuse it if its smallest form takes too long.

    Args:
        loaded: everything that the recipe names.
        progress: progress of the run; gets the plan.
        budget: the time of the run.
        folder: the run folder.
        given: the latency table, if it is there already.

    Returns:
        What predictions are made of.

    Raises:
        RecipeError: see above; the message names the smallest number of minutes.
    """
    todo = todo_of(loaded.recipe.targets, folder / "stages")
    costs = measured_costs(loaded) if todo else Costs(0.0)
    plan_run(progress, loaded, folder, given, resumed=budget.begun, costs=costs)
    if budget.begun or not todo:
        return costs
    fixed = progress.seconds_left() or 0.0
    largest = text_seconds(loaded, todo, costs, texts_of(loaded))
    smallest = text_seconds(loaded, todo, costs, min(texts_of(loaded), LEAST_TEXTS))
    shortest = len(todo) * _shortest_training(loaded, costs)
    needed = budget.elapsed + fixed - largest + smallest + shortest
    logger.info("the smallest run is predicted to take %.1f min", needed / 60)
    if needed > REFUSED * 60 * budget.minutes:
        raise RecipeError(
            f"{budget.minutes:g} minutes are too few: the smallest run takes about {needed / 60:.1f} here; give at least "
            f"{math.ceil(needed / 30) / 2:g} minutes{_cheaper(loaded, len(todo))}"
        )
    return costs


def measured_costs(loaded: Loaded) -> Costs:
    """Seconds of a forward pass and of a timing process, measured. The process times the dense model against itself."""
    measured = timed_pass(loaded)
    return Costs((measured.fastest * measured.slowest) ** 0.5, seconds_of_process(loaded))


def choose_texts(
    loaded: Loaded, progress: RunProgress, budget: TimeBudget, todo: Sequence[Target], costs: Costs, *, steered: bool
) -> int | None:
    """Choose the texts to fit, and plan the rest of the run anew by what was measured.

    The evaluation of the dense model, a pass over many texts, corrects the predictions.

    Args:
        loaded: everything that the recipe names, with all texts.
        progress: progress of the run; gets the plan.
        budget: the time of the run; gets the choice.
        todo: targets that are not finished.
        costs: what predictions were made of.
        steered: whether shapes are timed.

    Returns:
        Number of texts; ``None`` if the method fits to none, or takes time in another way.
    """
    known = Costs(costs.pass_seconds * progress.ratio(PASSES), costs.process_seconds * progress.ratio(PROCESSES))
    budget.pass_seconds, budget.process_seconds = known.pass_seconds, known.process_seconds
    budget.targets_left = len(todo)
    most = texts_of(loaded)
    if not budget.begun and most:

        def seconds(texts: int) -> tuple[float, float]:
            work = text_seconds(loaded, todo, known, texts)
            stages = later_stages(loaded, todo, count_work(loaded, texts), known, steered=steered)
            return work, sum(stage.seconds for stage in stages) - work

        budget.most_texts = most
        left = LANDING * 60 * budget.minutes - budget.elapsed
        budget.texts = most_texts(most, seconds, left, DOUBT if loaded.trains else DOUBT_WITHOUT_TRAINING)
        logger.info("%d of %d texts to fit", budget.texts, most)
    # Both were measured in this run: later stages are corrected by what they themselves take.
    work = count_work(loaded, budget.texts)
    progress.forget()
    progress.plan(later_stages(loaded, todo, work, known, steered=steered, resumed=budget.begun))
    share = max(0.0, budget.share())
    for target in todo:  # to be seen in the time left; the trainings of masks take a part of it
        progress.expect("recover", str(target), share)
    budget.save()
    return budget.texts


def most_texts(most: int, seconds: Callable[[int], tuple[float, float]], left: float, doubt: float) -> int:
    """The largest number of texts whose work fits into the time.

    Args:
        most: texts that there are.
        seconds: number of texts -> seconds of the work that grows with it, and of all other work.
        left: seconds that are left.
        doubt: times as long as predicted that the work may take.
    """
    least = min(most, LEAST_TEXTS)
    for texts in [most, *range((most - 1) // STEP * STEP, least, -STEP)]:
        work, others = seconds(texts)
        if doubt * work + others <= left:
            return texts
    return least


def texts_of(loaded: Loaded) -> int:
    """Texts to fit that were read, of a method whose time grows with them; otherwise 0."""
    return 0 if loaded.method.trains else loaded.data.roles.fit.rows


def text_seconds(loaded: Loaded, todo: Sequence[Target], costs: Costs, texts: int) -> float:
    """Seconds of the work that grows with the number of texts, for all targets.

    Args:
        loaded: everything that the recipe names.
        todo: targets that are not finished.
        costs: what predictions are made of.
        texts: number of texts to fit.
    """
    if not texts:
        return 0.0
    work = count_work(loaded, texts)
    return costs.pass_seconds * (work.prepare + len(todo) * (work.per_target + work.per_build))


def _shortest_training(loaded: Loaded, costs: Costs) -> float:
    """Seconds of the shortest training of a method that trains."""
    if not loaded.method.trains:
        return 0.0
    work = count_work(loaded)
    masks = SHORTEST_MASKS if work.per_target or work.per_build else 0
    after = LEAST_STEPS if loaded.finetuning else 0
    return (masks + after) * loaded.context(Path()).rows_a_step * PASSES_OF_TRAINING * costs.pass_seconds


def _cheaper(loaded: Loaded, targets: int) -> str:
    """What else would make a run shorter."""
    ways = ["fewer targets"] * (targets > 1)
    ways += [f"fewer than {loaded.recipe.timing_processes} timing_processes"] * (loaded.recipe.timing_processes > 3)
    ways += ["evaluation_samples"] * (loaded.recipe.evaluation_samples is None and loaded.data.evaluation is not None)
    return f", or {' or '.join(ways)}" if ways else ""
