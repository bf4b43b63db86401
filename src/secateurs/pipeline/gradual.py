"""``gradual: true``: each speed-up is pruned from the finished model of the one before it (ZipLM, section 3 of the paper).

    the finished model of the largest smaller target (the dense model, if there is none), read from its folder
    -> a method fitted to it -> prune_to_target: contract, shrink, distil from the dense model, save, time

The latency table, the level grid and every comparison stay those of the dense model. A step reads its start from disk even
if it is in memory, so that a resumed run and a target that is added later get the same model. While a step is under way,
``stages/gradual/<target>`` holds what the method keeps of the model that it prunes, and a note of which model that is.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from secateurs.artifacts import read_json, write_json
from secateurs.context import PruneContext
from secateurs.distributed import first, together
from secateurs.errors import RecipeError
from secateurs.pipeline.gradual_start import dense_start, finished_start
from secateurs.pipeline.load import Loaded
from secateurs.pipeline.one_target import prune_to_target
from secateurs.pipeline.rank_zero import RankZeroFitted
from secateurs.pipeline.recipe import LARGEST_SEED, Recipe
from secateurs.pipeline.recipe_targets import AUTO
from secateurs.pipeline.run_progress import RunProgress
from secateurs.pipeline.stage_timer import StageTimer
from secateurs.pipeline.step_fitted import StepFitted
from secateurs.pipeline.target_context import TargetContext, record_path
from secateurs.structure.target import Target

__all__ = ["GradualSteps", "start_of", "with_finished_targets"]


def with_finished_targets(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe of a gradual run, with the targets that its folder has finished already. Any other recipe is unchanged.

    Args:
        recipe: the recipe.
        folder: the run folder, which was checked.

    Raises:
        RecipeError: the targets do not go together, or a finished model that is needed is not in its folder.
    """
    file = folder / "recipe.yaml"
    if not recipe.gradual or not file.is_file():
        return recipe
    finished = finished_targets(Recipe.load(file).targets, folder / "stages")
    if others := [target.value for target in finished if target not in recipe.targets]:
        if AUTO in recipe.speedup:
            raise RecipeError(
                f"{folder} has a finished model of {others[0]:g}x, which auto leaves out: name the speed-ups"
            )
        recipe = Recipe.of({**recipe.model_dump(), "speedup": [*recipe.speedup, *others]})
    for target in recipe.targets:
        start = "" if target in finished else start_of(target, finished)
        if start and not (folder / start).is_dir():
            raise RecipeError(
                f"{target} would be pruned from {folder / start}, which is not there: put it back, or delete "
                f"{folder / 'stages' / start}.json to make it again"
            )
    return recipe


def finished_targets(targets: Sequence[Target], stages: Path) -> list[Target]:
    """The targets whose models are finished.

    Args:
        targets: targets of the run.
        stages: folder of the artifacts.
    """
    return [target for target in targets if record_path(stages, target).is_file()]


def start_of(target: Target, finished: Sequence[Target]) -> str:
    """Folder of the model that a target is pruned from: the largest smaller one; empty = the dense model.

    Args:
        target: the target.
        finished: targets whose models are finished.
    """
    smaller = [one for one in finished if one.value < target.value]
    return max(smaller, key=lambda one: one.value).folder if smaller else ""


@dataclass(frozen=True)
class GradualSteps:
    """The steps of a gradual run.

    Args:
        make: makes the ``TargetContext`` of a step from its ``context``, ``fitted``, ``start`` and ``kept``.
        loaded: everything that the recipe names.
        context: what the method is given, with the dense model.
        targets: all targets of the run.
        folder: the run folder.
        progress: progress of the run.
        seconds: stage -> seconds of the stages that all targets share.
    """

    make: Callable[..., TargetContext]
    loaded: Loaded
    context: PruneContext
    targets: Sequence[Target]
    folder: Path
    progress: RunProgress
    seconds: Mapping[str, float]

    def prune(self, target: Target) -> None:
        """Go one step: from the finished models there are to that of one more target.

        Args:
            target: the target; no smaller one is left to do.
        """
        timer, stages, loaded = StageTimer(self.progress), self.context.folder, self.loaded
        place = stages / "gradual" / target.folder
        start = first(lambda: self._begin(target, place))
        given = together(lambda: finished_start(loaded, self.folder / start) if start else dense_start(loaded))
        context = replace(
            self.context,
            model=given.model,
            structure=given.structure,
            seed=_seed(self.context.seed, target) if start else self.context.seed,
            dense_sizes=loaded.structure.sizes,
        )
        fitted = StepFitted(RankZeroFitted(loaded.method, replace(context, folder=place)), context)
        timer.end("prepare")
        shared = self.make(context=context, fitted=fitted, start=start, kept=given.kept)
        prune_to_target(shared, target, {**self.seconds, **timer.seconds})
        first(lambda: shutil.rmtree(place, ignore_errors=True))

    def _begin(self, target: Target, place: Path) -> str:
        """Find the start of a step, and delete what an earlier run left of this step if it began from another model."""
        stages = self.context.folder
        finished = finished_targets(self.targets, stages)
        for done in finished:  # a run that was killed between its record and the end of its step
            shutil.rmtree(place.with_name(done.folder), ignore_errors=True)
        start = start_of(target, finished)
        record = hashlib.sha256((stages / f"{start}.json").read_bytes()).hexdigest() if start else ""
        note, now = place / "start.json", {"start": start, "record": record}
        if note.is_file() and read_json(note) != now:
            shutil.rmtree(stages / target.folder, ignore_errors=True)
            shutil.rmtree(place)  # last, since it holds the note
        write_json(note, now)
        return start


def _seed(seed: int, target: Target) -> int:
    """Seed of a step that goes on from a finished model: other batches than those of the step before it come first."""
    return (seed + round(100 * target.value)) % (LARGEST_SEED + 1)
