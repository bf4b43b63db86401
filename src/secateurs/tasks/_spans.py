"""Contexts -> overlapping windows of tokens, and scores of tokens -> the best span."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from secateurs.errors import DataError
from secateurs.tasks._batches import Collate, Encode, Row, Rows, sample
from secateurs.tasks._questions import Answer, Questions

__all__ = ["NOWHERE", "SpanRows", "Window", "best_spans", "doc_stride"]

DOC_STRIDE = 128

NOWHERE = -1e4
"""The logit of a token that cannot be chosen: its probability is 0 in every precision, and it is a number in float16."""

QUESTIONS_AT_ONCE = 256


def doc_stride(sequence_length: int) -> int:
    """Tokens of the context that neighbouring windows share: 128, or a third of shorter sequences."""
    return min(DOC_STRIDE, sequence_length // 3)


@dataclass(frozen=True)
class Window:
    """A question with one part of its context.

    Args:
        question: its index.
        row: for a batch: tokens; ``judged`` = the context and the token that stands for no answer; ``labels`` = first
            and last token of the answer, if there are labels.
        offsets: characters of the context that every token covers (first, behind the last); -1 outside the context.
        nothing: index of the token that stands for no answer.
    """

    question: int
    row: Row
    offsets: Int[np.ndarray, "tokens 2"]
    nothing: int


@final
class SpanRows(Rows):
    """Windows of questions; tokenised when they are asked for.

    Args:
        encode: tokenizer and length.
        data: questions.
        source: for messages.

    Raises:
        UnsupportedModelError: the tokenizer cannot say where in the text a token is.
        DataError: a question leaves no room for its context.
    """

    def __init__(self, encode: Encode, data: Questions, source: str) -> None:
        super().__init__(Collate.like(encode.tokenizer))
        encode.require_fast("where in the text a token is")
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

    def sample(self, size: int, seed: int) -> list[Row]:
        """See ``Rows.sample``: of the windows of as many questions, so that few are tokenised."""
        windows = list(self.windows(sample(len(self.data), size, seed)))
        return [windows[i].row for i in sample(len(windows), size, seed)]

    def windows(self, questions: Sequence[int]) -> Iterator[Window]:
        """All windows of these questions, in their order."""
        for start in range(0, len(questions), QUESTIONS_AT_ONCE):
            chosen = questions[start : start + QUESTIONS_AT_ONCE]
            encoded = self._tokens(chosen)
            for number, position in enumerate(encoded["overflow_to_sample_mapping"]):
                yield self._window(encoded, number, chosen[position])

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        """Question and number of every window. The tokens are not kept: those of a large train split fill gigabytes."""
        places: list[tuple[int, int]] = []
        for start in range(0, len(self.data), QUESTIONS_AT_ONCE):
            chosen = range(start, min(start + QUESTIONS_AT_ONCE, len(self.data)))
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
        nothing = ids.index(mark) if mark in ids else 0
        context = np.array([part == 1 for part in encoded.sequence_ids(number)])
        offsets = np.where(context[:, None], np.array(encoded["offset_mapping"][number], dtype=np.int32), -1)
        judged = context.astype(int)
        judged[nothing] = 1
        row["judged"] = judged.tolist()
        if self.data.answers is not None:
            row["labels"] = _place(next(iter(self.data.answers[question]), None), offsets, nothing)
        return Window(question, row, offsets, nothing)

    def _check_room(self) -> None:
        tokenizer: Any = self.encode.tokenizer
        length = self.encode.sequence_length
        most = length - tokenizer.num_special_tokens_to_add(pair=True) - self.stride - 1
        if most < 1:
            raise DataError(f"sequence_length {length} is too short for a question and its context; give at least 16")
        # No tokenizer makes more tokens than bytes, so most questions need not be tokenised.
        longer = [i for i, question in enumerate(self.data.questions) if len(question.encode()) > most]
        for start in range(0, len(longer), QUESTIONS_AT_ONCE):
            chosen = longer[start : start + QUESTIONS_AT_ONCE]
            texts = [self.data.questions[index] for index in chosen]
            ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            for index, tokens in zip(chosen, ids, strict=True):
                if len(tokens) > most:
                    raise DataError(
                        f"the question in row {index} of {self.source} has {len(tokens)} tokens, and windows of {length} "
                        f"with a stride of {self.stride} leave {most}; use a longer --sequence-length or drop such rows"
                    )


def _place(answer: Answer | None, offsets: Int[np.ndarray, "tokens 2"], nothing: int) -> list[int]:
    """First and last token of an answer that lies wholly in the window, otherwise twice the token for no answer."""
    (inside,) = np.nonzero(offsets[:, 0] >= 0)
    if answer is None or not len(inside):
        return [nothing, nothing]
    start, end = answer[1], answer[1] + len(answer[0])
    first = int(np.searchsorted(offsets[inside, 1], start, side="right"))
    last = int(np.searchsorted(offsets[inside, 0], end, side="left")) - 1
    whole = offsets[inside[0], 0] <= start and end <= offsets[inside[-1], 1]
    return [int(inside[first]), int(inside[last])] if whole and first <= last else [nothing, nothing]


def best_spans(
    start: Float[Tensor, "windows tokens"], end: Float[Tensor, "windows tokens"], longest: int
) -> tuple[Float[Tensor, " windows"], Int[Tensor, " windows"], Int[Tensor, " windows"]]:
    """The span with the highest sum of start and end logit that is not longer than ``longest`` tokens.

    Differs from SQuAD's baselines in looking at every span, not only at those of the 20 best starts and ends.

    Args:
        start: logits, ``NOWHERE`` where no answer can start.
        end: logits, ``NOWHERE`` where no answer can end.
        longest: tokens of an answer.

    Returns:
        Sum of the logits, first token, last token.
    """
    ends = functional.pad(end, (0, longest - 1), value=NOWHERE).unfold(1, longest, 1)
    score, place = (start[:, :, None] + ends).flatten(1).max(1)
    first = place.div(longest, rounding_mode="floor")
    return score, first, first + place % longest
