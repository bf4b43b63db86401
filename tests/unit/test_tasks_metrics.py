"""Metrics: nDCG, rank correlation, entity F1, and exact match and F1 of answers."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

from secateurs.tasks.metrics.answer_agreement import exact_match_and_f1, normalize_answer
from secateurs.tasks.metrics.correlation import correlation
from secateurs.tasks.metrics.entity_f1 import are_chunks, entities, score_entities
from secateurs.tasks.metrics.ndcg import ndcg


def test_ndcg_by_hand() -> None:
    ranked = torch.tensor([[3, 1, 2], [0, 1, 2], [2, 0, 1]])
    relevance = [{1: 2.0, 3: 1.0}, {9: 1.0}, {2: 4.0}]
    first = (1.0 / math.log2(2) + 2.0 / math.log2(3)) / (2.0 / math.log2(2) + 1.0 / math.log2(3))
    assert ndcg(ranked, relevance) == pytest.approx([first, 0.0, 1.0])


def test_ndcg_equals_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(20, 30, generator=generator)
    gains = torch.randint(0, 4, (20, 30), generator=generator)
    relevance = [{j: float(g) for j, g in enumerate(row.tolist()) if g} for row in gains]
    found = ndcg(scores.topk(10).indices, relevance)
    expected = [metrics.ndcg_score(gains[i : i + 1].numpy(), scores[i : i + 1].numpy(), k=10) for i in range(20)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_only_ranks_matter_for_the_correlation() -> None:
    true = torch.tensor([0.0, 1.0, 2.0, 3.0])
    score = correlation(true.exp(), true)
    assert score.value == pytest.approx(1.0)
    assert score.details["pearson"] < 0.95
    assert (score.name, score.count) == ("spearman", 4)


def test_tied_values_share_their_mean_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randn(50, generator=generator, dtype=torch.float64)
    true = (predicted + torch.randn(50, generator=generator, dtype=torch.float64)).round()
    score = correlation(predicted, true)

    def ranks(values: torch.Tensor) -> torch.Tensor:
        below, equal = values[:, None] > values, values[:, None] == values
        return below.sum(1) + (equal.sum(1) + 1) / 2

    assert len(true.unique()) < 10
    assert score.value == pytest.approx(np.corrcoef(ranks(predicted), ranks(true))[0, 1], rel=1e-12)
    assert score.details["pearson"] == pytest.approx(np.corrcoef(predicted, true)[0, 1], rel=1e-12)


def test_the_correlation_with_a_constant_is_0_without_warning() -> None:
    values, constant = torch.arange(4.0), torch.ones(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for predicted, true in ((constant, values), (values, constant), (constant[:1], values[:1])):
            score = correlation(predicted, true)
            assert (score.value, score.details["pearson"]) == (0.0, 0.0)


TAGGED = {
    "IOB2": (["B-x", "I-x", "O", "B-y"], {("x", 0, 1), ("y", 3, 3)}),
    "IOB1": (["I-x", "I-x", "B-x", "O", "I-y"], {("x", 0, 1), ("x", 2, 2), ("y", 4, 4)}),
    "neighbours": (["B-x", "B-x", "I-y"], {("x", 0, 0), ("x", 1, 1), ("y", 2, 2)}),
    "another type inside": (["B-x", "I-y", "I-y"], {("x", 0, 0), ("y", 1, 2)}),
    "BIOES": (["S-x", "B-x", "I-x", "E-x", "I-x", "O"], {("x", 0, 0), ("x", 1, 3), ("x", 4, 4)}),
    "an end without a start": (["E-x", "E-x", "S-x", "E-x"], {("x", 0, 0), ("x", 1, 1), ("x", 2, 2), ("x", 3, 3)}),
    "BILOU": (["U-x", "U-x", "B-y", "L-y"], {("x", 0, 0), ("x", 1, 1), ("y", 2, 3)}),
    "names with hyphens": (["B-x-1", "I-x-1", "I-x"], {("x-1", 0, 1), ("x", 2, 2)}),
    "no entity": (["O", "O", "PAD"], set()),
}


@pytest.mark.parametrize("case", TAGGED)
def test_entities_equal_those_of_conlleval(case: str) -> None:
    tags, expected = TAGGED[case]
    assert entities(tags) == expected


def test_scores_of_entities_are_micro_averages() -> None:
    true = [["B-x", "I-x", "O", "B-y"], ["O", "B-y", "O"]]
    predicted = [["B-x", "I-x", "O", "B-x"], ["B-y", "I-y", "O"]]  # correct, of another type, of other words
    score = score_entities(true, predicted)
    assert score == (1 / 3, 1 / 3, pytest.approx(1 / 3), 3)
    score = score_entities(true, [["B-x", "I-x", "O", "O"], ["O", "O", "O"]])
    assert score == (1.0, 1 / 3, 0.5, 3)
    assert score_entities([["O"]], [["O"]]) == (0.0, 0.0, 0.0, 0)
    assert score_entities([["B-x"], ["O"]], [["O"], ["B-x"]]).f1 == 0, "entities of two sentences must not be compared"


def test_chunk_labels_are_recognised() -> None:
    assert are_chunks(["O", "B-pet", "I-pet"])
    assert not are_chunks(["NOUN", "VERB", "X"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat!", "cat"),
        ("an apple, a day", "apple day"),
        ("theory of A.N. Other", "theory of other"),
        ("U.S.", "us"),
        ("1,000\tdogs\n", "1000 dogs"),
        ("«über»", "«über»"),
        ("a", ""),
    ],
)
def test_answers_are_normalised(text: str, expected: str) -> None:
    assert normalize_answer(text) == expected


@pytest.mark.parametrize(
    ("predicted", "answers", "exact", "f1"),
    [
        ("the Cat.", ["cat"], 1, 1),
        ("big red cat", ["red cat sat", "dog"], 0, 2 / 3),
        ("cat cat", ["cat"], 0, 2 / 3),
        ("dog", ["cat", "dog house"], 0, 2 / 3),
        ("dog", ["cat"], 0, 0),
        ("", [], 1, 1),
        ("cat", [], 0, 0),
        ("", ["cat"], 0, 0),
        ("the", ["the", "cat"], 0, 0),
    ],
)
def test_exact_match_and_f1_are_those_of_squad(predicted: str, answers: list[str], exact: float, f1: float) -> None:
    assert exact_match_and_f1(predicted, answers) == (exact, pytest.approx(f1))
