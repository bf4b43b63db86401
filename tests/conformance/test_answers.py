"""Requirements for the answers of every task, by which ``--keep`` compares two models."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from secateurs.tasks.answers import AnswerScores
from secateurs.tasks.base import Columns, Task, TaskData, main_input
from tiny import tiny_processor
from tiny_tasks import SETTINGS, outputs, small_model


@pytest.mark.parametrize("labelled", [True, False])
def test_answers_of_another_model_keep_less_than_the_dense_ones(
    subject: Task, model: Any, folder: Path, labelled: bool
) -> None:
    """``--keep`` compares the answers of two models, text by text; equal answers keep all."""
    source, processor = str(folder if labelled else folder / "unlabelled"), tiny_processor(model)
    batches = subject.read(source, model, processor, columns=Columns(), **SETTINGS).roles.fit.batches
    other = small_model(subject.auto_class, seed=1)

    def scores(pruned: Any) -> list[AnswerScores]:
        pairs = []
        for batch in batches:
            with torch.no_grad():
                ours, dense = (subject.answers(outputs(one, batch), batch) for one in (pruned, model))
            assert len(ours) == len(main_input(batch)), "one answer per text"
            pairs.append(subject.score_answers(ours, dense, batch))
        return pairs

    for one in scores(model):
        assert one.ours.shape == one.dense.shape == (len(one.ours), 2)
        torch.testing.assert_close(one.ours, one.dense)
    totals = [torch.cat([getattr(one, side) for one in scores(other)]).sum(0) for side in ("ours", "dense")]
    ours, dense = (float(total[0] / total[1]) for total in totals)
    guided = subject.name in ("causal_lm", "seq2seq")  # the next token is the label
    if guided:
        assert ours != dense
    elif not labelled:
        assert dense == pytest.approx(1), "without labels, the dense answers are the right ones"
        assert ours < 1
    assert {one.nats for one in scores(other)} == {guided}


def test_the_metric_and_the_answers_agree(subject: Task, model: Any, data: TaskData) -> None:
    """Where answers are scored by the metric itself, their score over the evaluation data is the metric."""
    if subject.name not in ("text_classification", "token_classification", "image_classification", "causal_lm"):
        pytest.skip("the metric of this task is no sum over texts, or is scored by something else")
    evaluation = data.evaluation
    batches = getattr(evaluation, "batches", evaluation)
    with torch.no_grad():
        answers = [subject.answers(outputs(model, batch), batch) for batch in batches]
    parts = [subject.score_answers(one, one, batch) for one, batch in zip(answers, batches, strict=True)]
    total = torch.cat([part.ours.double() for part in parts]).sum(0)
    value = float(total[0] / total[1])
    score = subject.evaluate(model, evaluation, "cpu")
    assert (math.exp(value) if parts[0].nats else value) == pytest.approx(score.value, rel=1e-5)
