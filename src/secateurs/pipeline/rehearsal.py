"""``rehearse``: measure how long the steps of a training take, by a few of them on copies of model and data."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Subset

__all__ = ["Pace", "rehearse"]

BATCHES = 16
"""Batches that are timed, at most. They are a random sample of the rows, with texts of all lengths."""

FEWEST_BATCHES = 4
"""Batches that are timed, at least."""

LISTED = 200
"""Rows that are read to measure how long the lengths of all rows take, by which a training sorts them."""


@dataclass(frozen=True)
class Pace:
    """How long a training takes.

    Args:
        start: seconds before its first step.
        step: seconds of an optimiser step.
    """

    start: float
    step: float


class _EnoughSteps(Exception):
    """Ends a rehearsal."""


class _TimedCollate:
    """Makes batches, notes when each was asked for, and ends the training when there are enough.

    Args:
        collate: makes a batch of rows.
        skipped: batches before the first timed one: those of the first step, and one that is made ahead.
        seconds: time after which no further batch is timed, once there are ``FEWEST_BATCHES``.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], skipped: int, seconds: float) -> None:
        self.collate, self.skipped, self.seconds = collate, skipped, seconds
        self.times: list[float] = []

    def __call__(self, rows: list[Any]) -> Any:
        self.times.append(time.perf_counter())
        timed = len(self.times) - 1 - self.skipped
        late = self.times[-1] - self.times[0] > self.seconds and timed >= FEWEST_BATCHES
        if timed >= BATCHES or late:
            raise _EnoughSteps
        return self.collate(rows)

    def seconds_per_batch(self) -> float:
        """Mean seconds between two batches."""
        return (self.times[-1] - self.times[self.skipped]) / (len(self.times) - 1 - self.skipped)


def rehearse(
    train: Callable[[Any, Callable[[list[Any]], Any]], None],
    data: Any,
    collate: Callable[[list[Any]], Any],
    *,
    batch_size: int,
    accumulate: int,
    sorts: bool,
    seed: int,
    seconds: float,
) -> Pace:
    """Time a few steps of a training.

    Args:
        train: begins the training on the rows and with the collate function that it is given; it has to be long enough.
        data: training rows.
        collate: turns rows into a batch.
        batch_size: rows per batch.
        accumulate: batches per optimiser step.
        sorts: whether the training reads the lengths of all rows first.
        seed: seed of the sample of rows.
        seconds: time after which the rehearsal ends, if a few batches were timed.

    Returns:
        The pace on all rows.
    """
    skipped = accumulate + 1
    count = min(len(data), (BATCHES + skipped + 1) * batch_size)
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    timed = _TimedCollate(collate, skipped, seconds)
    began = time.perf_counter()
    with suppress(_EnoughSteps):
        train(Subset(data, chosen), timed)
    start = timed.times[0] - began
    if sorts and len(data) > count:
        listing = time.perf_counter()
        listed = chosen[:LISTED]
        for row in listed:
            data[row]
        start += (time.perf_counter() - listing) / len(listed) * (len(data) - count)
    return Pace(start, timed.seconds_per_batch() * accumulate)
