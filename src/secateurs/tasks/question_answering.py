"""The span of a context that answers a question (SQuAD): F1 and exact match."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from secateurs.errors import DataError
from secateurs.tasks import Batch, Columns, Score, Task, TaskData
from secateurs.tasks._answers import agreement
from secateurs.tasks._batches import Encode, Ordered, calibration_batches, forward, ordered, sample
from secateurs.tasks._columns import check_label
from secateurs.tasks._divergence import kl_divergence
from secateurs.tasks._questions import Questions, answered
from secateurs.tasks._sources import divide, read_splits
from secateurs.tasks._spans import NOWHERE, SpanRows, best_spans

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["QuestionAnswering"]

LONGEST_ANSWER = 30
"""Tokens of an answer at most, as in SQuAD's baselines."""


@dataclass(frozen=True)
class Held:
    """Held-out questions in windows.

    Args:
        data: questions with answers.
        windows: their tokens.
        questions: of every window, in the order of the data.
        offsets: of every window, characters of the context a token covers; -1 outside the context.
        nothing: of every window, the token that stands for no answer.
        silent: a question may have no answer.
        details: of the score.
    """

    data: Questions
    windows: Ordered
    questions: list[int]
    offsets: list[Int[np.ndarray, "tokens 2"]]
    nothing: list[int]
    silent: bool
    details: dict[str, Any]

    @classmethod
    def of(cls, rows: SpanRows, silent: bool, batch_size: int) -> Held:
        """All windows of all questions."""
        windows = list(rows.windows(range(len(rows.data))))
        details = {"doc_stride": rows.stride, "windows": len(windows), "longest_answer": LONGEST_ANSWER}
        return cls(
            rows.data,
            ordered([window.row for window in windows], batch_size, rows.collate),
            [window.question for window in windows],
            [window.offsets for window in windows],
            [window.nothing for window in windows],
            silent,
            details,
        )


@final
class QuestionAnswering(Task):
    """Extractive question answering.

    Contexts that do not fit are divided into windows that overlap by 128 tokens, or by a third of shorter sequences.
    Start and end are distributions over the context of a window and the token that stands for "no answer here".
    """

    name = "question_answering"
    divergence_name = "KL"
    pipeline_tag = "question-answering"
    auto_class = "AutoModelForQuestionAnswering"
    needs_labels_for_metric = True

    def read(
        self,
        source: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        columns: Columns,
        batch_size: int,
        sequence_length: int,
        calibration_samples: int,
        seed: int,
        evaluation_samples: int | None = None,
    ) -> TaskData:
        """See ``Task.read``; a calibration sample is a window, an evaluation sample a question.

        ``columns.text`` holds the questions, ``columns.text_pair`` the contexts, ``columns.label`` the answers.
        """
        encode = Encode.for_model(model, tokenizer, sequence_length)
        splits = read_splits(source)
        check_label(columns, splits, source)
        division = divide(source, splits, usable=lambda rows: answered(rows, columns, source), seed=seed)
        where = f"{source} ({division.rows_name})"
        rows = SpanRows(encode, Questions.read(division.rows, columns, where), where)
        evaluation, what = None, "none to evaluate"
        if division.held_out is not None:
            where = f"{source} ({division.held_out_name})"
            chosen = division.held_out.select(sample(len(division.held_out), evaluation_samples, seed))
            data = Questions.read(chosen, columns, where)
            silent = not all((rows.data.answers or []) + (data.answers or []))
            evaluation = Held.of(SpanRows(encode, data, where), silent, batch_size)
            what = f"{len(data)} questions to evaluate ({division.held_out_name})"
        calibration = calibration_batches(rows, calibration_samples, batch_size, seed)
        count = sum(len(batch["input_ids"]) for batch in calibration)
        return TaskData(
            calibration=calibration,
            calibration_labels=rows.data.answers is not None,
            evaluation=evaluation,
            train=rows if division.trainable else None,
            collate=rows.collate,
            description=(
                f"{source}: {count} windows of {sequence_length} tokens to calibrate, of {len(rows.data)} "
                f"{division.rows_name} questions, {what}"
            ),
        )

    def signal(self, outputs: Any, batch: Batch) -> Float[Tensor, "rows features"]:
        """Two rows a window: the logits of the start and of the end, at the tokens that are judged in some window.

        Where this window does not judge them they are ``NOWHERE`` in student and teacher alike, which adds exactly
        nothing to the divergence and has no gradient.
        """
        used = batch["judged"].any(0).to(outputs.start_logits.device)
        start, end = _logits(outputs, batch)
        return torch.stack([start[:, used], end[:, used]], 1).flatten(0, 1)

    def divergence(
        self, student: Float[Tensor, "rows features"], teacher: Float[Tensor, "rows features"]
    ) -> Float[Tensor, " rows"]:
        """KL(teacher || student) of the place of start or end, in nats."""
        return kl_divergence(student, teacher)

    def loss(self, outputs: Any, batch: Batch) -> Float[Tensor, ""]:
        """Mean cross-entropy of start and end, in nats; windows without the answer should say so.

        Differs from the loss inside transformers' models in that question and padding cannot be chosen.
        """
        if "labels" not in batch:
            raise DataError("the batch has no labels; the loss of question_answering needs a column of answers")
        labels = batch["labels"].to(outputs.start_logits.device)
        losses = [
            functional.cross_entropy(logits.float(), labels[:, side])
            for side, logits in enumerate(_logits(outputs, batch))
        ]
        return torch.stack(losses).mean()

    def evaluate(self, model: PreTrainedModel, evaluation: Held, device: torch.device | str) -> Score:
        """F1 of the words of the answers, with exact match in the details (both fractions)."""
        data = evaluation.data
        assert data.answers is not None
        texts = _predict(model, evaluation, device)
        golds = [[answer for answer, _ in given] for given in data.answers]
        pairs = [agreement(text, gold) for text, gold in zip(texts, golds, strict=True)]
        exact, f1 = (sum(side) / len(pairs) for side in zip(*pairs, strict=True))
        details = {"exact_match": exact, **evaluation.details}
        if evaluation.silent:
            details["unanswerable"] = sum(not gold for gold in golds)
        return Score("f1", f1, higher_is_better=True, count=len(pairs), details=details)

    @classmethod
    def example(cls, texts: Sequence[str], labelled: bool = True) -> dict[str, list[Any]]:
        """See ``Task.example``: the first word is asked for the last one; every fifth question has no answer."""
        columns: dict[str, list[Any]] = {"question": [text.split()[0] for text in texts], "context": list(texts)}
        if not labelled:
            return columns
        columns["answers"] = []
        for index, text in enumerate(texts):
            last = text.split()[-1]
            found = [last] if index % 5 else []
            columns["answers"].append({"text": found, "answer_start": [len(text) - len(last) for _ in found]})
        return columns


def _logits(outputs: Any, batch: Batch) -> tuple[Float[Tensor, "windows tokens"], Float[Tensor, "windows tokens"]]:
    """Of start and end, ``NOWHERE`` at tokens that are not judged."""
    closed = ~batch["judged"].to(outputs.start_logits.device).bool()
    return outputs.start_logits.masked_fill(closed, NOWHERE), outputs.end_logits.masked_fill(closed, NOWHERE)


def _predict(model: PreTrainedModel, held: Held, device: torch.device | str) -> list[str]:
    """The best span of all windows of a question; "" where no answer scores higher in each of them, if there may be none."""
    best = [(-math.inf, "")] * len(held.data)
    silence = [math.inf] * len(held.data)
    order = iter(held.windows.order)
    for outputs, batch in forward(model, held.windows.batches, device):
        start, end = (logits.float().cpu() for logits in _logits(outputs, batch))
        windows = [next(order) for _ in start]
        nothing = torch.tensor([held.nothing[window] for window in windows])[:, None]
        silent = (start.gather(1, nothing) + end.gather(1, nothing)).squeeze(1).tolist()
        start, end = start.scatter(1, nothing, NOWHERE), end.scatter(1, nothing, NOWHERE)
        spans = zip(*(part.tolist() for part in best_spans(start, end, LONGEST_ANSWER)), strict=True)
        for window, quiet, (score, first, last) in zip(windows, silent, spans, strict=True):
            question, offsets = held.questions[window], held.offsets[window]
            silence[question] = min(silence[question], quiet)
            if score > best[question][0] and score > NOWHERE:
                text = held.data.contexts[question][offsets[first, 0] : offsets[last, 1]]
                best[question] = (score, text)
    return ["" if held.silent and quiet > score else text for quiet, (score, text) in zip(silence, best, strict=True)]
