"""``Minutes``: what a run with ``minutes`` promised, what it took, and what it chose, in data and in words."""

from __future__ import annotations

from dataclasses import field

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

__all__ = ["Minutes", "TrainingLength"]

CONFIG = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

PROMISE = 0.2
"""A run keeps its time if it ends within this fraction of it."""


@dataclass(frozen=True, config=CONFIG)
class TrainingLength:
    """The length of a training that was chosen.

    Args:
        target: target of the trained model, in words.
        stage: ``"recover"`` (after shrinking), ``"train gates"`` or ``"train while pruning"``.
        steps: optimiser steps; 0 = there was no time for a training.
        epochs: passes over the training split.
        seconds: time that was left for it when it was chosen.
        most: whether this is the most that would have been used, however much time was left.
    """

    target: str
    stage: str
    steps: int
    epochs: float
    seconds: float
    most: bool


@dataclass(frozen=True, config=CONFIG)
class Minutes:
    """The time of a run.

    Args:
        promised: minutes that were asked for.
        took: minutes from the beginning to the report. After a resumption: those of all its parts.
        texts: texts to fit that were chosen; ``None`` for a method that fits to none.
        most_texts: texts to fit that there were, at most ``calibration_samples``.
        trainings: the trainings, in order; of a model that missed its target too.
        trainable: whether there were rows to train on.
    """

    promised: float
    took: float
    texts: int | None
    most_texts: int | None
    trainings: list[TrainingLength] = field(default_factory=list)
    trainable: bool = True

    @property
    def kept(self) -> bool:
        """Whether the run ended within a fifth of its time."""
        return abs(self.took / self.promised - 1) <= PROMISE

    @property
    def used_all(self) -> bool:
        """Whether more time would have bought nothing."""
        return self.texts == self.most_texts and all(training.most for training in self.trainings)

    def sentence(self) -> str:
        """What was promised, what came, and what was chosen."""
        texts = "" if self.texts is None else f"{self.texts} of {self.most_texts} texts to fit"
        trainings = [_words(training) for training in self.trainings]
        if not self.trainings:
            trainings = ["no training, since the data have no training split" if not self.trainable else "no training"]
        chosen = "; ".join(part for part in (texts, *trainings) if part)
        return f"Minutes: {self.promised:g} were asked for, and the run took {self.took:.1f}{self._why()}. Chosen: {chosen}."

    def _why(self) -> str:
        """Why the run ended early or late, if it did."""
        if self.kept:
            return ""
        if self.took > self.promised:
            return ", more than a fifth too long: its parts took longer than predicted"
        if not self.used_all:
            return ", more than a fifth too short: its parts took less time than predicted"
        used = [] if self.texts is None else [f"all {self.texts} texts"]
        used += [f"{training.epochs:.3g} epochs" for training in self.trainings[-1:]]
        what = f"{' and '.join(used)} were used" if used else "no step takes more"
        more = "" if self.trainable else ", and there are no rows to train on"
        return f". It ended early: {what}, the most there is{more}"


def _words(training: TrainingLength) -> str:
    stage = {"recover": "training after shrinking"}.get(training.stage, "training of the masks")
    length = f"{training.steps} steps ({training.epochs:.2g} epochs)" if training.steps else "none, for want of time"
    return f"{stage} for {training.target}: {length}"
