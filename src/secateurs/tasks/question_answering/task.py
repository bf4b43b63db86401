"""Extractive question answering: the span of a context that answers a question, scored by F1 and exact match."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from secateurs.errors import DataError
from secateurs.numerics.divergence import kl_divergence
from secateurs.tasks.answers import AnswerScores, scored_by_equality
from secateurs.tasks.base import Batch, DataRequest, Score, Task, TaskData
from secateurs.tasks.data.batches import Ordered, forward, ordered, sample
from secateurs.tasks.data.columns import check_label
from secateurs.tasks.data.draw_roles import draw_roles
from secateurs.tasks.data.encode import Encode
from secateurs.tasks.data.sources import read_splits
from secateurs.tasks.data.splits import divide
from secateurs.tasks.data.understood import NOT_EVALUATED, about_skipped, about_splits
from secateurs.tasks.metrics.answer_agreement import exact_match_and_f1
from secateurs.tasks.question_answering.questions import (
    Questions,
    about_questions,
    answered,
    choose_answers,
    context_column,
    skip_unasked,
)
from secateurs.tasks.question_answering.spans import MASKED_LOGIT, SpanRows, best_spans

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["QuestionAnswering"]

LONGEST_ANSWER = 30
"""Maximum number of tokens of an answer, as in the baselines of SQuAD."""


@dataclass(frozen=True)
class HeldOutQuestions:
    """Held-out questions, divided into windows. The lists have one entry per window, in the order of the data.

    Args:
        data: questions with answers.
        windows: batches of windows.
        questions: index of the question of every window.
        offsets: for every window, the characters of the context that each token covers; -1 outside the context.
        no_answer: index of the no-answer token in every window.
        unanswerable: whether some questions of the data set have no answer.
        details: details of the score.
    """

    data: Questions
    windows: Ordered
    questions: list[int]
    offsets: list[Int[np.ndarray, "tokens 2"]]
    no_answer: list[int]
    unanswerable: bool
    details: dict[str, Any]

    @classmethod
    def of(cls, rows: SpanRows, unanswerable: bool, batch_size: int) -> HeldOutQuestions:
        """All windows of all questions.

        Args:
            rows: windows as rows.
            unanswerable: whether some questions of the data set have no answer.
            batch_size: windows per batch.
        """
        windows = list(rows.windows(range(len(rows.data))))
        details = {"doc_stride": rows.stride, "windows": len(windows), "longest_answer": LONGEST_ANSWER}
        return cls(
            rows.data,
            ordered([window.row for window in windows], batch_size, rows.collate),
            [window.question for window in windows],
            [window.offsets for window in windows],
            [window.no_answer for window in windows],
            unanswerable,
            details,
        )


@final
class QuestionAnswering(Task):
    """Extractive question answering.

    A context that does not fit into a sequence is divided into windows. Neighbouring windows share 128 tokens, or a third
    of the sequence length if that is less. Start and end of the answer are distributions over the context tokens of a
    window and its no-answer token.
    """

    name = "question_answering"
    divergence_name = "KL"
    pipeline_tag = "question-answering"
    auto_class = "AutoModelForQuestionAnswering"
    needs_labels_for_metric = True

    def read_data(self, request: DataRequest) -> TaskData:
        """See ``Task.read_data``. A calibration sample is a window, and an evaluation sample is a question.

        ``columns.text`` names the column of the questions, ``columns.text_pair`` the contexts, ``columns.label`` the
        answers.
        """
        source, columns = request.source, request.columns
        encode = Encode.for_model(request.model, request.tokenizer, request.sequence_length)
        everything = read_splits(source)
        check_label(columns, everything, source)
        choose_answers(everything, columns, source)
        splits = skip_unasked(everything, columns, source)
        division = divide(
            source,
            splits,
            usable=lambda rows: answered(rows, columns, source),
            seed=request.seed,
            together=lambda rows: context_column(rows, columns, source),
        )
        where = f"{source} ({division.rows_name})"
        rows = SpanRows(encode, Questions.read(division.rows, columns, where), where)
        about = [
            *about_splits(division, splits),
            *about_skipped(everything, splits),
            *about_questions(division.parts, columns, source),
            *about_skipped({division.rows_name: division.rows}, {division.rows_name: rows.data}),
        ]
        evaluation, what, compared = None, "none to evaluate (no answers)", None
        if division.held_out is not None:
            where = f"{source} ({division.held_out_name})"
            chosen = division.held_out.select(sample(len(division.held_out), request.evaluation_samples, request.seed))
            data = Questions.read(chosen, columns, where)
            about += about_skipped({division.held_out_name: chosen}, {division.held_out_name: data})
            unanswerable = not all((rows.data.answers or []) + (data.answers or []))
            compared = SpanRows(encode, data, where)
            evaluation = HeldOutQuestions.of(compared, unanswerable, request.batch_size)
            what = f"{len(data)} questions to evaluate ({division.held_out_name})"
        else:
            about.append(NOT_EVALUATED)
        if division.unlabelled is not None:
            where = f"{source} ({division.held_out_name})"
            compared = SpanRows(encode, Questions.read(division.unlabelled, columns, where), where)
        drawn, train = draw_roles(
            rows,
            compared,
            request.roles,
            split=division.rows_name,
            held_out_split=division.held_out_name,
            batch_size=request.batch_size,
            seed=request.seed,
        )
        return TaskData(
            roles=drawn,
            calibration_labels=rows.data.answers is not None,
            evaluation=evaluation,
            train=train if division.trainable else None,
            collate=rows.collate,
            description=(
                f"{source}: {drawn.fit.rows} windows of {request.sequence_length} tokens to calibrate, of {len(rows.data)} "
                f"{division.rows_name} questions, {what}"
            ),
            understood=tuple(about),
        )

    def compared_outputs(self, outputs: Any, batch: Batch) -> Float[Tensor, "rows features"]:
        """Two rows per window: start logits and end logits, at the tokens that are in the loss mask of any window.

        Logits outside the loss mask of their own window are ``MASKED_LOGIT`` for student and teacher alike. They add
        exactly 0 to the divergence and have no gradient.
        """
        used = batch["loss_mask"].any(0).to(outputs.start_logits.device)
        start, end = _logits(outputs, batch)
        return torch.stack([start[:, used], end[:, used]], 1).flatten(0, 1)

    def divergence(
        self, student: Float[Tensor, "rows features"], teacher: Float[Tensor, "rows features"]
    ) -> Float[Tensor, " rows"]:
        """KL(teacher || student) of the distributions of start or end over tokens, in nats."""
        return kl_divergence(student, teacher)

    def answers(self, outputs: Any, batch: Batch) -> Shaped[Tensor, "texts ..."]:
        """See ``Answers.answers``: the most probable start and end in every window."""
        return torch.stack([logits.argmax(-1) for logits in _logits(outputs, batch)], -1)

    def score_answers(
        self, ours: Shaped[Tensor, "texts ..."], dense: Shaped[Tensor, "texts ..."], batch: Batch
    ) -> AnswerScores:
        """See ``Answers.score_answers``."""
        return scored_by_equality(ours, dense, batch.get("labels"), "share of windows with the right span")

    def loss(self, outputs: Any, batch: Batch) -> Float[Tensor, ""]:
        """Mean cross-entropy of start and end, in nats. In a window without the answer, the no-answer token is correct.

        The loss inside transformers' models differs: there, tokens of the question and padding can be chosen as well.
        """
        if "labels" not in batch:
            raise DataError("the batch has no labels; the loss of question_answering needs a column of answers")
        labels = batch["labels"].to(outputs.start_logits.device)
        losses = [
            functional.cross_entropy(logits.float(), labels[:, side])
            for side, logits in enumerate(_logits(outputs, batch))
        ]
        return torch.stack(losses).mean()

    def evaluate(self, model: PreTrainedModel, evaluation: HeldOutQuestions, device: torch.device | str) -> Score:
        """Mean F1 of the words of the answers, with exact match in the details; both are fractions."""
        data = evaluation.data
        assert data.answers is not None
        texts = _predict(model, evaluation, device)
        golds = [[answer for answer, _ in given] for given in data.answers]
        pairs = [exact_match_and_f1(text, gold) for text, gold in zip(texts, golds, strict=True)]
        exact, f1 = (sum(side) / len(pairs) for side in zip(*pairs, strict=True))
        details = {"exact_match": exact, **evaluation.details}
        if evaluation.unanswerable:
            details["unanswerable"] = sum(not gold for gold in golds)
        return Score("f1", f1, higher_is_better=True, count=len(pairs), details=details)

    @classmethod
    def example(cls, texts: Sequence[str], labelled: bool = True) -> dict[str, list[Any]]:
        """See ``Task.example``. The question is the first word, the answer the last one; each fifth question has none."""
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
    """Start logits and end logits, ``MASKED_LOGIT`` outside the loss mask."""
    excluded = ~batch["loss_mask"].to(outputs.start_logits.device).bool()
    return outputs.start_logits.masked_fill(excluded, MASKED_LOGIT), outputs.end_logits.masked_fill(
        excluded, MASKED_LOGIT
    )


def _predict(model: PreTrainedModel, held_out: HeldOutQuestions, device: torch.device | str) -> list[str]:
    """Predicted answer of every question: the text of the best span of all of its windows.

    If the data set has unanswerable questions, the prediction is ``""`` where, in every window, the no-answer token
    scores higher than the best span of the question.
    """
    best = [(-math.inf, "")] * len(held_out.data)
    no_answer_scores = [math.inf] * len(held_out.data)
    order = iter(held_out.windows.order)
    for outputs, batch in forward(model, held_out.windows.batches, device):
        start, end = (logits.float().cpu() for logits in _logits(outputs, batch))
        windows = [next(order) for _ in start]
        places = torch.tensor([held_out.no_answer[window] for window in windows])[:, None]
        no_answer_sums = (start.gather(1, places) + end.gather(1, places)).squeeze(1).tolist()
        start, end = start.scatter(1, places, MASKED_LOGIT), end.scatter(1, places, MASKED_LOGIT)
        spans = zip(*(part.tolist() for part in best_spans(start, end, LONGEST_ANSWER)), strict=True)
        for window, no_answer_score, (score, first, last) in zip(windows, no_answer_sums, spans, strict=True):
            question, offsets = held_out.questions[window], held_out.offsets[window]
            no_answer_scores[question] = min(no_answer_scores[question], no_answer_score)
            if score > best[question][0] and score > MASKED_LOGIT:
                text = held_out.data.contexts[question][offsets[first, 0] : offsets[last, 1]]
                best[question] = (score, text)
    return [
        "" if held_out.unanswerable and no_answer_score > score else text
        for no_answer_score, (score, text) in zip(no_answer_scores, best, strict=True)
    ]
