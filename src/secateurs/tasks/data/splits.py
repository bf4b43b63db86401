"""Choice of the splits: rows for calibration and training, and rows for evaluation."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateurs.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Division", "divide"]

logger = logging.getLogger(__name__)

TRAIN = ("train", "training")
"""Words in the name of a training split, the preferred one first."""

EVALUATION = ("validation", "valid", "val", "dev", "development", "test", "testing", "eval", "evaluation")
"""Words in the name of an evaluation split, the preferred one first."""

HELD_OUT_SHARE, HELD_OUT_ROWS = 0.2, 2000
"""Share of the rows of a lone split that is held out, and the maximum number of held-out rows."""


@dataclass(frozen=True)
class Division:
    """Rows of a data set by their use.

    Args:
        rows: rows for calibration.
        held_out: rows for evaluation; ``None`` if no split is usable for evaluation.
        unlabelled: rows of an evaluation split that is not usable, on which two models can still be compared; ``None`` if
            there is ``held_out``, or no such split.
        trainable: whether ``rows`` may also be used for training.
        rows_name: description of the origin of ``rows``.
        held_out_name: description of the origin of ``held_out`` or ``unlabelled``; ``"none"`` without either.
        together: column whose equal values are all in ``rows`` or all in ``held_out``, if values repeat and one split was
            divided; otherwise ``None``.
    """

    rows: Dataset
    held_out: Dataset | None
    trainable: bool
    rows_name: str
    held_out_name: str
    unlabelled: Dataset | None = None
    together: str | None = None

    @property
    def parts(self) -> dict[str, Dataset]:
        """The rows that are used, by the description of their origin."""
        held_out = {self.held_out_name: self.held_out} if self.held_out is not None else {}
        return {self.rows_name: self.rows, **held_out}


def divide(
    source: str,
    splits: dict[str, Dataset],
    *,
    usable: Callable[[Dataset], bool],
    seed: int,
    contiguous: bool = False,
    together: Callable[[Dataset], str | None] = lambda rows: None,
) -> Division:
    """Choose disjoint rows for calibration (and training) and for evaluation.

    Calibration and training use the split that is named as a training split. Evaluation uses the first usable split out
    of validation, dev, test and eval. If one split must serve both, a fifth of its rows (at most 2,000) is held out.

    Args:
        source: name of the data set in error messages.
        splits: rows by the name of their split.
        usable: function that says whether a split can be evaluated on, e.g. because it has labels.
        seed: seed of the random choice of the held-out rows.
        contiguous: hold out the last rows instead of random rows (for running text).
        together: function that chooses the column whose equal values must not be on both sides of a divided split, such
            as the query of a reranker's pairs or the context of questions.

    Raises:
        DataError: a split that would be used is empty or has too few rows.
    """
    train = _first(splits, TRAIN)
    held_out = next((name for name in _ordered(splits, EVALUATION) if usable(splits[name])), None)
    main = train or next((name for name in splits if name != held_out), None) or held_out
    assert main is not None
    for name in {main, held_out} - {None}:
        if not len(splits[name]):
            raise DataError(f"the split {name!r} of {source} has no rows; rows: {_sizes(splits)}")
    rows = splits[main]
    if held_out is not None and held_out != main:
        return Division(rows, splits[held_out], train is not None, main, held_out)
    if not usable(rows):
        logger.warning(
            "nothing of %s can be evaluated: no split has labels (columns of %s: %s); name the column of the labels if "
            "there is one",
            source, main, ", ".join(rows.column_names),
        )  # fmt: skip
        other = next((name for name in _ordered(splits, EVALUATION) if name != main and len(splits[name])), None)
        return Division(rows, None, True, main, other or "none", splits[other] if other else None)
    size = min(int(len(rows) * HELD_OUT_SHARE), HELD_OUT_ROWS)
    if size < 1:
        raise DataError(f"the split {main!r} of {source} has {len(rows)} rows; at least 5 are needed to hold some out")
    if not contiguous:
        rows = rows.shuffle(seed=seed)
    column = together(rows)
    held = _last_groups(rows[column][:], size) if column is not None else None
    if held is None:
        kept = rows.select(range(len(rows) - size))
        return Division(kept, rows.select(range(len(kept), len(rows))), True, main, f"rows held out of {main}")
    kept = rows.select([index for index in range(len(rows)) if index not in held])
    return Division(kept, rows.select(sorted(held)), True, main, f"rows held out of {main}", together=column)


def _last_groups(values: list[Any], size: int) -> set[int] | None:
    """Rows to hold out: those of the last values that have at most ``size`` rows together.

    Args:
        values: value of every row; rows with equal values stay together.
        size: number of rows to hold out; exceeded only if the rarest value already has more rows.

    Returns:
        Indices of the rows, or ``None`` if no value repeats, or all are equal.
    """
    groups: dict[str, list[int]] = {}
    for index, value in enumerate(values):
        groups.setdefault(str(value), []).append(index)
    if len(groups) in (1, len(values)):
        return None
    held: set[int] = set()
    for rows in sorted(groups.values(), key=lambda rows: -rows[-1]):
        if len(held) + len(rows) <= size:
            held.update(rows)
    return held or set(min(groups.values(), key=len))


def _sizes(splits: dict[str, Dataset]) -> str:
    return ", ".join(f"{name} {len(rows)}" for name, rows in splits.items())


def _ordered(splits: dict[str, Dataset], words: tuple[str, ...]) -> list[str]:
    """Names of the splits that contain one of the words, in the order of the words; first those that are the word alone."""
    found = [(word, name) for word in words for name in splits if word in re.split(r"[-_. 0-9]+", name.lower())]
    return [name for word, name in sorted(found, key=lambda pair: (words.index(pair[0]), pair[1].lower() != pair[0]))]


def _first(splits: dict[str, Dataset], words: tuple[str, ...]) -> str | None:
    return next(iter(_ordered(splits, words)), None)
