"""Data sets in memory that know the file and line of their rows. Imports ``datasets``, which takes seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datasets import Dataset, DatasetInfo

__all__ = ["Places", "with_places"]


@dataclass(frozen=True)
class Places:
    """File and line of every row of a data set.

    Args:
        files: names of the files.
        lines: for every row, the index of its file and its first line, counted from 1.
    """

    files: tuple[str, ...]
    lines: tuple[tuple[int, int], ...]

    def __getitem__(self, row: int) -> str:
        file, line = self.lines[row]
        return f"line {line} of {self.files[file]}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Places:
        return self  # datasets copies the info of a data set at every selection


@dataclass
class _PlacedInfo(DatasetInfo):
    places: Places | None = None


def with_places(columns: dict[str, list[Any]], places: Places) -> Dataset:
    """A data set in memory whose ``info`` has the places of its rows.

    Args:
        columns: column name -> values.
        places: place of every row.
    """
    return Dataset.from_dict(columns, info=_PlacedInfo(places=places))
