"""``RunProgress``: the time left for a run, and the best figures of every target so far. The command line draws it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

__all__ = ["Best", "PlannedStage", "RunProgress", "duration"]

PRIOR_SECONDS = 3.0
"""Seconds that a prediction weighs beside what stages took: the time of a stage of a second says little about the others."""


@dataclass(frozen=True)
class PlannedStage:
    """A stage of the run, with a prediction of its time.

    Args:
        name: stages of one name do the same work, such as ``"evaluate"`` of every target.
        parts: names that ``RunProgress.end`` is called with during this stage, in order; the last one ends it.
        seconds: predicted time.
        unit: what the prediction counts, such as forward passes; stages of one unit are all predicted too low or too high.
        target: name of the target that the stage belongs to; empty for stages that all targets share.
        tells: whether its real time says anything about other stages. ``False``: an earlier run may have done a part of it.
    """

    name: str
    parts: tuple[str, ...]
    seconds: float
    unit: str
    target: str = ""
    tells: bool = True


@dataclass(frozen=True)
class Best:
    """What is known about the model of one target.

    Args:
        speedup: measured speed-up; ``None`` before the first timing.
        saved: whether ``speedup`` is that of the saved model; otherwise shapes were timed before the model was built.
        quality: metric and divergence in words; empty before the evaluation.
    """

    speedup: float | None = None
    saved: bool = False
    quality: str = ""

    def __str__(self) -> str:
        timed = "" if self.speedup is None else f"{self.speedup:.2f}x {'measured' if self.saved else 'by its shapes'}"
        return ", ".join(part for part in (timed, self.quality) if part)


class RunProgress:
    """Time left for a run, and the best figures of every target so far.

    What the stages so far took corrects the predictions of those to come. A stage is expected to take as long as the mean of
    those of its name. Before one of them has ended, its prediction is multiplied by the ratio of real to predicted time over
    all stages of its unit. The running stage counts as soon as it exceeds its prediction.

    Args:
        clock: seconds, as ``time.perf_counter``.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = self._stage_began = clock()
        self._planned: tuple[PlannedStage, ...] = ()
        self._plan: tuple[PlannedStage, ...] | None = None
        self._done: list[tuple[PlannedStage, float]] = []
        self._best: dict[str, Best] = {}

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self._began

    @property
    def best(self) -> dict[str, Best]:
        """Target -> what is known about its model, of targets of which anything is known."""
        return dict(self._best)

    def plan(self, stages: Sequence[PlannedStage]) -> None:
        """Set the stages to come; the first one has begun with the end of the last part.

        Args:
            stages: stages in the order of the run.
        """
        self._plan = self._planned = tuple(stages)

    def expect(self, name: str, target: str, seconds: float) -> None:
        """Replace the predicted time of a stage, where it is known better by now.

        Args:
            name: name of the stage.
            target: target that the stage belongs to.
            seconds: predicted time.
        """

        def known(stages: tuple[PlannedStage, ...]) -> tuple[PlannedStage, ...]:
            this = (name, target)
            return tuple(
                replace(stage, seconds=seconds) if (stage.name, stage.target) == this else stage for stage in stages
            )

        self._planned = known(self._planned)
        if self._plan is not None:
            self._plan = known(self._plan)

    def forget(self) -> None:
        """Forget what stages took, because new predictions take it into account."""
        self._done.clear()

    def tell(self, unit: str, predicted: float, real: float) -> None:
        """A part of a stage took so long, which corrects the predictions of its unit.

        Args:
            unit: what the prediction counts.
            predicted: predicted seconds.
            real: seconds that it took.
        """
        self._done.append((PlannedStage("", (), predicted, unit), real))

    def ratio(self, unit: str) -> float:
        """Real / predicted time over all stages of a unit so far; 1 before there are any."""
        return self._expected(PlannedStage("none of those", (), 1.0, unit), self._done)

    def again(self, target: str) -> None:
        """The model of a target missed it: all stages of the target come again.

        Args:
            target: name of the target.
        """
        if self._plan is not None:
            again = [stage for stage in self._planned if stage.target == target]
            self._plan = (*again, *(stage for stage in self._plan if stage.target != target))

    def finish(self, target: str) -> None:
        """No stage of a target comes any more.

        Args:
            target: name of the target.
        """
        if self._plan is not None:
            self._plan = tuple(stage for stage in self._plan if stage.target != target)

    def end(self, part: str) -> None:
        """A part of a stage ends here. Stages before that stage were not needed.

        Args:
            part: its name. With a part of no planned stage, the next stage begins.
        """
        now = self._clock()
        plan = self._plan or ()
        place = next((number for number, stage in enumerate(plan) if part in stage.parts), None)
        if place is None:
            self._stage_began = now
            return
        stage = plan[place]
        if part == stage.parts[-1]:
            if stage.tells:
                self._done.append((stage, now - self._stage_began))
            self._stage_began, place = now, place + 1
        self._plan = plan[place:]

    def seconds_left(self, without: Collection[str] = ()) -> float | None:
        """Expected seconds until the run ends; ``None`` before there is a plan.

        Args:
            without: names of stages that are left out, as if they took no time.
        """
        plan, done = self._plan, self._done
        if plan is None:
            return None
        if not plan:
            return 0.0
        running, expected = self._clock() - self._stage_began, self._expected(plan[0], done)
        if running > expected:
            done = [*done, (plan[0], running)]
        here = 0.0 if plan[0].name in without else max(0.0, expected - running)
        return here + sum(self._expected(stage, done) for stage in plan[1:] if stage.name not in without)

    def tell_steering(self, target: str, speedup: float, aim: float) -> None:
        """Shapes were timed. The best ones are the slowest of those that reach the target, or else the fastest.

        This forgets a saved model of the target: it missed, or no further shapes would be timed.

        Args:
            target: name of the target.
            speedup: their measured speed-up.
            aim: the speed-up that was asked for.
        """
        known = self._best.get(target, Best())
        if known.speedup is None or known.saved or _rank(speedup, aim) > _rank(known.speedup, aim):
            self._best[target] = Best(speedup)

    def tell_quality(self, target: str, quality: str) -> None:
        """A model was built and evaluated.

        Args:
            target: name of the target.
            quality: metric and divergence in words.
        """
        self._best[target] = replace(self._best.get(target, Best()), quality=quality)

    def tell_measured(self, target: str, speedup: float) -> None:
        """The saved model was timed.

        Args:
            target: name of the target.
            speedup: its measured speed-up.
        """
        self._best[target] = replace(self._best.get(target, Best()), speedup=speedup, saved=True)

    @staticmethod
    def _expected(stage: PlannedStage, done: Sequence[tuple[PlannedStage, float]]) -> float:
        """Expected seconds of a stage that has not ended, given stages with their real seconds."""
        same = [seconds for other, seconds in done if other.name == stage.name]
        if same:
            return sum(same) / len(same)
        alike = [(other.seconds, seconds) for other, seconds in done if other.unit == stage.unit]
        predicted, real = (PRIOR_SECONDS + sum(column) for column in zip(*alike, strict=True)) if alike else (1.0, 1.0)
        return stage.seconds * real / predicted


def _rank(speedup: float, aim: float) -> tuple[bool, float]:
    """Order of speed-ups: those that reach the aim are better the slower they are, the others the faster they are."""
    return speedup >= aim, -speedup if speedup >= aim else speedup


def duration(seconds: float) -> str:
    """A duration in two digits.

    >>> duration(7.2), duration(95), duration(5400)
    ('7 s', '2 min', '1.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
