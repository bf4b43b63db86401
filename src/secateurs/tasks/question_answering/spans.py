"""Division of contexts into overlapping windows of tokens, and choice of the best span of a window."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from secateurs.errors import DataError
from secateurs.tasks.data.batches import Collate, Rows, TextKey
from secateurs.tasks.data.encode import Encode, Row
from secateurs.tasks.question_answering.questions import Answer, Questions

__all__ = ["MASKED_LOGIT", "SpanRows", "Window", "best_spans", "doc_stride"]

DOC_STRIDE = 128
"""Tokens that neighbouring windows share, as in the baselines of SQuAD."""

MASKED_LOGIT = -1e4
"""Logit of tokens that cannot be chosen: their probability is 0 in every precision, and float16 can hold the value."""

QUESTIONS_PER_CALL = 256
"""Questions that are tokenized in one call."""


def doc_stride(sequence_length: int) -> int:
    """Number of context tokens that neighbouring windows share: 128, or a third of the sequence length if that is less."""
    return min(DOC_STRIDE, sequence_length // 3)


@dataclass(frozen=True)
class Window:
    """A question with one part of its context.

    Args:
        question: index of the question.
        row: token ids; ``loss_mask``, which is 1 at the context and at the no-answer token; and, with labels, ``labels``,
            the indices of the first and the last token of the answer.
        offsets: for every token, the index of its first character in the context and the index after its last; -1 for
            tokens outside the context.
        no_answer: index of the no-answer token. A start and an end at this token mean that the window has no answer.
    """

    question: int
    row: Row
    offsets: Int[np.ndarray, "tokens 2"]
    no_answer: int


@final
class SpanRows(Rows):
    """Windows of all questions as rows, tokenized on access.

    Args:
        encode: tokenizer and number of tokens per window.
        data: questions with their contexts and answers.
        source: name of the data set in error messages.

    Raises:
        UnsupportedModelError: the tokenizer is a slow one, which does not map tokens to characters.
        DataError: a question leaves no room for its context.
    """

    def __init__(self, encode: Encode, data: Questions, source: str) -> None:
        encode.require_fast("characters")
        super().__init__(Collate.like(encode.tokenizer))
        self.encode, self.data, self.source = encode, data, source
        self.stride = doc_stride(encode.sequence_length)
        self._check_room()

    def __len__(self) -> int:
        return len(self._places)

    def rows(self, indices: Sequence[int]) -> list[Row]:
        """See ``Rows.rows``."""
        places = [self._places[index] for index in indices]
        found: dict[int, list[Row]] = {}
        for window in self.windows(sorted({question for question, _ in places})):
            found.setdefault(window.question, []).append(window.row)
        return [found[question][number] for question, number in places]

    def text_keys(self) -> list[TextKey]:
        """See ``Pool.text_keys``. An item is a question with its windows; questions about one context are neighbours."""
        pairs = zip(self.data.contexts, self.data.questions, strict=True)
        return [TextKey(context, (context, question)) for context, question in pairs]

    def draw(self, items: Sequence[int]) -> list[list[Row]]:
        """See ``Pool.draw``."""
        found: dict[int, list[Row]] = {item: [] for item in items}
        for window in self.windows(items):
            found[window.question].append(window.row)
        return list(found.values())

    def without(self, items: Collection[int]) -> SpanRows:
        """See ``Pool.without``."""
        return SpanRows(self.encode, self.data.without(items), self.source) if items else self

    def windows(self, questions: Sequence[int]) -> Iterator[Window]:
        """All windows of the questions with the given indices, in the order of the indices."""
        for start in range(0, len(questions), QUESTIONS_PER_CALL):
            chosen = questions[start : start + QUESTIONS_PER_CALL]
            encoded = self._tokens(chosen)
            for number, position in enumerate(encoded["overflow_to_sample_mapping"]):
                yield self._window(encoded, number, chosen[position])

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        """Index of the question, and index among its windows, of every window.

        The tokens are not stored, because the tokens of a large training split would take gigabytes.
        """
        places: list[tuple[int, int]] = []
        for start in range(0, len(self.data), QUESTIONS_PER_CALL):
            chosen = range(start, min(start + QUESTIONS_PER_CALL, len(self.data)))
            owners = [chosen[position] for position in self._tokens(chosen)["overflow_to_sample_mapping"]]
            places += [(owner, number - owners.index(owner)) for number, owner in enumerate(owners)]
        return places

    def _tokens(self, questions: Sequence[int]) -> Any:
        return self.encode.tokenizer(
            [self.data.questions[index] for index in questions],
            [self.data.contexts[index] for index in questions],
            truncation="only_second",
            max_length=self.encode.sequence_length,
            stride=self.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )

    def _window(self, encoded: Any, number: int, question: int) -> Window:
        row: Row = {key: encoded[key][number] for key in self.encode.keys if key in encoded}
        ids, mark = row["input_ids"], self.encode.tokenizer.cls_token_id
        no_answer = ids.index(mark) if mark in ids else 0
        context = np.array([part == 1 for part in encoded.sequence_ids(number)])
        offsets = np.where(context[:, None], np.array(encoded["offset_mapping"][number], dtype=np.int32), -1)
        loss_mask = context.astype(int)
        loss_mask[no_answer] = 1
        row["loss_mask"] = loss_mask.tolist()
        if self.data.answers is not None:
            row["labels"] = _place(next(iter(self.data.answers[question]), None), offsets, no_answer)
        return Window(question, row, offsets, no_answer)

    def _check_room(self) -> None:
        """Check that every question leaves room for at least one context token more than the stride."""
        tokenizer: Any = self.encode.tokenizer
        length = self.encode.sequence_length
        most = length - tokenizer.num_special_tokens_to_add(pair=True) - self.stride - 1
        if most < 1:
            raise DataError(f"sequence_length {length} is too short for a question and its context; give at least 16")
        # A tokenizer makes at most one token per byte, so most questions are short enough without tokenizing them.
        longer = [i for i, question in enumerate(self.data.questions) if len(question.encode()) > most]
        for start in range(0, len(longer), QUESTIONS_PER_CALL):
            chosen = longer[start : start + QUESTIONS_PER_CALL]
            texts = [self.data.questions[index] for index in chosen]
            ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            for index, tokens in zip(chosen, ids, strict=True):
                if len(tokens) > most:
                    raise DataError(
                        f"the question in row {index} of {self.source} has {len(tokens)} tokens, and windows of {length} "
                        f"with a stride of {self.stride} leave {most}; use a longer --sequence-length or drop such rows"
                    )


def _place(answer: Answer | None, offsets: Int[np.ndarray, "tokens 2"], no_answer: int) -> list[int]:
    """Indices of the first and last token of an answer; the no-answer token twice if the window lacks a part of it.

    Args:
        answer: text and position of the answer, or ``None``.
        offsets: first character of every token, and the character after its last; -1 outside the context.
        no_answer: index of the no-answer token.
    """
    (inside,) = np.nonzero(offsets[:, 0] >= 0)
    if answer is None or not len(inside):
        return [no_answer, no_answer]
    start, end = answer[1], answer[1] + len(answer[0])
    first = int(np.searchsorted(offsets[inside, 1], start, side="right"))
    last = int(np.searchsorted(offsets[inside, 0], end, side="left")) - 1
    complete = offsets[inside[0], 0] <= start and end <= offsets[inside[-1], 1]
    return [int(inside[first]), int(inside[last])] if complete and first <= last else [no_answer, no_answer]


def best_spans(
    start: Float[Tensor, "windows tokens"], end: Float[Tensor, "windows tokens"], longest: int
) -> tuple[Float[Tensor, " windows"], Int[Tensor, " windows"], Int[Tensor, " windows"]]:
    """The span of at most ``longest`` tokens with the highest sum of start logit and end logit.

    Every span is considered, whereas the baselines of SQuAD consider the spans of the 20 best starts and ends only.

    Args:
        start: start logits, ``MASKED_LOGIT`` where no answer can start.
        end: end logits, ``MASKED_LOGIT`` where no answer can end.
        longest: maximum number of tokens of an answer.

    Returns:
        For every window: the sum of the two logits, the index of the first token, the index of the last token.
    """
    ends = functional.pad(end, (0, longest - 1), value=MASKED_LOGIT).unfold(1, longest, 1)
    score, place = (start[:, :, None] + ends).flatten(1).max(1)
    first = place.div(longest, rounding_mode="floor")
    return score, first, first + place % longest
