"""Batches in parts: some rows of every tensor that has a row for every text."""

from __future__ import annotations

from itertools import pairwise

from secateurs.tasks.base import Batch, main_input

__all__ = ["divided", "rows_between"]


def rows_between(batch: Batch, start: int, stop: int) -> Batch:
    """The rows from ``start`` up to ``stop``. Tensors without a row for every text stay whole."""
    rows = len(main_input(batch))
    return {name: value[start:stop] if len(value) == rows else value for name, value in batch.items()}


def divided(batch: Batch, count: int) -> list[Batch]:
    """A batch in ``count`` parts of almost the same number of rows, fewer if it has fewer rows."""
    rows = len(main_input(batch))
    ends = [rows * number // count for number in range(count + 1)]
    return [rows_between(batch, start, stop) for start, stop in pairwise(ends) if start < stop]
