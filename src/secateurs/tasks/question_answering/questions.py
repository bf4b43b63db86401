"""Reading of questions, contexts and answers from the columns of a data set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateurs.errors import DataError
from secateurs.tasks.base import Columns, Understood
from secateurs.tasks.data.bad_rows import place, skip_rows, skip_without
from secateurs.tasks.data.classes import WITHOUT_LABELS
from secateurs.tasks.data.columns import find_column, find_label, texts_of
from secateurs.tasks.data.understood import about_columns

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Answer", "Questions", "about_questions", "answered", "choose_answers", "context_column", "skip_unasked"]

QUESTIONS = ("question", "query")
CONTEXTS = ("context", "passage", "document")
ANSWERS = ("answers", "answer", "answer_text", "answer_texts", "answers.text")
STARTS = ("answer_start", "answer_starts", "answers.answer_start")
FORMS = "give {text: [...], answer_start: [...]}, or texts beside a column answer_start"
"""Supported forms of answers, for error messages."""

Answer = tuple[str, int]
"""Text of an answer, and the index of its first character in the context."""


@dataclass(frozen=True)
class Questions:
    """Rows of a question answering data set.

    Args:
        questions: text of every question.
        contexts: context of every question.
        answers: answers of every question, an empty list where the context has no answer; ``None`` without labels.
    """

    questions: list[str]
    contexts: list[str]
    answers: list[list[Answer]] | None

    def __len__(self) -> int:
        return len(self.questions)

    def without(self, items: Collection[int]) -> Questions:
        """All questions but those with the given indices."""
        kept = [index for index in range(len(self)) if index not in items]
        return Questions(
            [self.questions[index] for index in kept],
            [self.contexts[index] for index in kept],
            None if self.answers is None else [self.answers[index] for index in kept],
        )

    @classmethod
    def read(cls, rows: Dataset, columns: Columns, source: str) -> Questions:
        """Read the columns ``question``, ``context`` and ``answers`` (SQuAD). Answers may also be in two columns.

        Args:
            rows: rows of the split.
            columns: names of the columns.
            source: name of the split in error messages.

        Raises:
            DataError: a column is missing or has an unknown form, or an answer is not at its stated position.
        """
        rows = _skip_misplaced(rows, columns, source)
        question = find_column(columns.text, "text", QUESTIONS, rows, source)
        context = context_column(rows, columns, source)
        questions, contexts = texts_of(rows, question, source), texts_of(rows, context, source)
        for name, texts in ((question, questions), (context, contexts)):
            for index, text in enumerate(texts):
                if not text.strip():
                    raise DataError(f"{place(rows, index, source, name)} is empty; drop such rows")
        answers = _answers(rows, columns, source)
        for index, given in enumerate(answers):
            for text, start in given:
                there = contexts[index][max(start, 0) : max(start, 0) + len(text)]
                if start < 0 or there != text:
                    raise DataError(
                        f"{place(rows, index, source)}: the answer {_short(text)} is not at character {start} of its "
                        f"context, where {_short(there)} is; repair answer_start or drop such rows"
                    )
        return cls(questions, contexts, answers if any(answers) else None)


def skip_unasked(splits: dict[str, Dataset], columns: Columns, source: str) -> dict[str, Dataset]:
    """Skip the rows without a question or a context, if a split has few of them.

    Args:
        splits: rows by the name of their split, in the order of their files.
        columns: names of the columns.
        source: name of the data set in log lines.
    """
    roles = ((columns.text, QUESTIONS), (columns.text_pair, CONTEXTS))

    def used(rows: Dataset) -> list[str]:
        there = [
            [name for name in ((given,) if given else usual) if name in rows.column_names] for given, usual in roles
        ]
        return [names[0] for names in there if names]

    return skip_without(splits, used, source, blank=True)


def _skip_misplaced(rows: Dataset, columns: Columns, source: str) -> Dataset:
    """Skip the rows with an answer that is not at its stated position, if there are few of them."""
    answers = _answers(rows, columns, source)
    if not answers:
        return rows
    contexts = rows[context_column(rows, columns, source)][:]
    bad = [
        index
        for index, (context, given) in enumerate(zip(contexts, answers, strict=True))
        if isinstance(context, str)
        and any(start < 0 or context[start : start + len(text)] != text for text, start in given)
    ]
    return skip_rows(rows, bad, "have an answer that is not at its stated character", source)


def context_column(rows: Dataset, columns: Columns, source: str) -> str:
    """The column of the contexts.

    Raises:
        DataError: there is none.
    """
    return find_column(columns.text_pair, "text_pair", CONTEXTS, rows, source)


def choose_answers(splits: dict[str, Dataset], columns: Columns, source: str) -> None:
    """Refuse data without a column of answers by a usual name where another column holds answers.

    Raises:
        DataError: with the readings to choose from.
    """
    if columns.label is not None or any(find_label(columns, rows, ANSWERS) for rows in splits.values()):
        return
    rows = next(rows for rows in splits.values() if len(rows))
    head = rows[:100]
    contexts = head[context_column(rows, columns, source)]
    starts = next((head[name] for name in STARTS if name in head), [None] * len(contexts))
    others = [name for name in rows.column_names if name not in (*STARTS, *QUESTIONS, *CONTEXTS)]
    fitting = [name for name in others if _holds_answers(head[name], starts, contexts)]
    if fitting:
        choices = "; ".join(f"--label-column {name}" for name in fitting)
        raise DataError(
            f"{source} has no column of answers by a usual name, and {', '.join(map(repr, fitting))} holds answers with "
            f"their positions: choose {choices}; {WITHOUT_LABELS}"
        )


def _holds_answers(values: list[Any], starts: list[Any], contexts: list[Any]) -> bool:
    """Whether values are answers that stand where they say in their contexts."""
    try:
        found = [_pairs(value, start) for value, start in zip(values, starts, strict=True)]
    except (TypeError, ValueError, AttributeError):
        return False
    placed = [
        isinstance(context, str) and context[start : start + len(text)] == text
        for context, given in zip(contexts, found, strict=True)
        for text, start in given
    ]
    return bool(placed) and all(placed)


def about_questions(parts: Mapping[str, Dataset], columns: Columns, source: str) -> list[Understood]:
    """Which column is what, and how many questions have answers.

    Args:
        parts: the rows that are used, by the name of their split.
        columns: names of the columns.
        source: name of the data set in error messages.
    """
    rows = next(iter(parts.values()))
    texts = {
        "question": find_column(columns.text, "text", QUESTIONS, rows, source),
        "context": context_column(rows, columns, source),
    }
    label = find_label(columns, rows, ANSWERS)
    names = [name for name in rows.column_names if label is None or name not in STARTS]
    lines = [about_columns(texts, label, "column of answers", columns, names)]
    for name, part in parts.items():
        if answers := _answers(part, columns, source):
            without = sum(not given for given in answers)
            lines.append(("answers", f"{name}: {len(answers) - without} questions with an answer, {without} without"))
    return lines


def answered(rows: Dataset, columns: Columns, source: str) -> bool:
    """Whether a split has answers. If no question has an answer, they count as hidden (as in test splits).

    Raises:
        DataError: the answers have an unknown form.
    """
    return any(_answers(rows, columns, source))


def _answers(rows: Dataset, columns: Columns, source: str) -> list[list[Answer]]:
    """Answers of every row; an empty list if the split has no column of answers."""
    column = find_label(columns, rows, ANSWERS)
    if column is None:
        return []
    values = rows[column][:]
    name = next((name for name in STARTS if name in rows.column_names), None)
    starts = rows[name][:] if name is not None else [None] * len(values)
    found: list[list[Answer]] = []
    for index, (value, start) in enumerate(zip(values, starts, strict=True)):
        try:
            found.append(_pairs(value, start))
        except (TypeError, ValueError, AttributeError):
            raise DataError(
                f"{place(rows, index, source, column)} holds no answers with their positions: {_short(value)}; {FORMS}"
            ) from None
    return found


def _pairs(value: Any, starts: Any) -> list[Answer]:
    """Answers of one row. Empty texts are dropped.

    Args:
        value: value in the column of answers.
        starts: value in the column of start positions, or ``None``.

    Raises:
        TypeError, ValueError, AttributeError: the values have an unknown form.
    """
    if value is None:
        return []
    if isinstance(value, dict):
        value, starts = value["text"] if "text" in value else _refuse(), value.get("answer_start")
    elif isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        value, starts = [part.get("text") for part in value], [part.get("answer_start") for part in value]
    texts: Sequence[Any] = [value] if isinstance(value, str) else value
    places: Sequence[Any] = [starts] if isinstance(starts, int) else starts or []
    pairs = [(text, place) for text, place in zip(texts, places, strict=True) if text]
    if not all(isinstance(text, str) and isinstance(place, int) for text, place in pairs):
        _refuse()
    return pairs


def _refuse() -> Any:
    raise ValueError("the answers have an unknown form")


def _short(value: Any) -> str:
    """Representation of a value, shortened to 60 characters for error messages."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
