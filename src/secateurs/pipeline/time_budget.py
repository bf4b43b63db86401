"""``TimeBudget``: how much time of a run with ``minutes`` is left for what can take more or less of it.

    left for trainings = minutes - elapsed - expected time of the stages to come

The expected time is that of ``RunProgress``, which what the stages so far took corrects. What is left is shared by the
targets to come. Every choice is on disk, so that a resumed run makes the same one.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from secateurs.artifacts import read_json, write_json
from secateurs.pipeline.run_progress import RunProgress
from secateurs.report.minutes import Minutes, TrainingLength

__all__ = ["LANDING", "LATEST", "TRAININGS", "TimeBudget"]

TRAININGS = ("train gates", "train while pruning", "recover")
"""Stages whose length is chosen when they begin."""

LANDING = 0.97
"""Fraction of the time at which a run is planned to end."""

LATEST = 1.15
"""The same for a model that is built again because it missed its target."""


class TimeBudget:
    """The time of a run, and what was chosen to fit it.

    Args:
        minutes: the recipe's minutes.
        progress: progress of the run.
        path: file that holds the choices.

    Attributes:
        targets_left: targets that are not finished.
        texts: texts to fit that were chosen; ``None`` before the choice, and for methods that fit to none.
        most_texts: texts to fit that there are.
        pass_seconds: seconds of one forward pass of one sequence through the dense model, as far as is known.
        process_seconds: seconds of one timing process, likewise.
        trainings: name of the training -> its length.
        factors: name of a training of masks -> factor on its own length.
        ends: name of a training after shrinking -> its ``ElasticSteps.ends``.
    """

    def __init__(self, minutes: float, progress: RunProgress, path: Path) -> None:
        self.minutes, self.progress, self.path = minutes, progress, path
        stored = read_json(path) if path.is_file() else {}
        self.begun = bool(stored)
        self.spent: float = stored.get("spent", 0.0)
        self.texts: int | None = stored.get("texts")
        self.most_texts: int | None = stored.get("most_texts")
        self.trainings: dict[str, TrainingLength] = {
            name: TrainingLength(**length) for name, length in stored.get("trainings", {}).items()
        }
        self.factors: dict[str, float] = stored.get("factors", {})
        self.ends: dict[str, list[tuple[int, int]]] = {
            name: [(step, end) for step, end in ends] for name, ends in stored.get("ends", {}).items()
        }
        self.targets_left = 1
        self.pass_seconds = self.process_seconds = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds of the run so far; of a resumed run, with those up to the last choice or target before."""
        return self.spent + self.progress.elapsed

    def left(self, end: float = LANDING) -> float:
        """Seconds that are left for trainings of all targets to come.

        Args:
            end: fraction of the minutes at which the run should end.
        """
        fixed = self.progress.seconds_left(without=TRAININGS)
        assert fixed is not None, "the run has no plan"
        return end * 60 * self.minutes - self.elapsed - fixed

    def share(self, *, again: bool = False) -> float:
        """Seconds that are left for the trainings of the present target.

        Args:
            again: a model of this target was built before, and missed it.
        """
        return self.left(LATEST if again else LANDING) / max(1, self.targets_left)

    def choose(self, name: str, length: TrainingLength, factor: float = 1.0) -> TrainingLength:
        """Keep the length of a training, and tell the progress.

        Args:
            name: name of the training, unique in the run.
            length: its length.
            factor: of a training of masks, the factor on its own length.
        """
        self.trainings[name], self.factors[name], self.ends[name] = length, factor, [(0, length.steps)]
        self.progress.expect(length.stage, length.target, length.seconds)
        self.save()
        return length

    def correct(self, name: str, ends: list[tuple[int, int]]) -> None:
        """The number of steps of a training was corrected while it ran.

        Args:
            name: name of the training.
            ends: its ``ElasticSteps.ends``.
        """
        length, steps = self.trainings[name], ends[-1][1]
        epochs = length.epochs * steps / max(1, length.steps)
        self.trainings[name], self.ends[name] = replace(length, steps=steps, epochs=epochs), ends
        self.save()

    def save(self) -> None:
        """Write all choices, and the time so far."""
        write_json(
            self.path,
            {
                "minutes": self.minutes,
                "spent": self.elapsed,
                "texts": self.texts,
                "most_texts": self.most_texts,
                "trainings": {name: asdict(length) for name, length in self.trainings.items()},
                "factors": self.factors,
                "ends": self.ends,
            },
        )

    def result(self, *, trainable: bool) -> Minutes:
        """What the report says.

        Args:
            trainable: whether there are rows to train on.
        """
        return Minutes(
            self.minutes,
            self.elapsed / 60,
            self.texts,
            self.most_texts,
            list(self.trainings.values()),
            trainable,
        )
