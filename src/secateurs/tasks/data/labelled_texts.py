"""Data of tasks with labelled texts or pairs of texts: from a source to calibration, training and evaluation.

What was understood about splits, columns and labels is described for the user. What would have to be guessed is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from secateurs.errors import DataError
from secateurs.tasks.base import Columns, DataRequest, TaskData, Understood
from secateurs.tasks.data.batches import Collate, TextRows, ordered_batches, sample
from secateurs.tasks.data.classes import WITHOUT_LABELS
from secateurs.tasks.data.columns import (
    check_label,
    find_label,
    find_texts,
    first_of_pair,
    parallel_column,
    skip_empty,
    texts_of,
)
from secateurs.tasks.data.draw_roles import draw_roles
from secateurs.tasks.data.encode import Encode
from secateurs.tasks.data.list_cells import as_list
from secateurs.tasks.data.splits import divide
from secateurs.tasks.data.understood import NOT_EVALUATED, about_columns, about_skipped, about_splits

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["LabelReader", "read_labelled_texts"]


class LabelReader(Protocol):
    """The labels of a task: which column of the data holds them, and what they mean to the model."""

    def present(self, rows: Dataset) -> bool:
        """Whether a split has labels."""
        ...

    def labelled(self, rows: Dataset) -> Dataset:
        """The rows with a label, or all rows if none has one."""
        ...

    def prepare(self, parts: Mapping[str, Dataset]) -> list[Understood]:
        """Decide what the labels mean, given all rows that are used."""
        ...

    def read(self, rows: Dataset) -> Any:
        """The label of every row."""
        ...

    def fits(self, rows: Dataset, column: str) -> bool:
        """Whether a column without a usual name could hold the labels."""
        ...


def read_labelled_texts(
    request: DataRequest,
    labels: LabelReader,
    splits: dict[str, Dataset],
    *,
    expand: Callable[[Dataset], Dataset] | None = None,
    together: str | None = None,
    taken: Understood | None = None,
) -> TaskData:
    """Read texts and their labels, if there are any.

    Args:
        request: what is read; its columns are those after ``expand``.
        labels: labels of the task.
        splits: rows by the name of their split.
        expand: function that turns the rows of a split into rows with the columns, if they have other columns.
        together: column, before ``expand``, whose equal values must not be on both sides of a divided split; by default
            the first text of pairs.
        taken: what ``expand`` does, for the user.

    Raises:
        DataError: the data cannot be read, do not fit the model, or would have to be guessed.
    """
    source, columns = request.source, request.columns
    encode = Encode.for_model(request.model, request.tokenizer, request.sequence_length)
    skipped: list[Understood] = []
    if expand is None:
        read, splits = splits, skip_empty(splits, columns, source)
        skipped = about_skipped(read, splits)
        check_label(columns, splits, source)
        _refuse_guesses(splits, columns, labels, source)
    usable: Callable[[Dataset], bool] = labels.present if expand is None else lambda rows: labels.present(expand(rows))
    division = divide(
        source,
        splits,
        usable=usable,
        seed=request.seed,
        together=lambda rows: together or first_of_pair(columns, rows, source),
    )
    parts = division.parts
    if expand is not None:
        parts = {name: expand(rows) for name, rows in parts.items()}
    kept = {name: labels.labelled(rows) for name, rows in parts.items()}
    about = [
        *about_splits(division, splits),
        *skipped,
        taken or _about_columns(columns, division.rows, source),
        *labels.prepare(kept),
        *_about_unlabelled(parts, kept),
    ]
    rows = _text_rows(kept[division.rows_name], encode, labels, columns, f"{source} ({division.rows_name})")
    held_out = None
    if division.held_out is not None:
        whole = kept[division.held_out_name]
        chosen = whole.select(sample(len(whole), request.evaluation_samples, request.seed))
        held_out = _text_rows(chosen, encode, labels, columns, f"{source} ({division.held_out_name})")
    compared = held_out
    if division.unlabelled is not None:
        texts = division.unlabelled if expand is None else expand(division.unlabelled)
        compared = _text_rows(texts, encode, labels, columns, f"{source} ({division.held_out_name})")
    roles, train = draw_roles(
        rows,
        compared,
        request.roles,
        split=division.rows_name,
        held_out_split=division.held_out_name,
        batch_size=request.batch_size,
        seed=request.seed,
    )
    if held_out is None:
        evaluated = "none to evaluate (no labels)"
        about.append(NOT_EVALUATED)
    else:
        evaluated = f"{len(held_out)} rows to evaluate ({division.held_out_name})"
    return TaskData(
        roles=roles,
        calibration_labels=rows.labels is not None,
        evaluation=ordered_batches(held_out, request.batch_size).batches if held_out is not None else None,
        train=train if division.trainable else None,
        collate=Collate.like(request.tokenizer),
        description=f"{source}: {roles.fit.rows} of {len(rows)} {division.rows_name} rows to calibrate, {evaluated}",
        understood=tuple(about),
    )


def _text_rows(data: Dataset, encode: Encode, labels: LabelReader, columns: Columns, source: str) -> TextRows:
    found = find_texts(columns, data, source)
    pairs = texts_of(data, found.text_pair, source) if found.text_pair is not None else None
    values = labels.read(data) if labels.present(data) else None
    return TextRows(encode, texts_of(data, found.text, source), pairs, values)


def _refuse_guesses(splits: dict[str, Dataset], columns: Columns, labels: LabelReader, source: str) -> None:
    """Refuse data without a label column by a usual name where another column could be the labels or the tags.

    Raises:
        DataError: with the readings to choose from.
    """
    if columns.label is not None or any(find_label(columns, rows) for rows in splits.values()):
        return
    rows = next(rows for rows in splits.values() if len(rows))
    found = find_texts(columns, rows, source)
    others = [name for name in rows.column_names if name not in (found.text, found.text_pair)]
    if columns.text is None and _holds_lists(rows, found.text) and (tags := parallel_column(rows, found.text, others)):
        raise DataError(
            f"{source} has lists of words ({found.text!r}) with a list as long in {tags!r}, and no label column: choose "
            f"--task token-classification; --text-column {found.text} reads the joined words as texts without labels"
        )
    fitting = [name for name in others if labels.fits(rows, name)]
    if fitting:
        choices = "; ".join(f"--label-column {name}" for name in fitting[:3])
        raise DataError(
            f"{source} has no label column by a usual name, and {', '.join(map(repr, fitting))} could be one "
            f"(columns: {', '.join(rows.column_names)}): choose {choices}; {WITHOUT_LABELS}"
        )


def _holds_lists(rows: Dataset, column: str) -> bool:
    return as_list(rows[0][column]) is not None


def _about_columns(columns: Columns, rows: Dataset, source: str) -> Understood:
    found = find_texts(columns, rows, source)
    form = " (lists, joined with blanks)" if _holds_lists(rows, found.text) else ""
    return about_columns(found, find_label(columns, rows), "label", columns, rows.column_names, form)


def _about_unlabelled(parts: Mapping[str, Dataset], kept: Mapping[str, Dataset]) -> list[Understood]:
    lost = {name: len(rows) - len(kept[name]) for name, rows in parts.items() if len(rows) > len(kept[name])}
    return [
        ("note", f"{count} of {len(parts[name])} {name} rows have no label and are left out")
        for name, count in lost.items()
    ]
