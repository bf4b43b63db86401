"""Questions, their contexts and answers, out of the columns of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateurs.errors import DataError
from secateurs.tasks import Columns
from secateurs.tasks._columns import find_column, find_label, texts_of

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Answer", "Questions", "answered"]

QUESTIONS = ("question", "query")
CONTEXTS = ("context", "passage", "document")
ANSWERS = ("answers", "answer", "answers.text")
STARTS = ("answer_start", "answer_starts", "answers.answer_start")
FORMS = "give {text: [...], answer_start: [...]}, or texts beside a column answer_start"

Answer = tuple[str, int]
"""A text, and the character of the context at which it starts."""


@dataclass(frozen=True)
class Questions:
    """Rows of question answering data.

    Args:
        questions: texts.
        contexts: a text for every question.
        answers: those of every question, none where the context does not answer it; ``None`` without labels.
    """

    questions: list[str]
    contexts: list[str]
    answers: list[list[Answer]] | None

    def __len__(self) -> int:
        return len(self.questions)

    @classmethod
    def read(cls, rows: Dataset, columns: Columns, source: str) -> Questions:
        """The columns ``question``, ``context`` and ``answers`` (SQuAD), the last of them also in two columns.

        Raises:
            DataError: a column is missing or holds something else, or an answer is not where it is said to be.
        """
        question = find_column(columns.text, "text", QUESTIONS, rows, source)
        context = find_column(columns.text_pair, "text_pair", CONTEXTS, rows, source)
        questions, contexts = texts_of(rows, question, source), texts_of(rows, context, source)
        for name, texts in ((question, questions), (context, contexts)):
            for index, text in enumerate(texts):
                if not text.strip():
                    raise DataError(f"row {index} of column {name!r} of {source} is empty; drop such rows")
        answers = _answers(rows, columns, source)
        for index, given in enumerate(answers):
            for text, start in given:
                there = contexts[index][max(start, 0) : max(start, 0) + len(text)]
                if start < 0 or there != text:
                    raise DataError(
                        f"row {index} of {source}: the answer {_short(text)} is not at character {start} of its context, "
                        f"where {_short(there)} is; repair answer_start or drop such rows"
                    )
        return cls(questions, contexts, answers if any(answers) else None)


def answered(rows: Dataset, columns: Columns, source: str) -> bool:
    """Whether a split has answers; one in which no question has any does not count (hidden test answers).

    Raises:
        DataError: the answers are of no form that is known.
    """
    return any(_answers(rows, columns, source))


def _answers(rows: Dataset, columns: Columns, source: str) -> list[list[Answer]]:
    """Of every row; nothing where this split has no such column."""
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
                f"row {index} of column {column!r} of {source} holds no answers with their positions: "
                f"{_short(value)}; {FORMS}"
            ) from None
    return found


def _pairs(value: Any, starts: Any) -> list[Answer]:
    """One row's answers; empty texts are no answers."""
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
    raise ValueError("no form of answers that is known")


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
