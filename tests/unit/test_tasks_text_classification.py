"""Text classification and regression: labels, batches, loss and metric."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from secateurs.errors import DataError, UnsupportedModelError
from secateurs.tasks import task
from secateurs.tasks.base import Columns, TaskData
from tiny import tiny_tokenizer, write_rows
from tiny_classifier import TEXTS, model, read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_rows(tmp_path / "train.parquet", sentence=TEXTS, label=[i % 2 for i in range(40)])
    write_rows(tmp_path / "validation.parquet", sentence=TEXTS[:9], label=[0, 1, 1] * 3)
    return tmp_path


def test_batches_are_padded_on_the_right_to_their_longest_row(folder: Path) -> None:
    data = read(folder)
    assert sum(len(batch["input_ids"]) for batch in data.roles.fit.batches) == 10
    for batch in data.roles.fit.batches:
        lengths = batch["attention_mask"].sum(1)
        assert int(lengths.max()) == batch["input_ids"].shape[1]
        assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels"}
        for ids, length in zip(batch["input_ids"], lengths.tolist(), strict=True):
            assert ids[0] == 2
            assert ids[length - 1] == 3
            assert not ids[length:].any()


def test_calibration_batches_have_similar_lengths_and_depend_on_the_seed(folder: Path) -> None:
    once, again, other = read(folder), read(folder), read(folder, seed=1)
    lengths = [batch["attention_mask"].sum(1).tolist() for batch in once.roles.fit.batches]
    ordered = sorted(lengths, key=max)
    assert all(max(low) <= min(high) for low, high in itertools.pairwise(ordered))

    def ids(data: TaskData) -> list[list[list[int]]]:
        return [batch["input_ids"].tolist() for batch in data.roles.fit.batches]

    assert ids(once) == ids(again) != ids(other)


def test_sequences_are_truncated(folder: Path) -> None:
    assert max(batch["input_ids"].shape[1] for batch in read(folder, sequence_length=4).roles.fit.batches) == 4
    with pytest.raises(DataError, match="sequence_length 33 exceeds the 32 positions"):
        read(folder, sequence_length=33)


def test_pairs_are_read_as_pairs(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet", premise=["the cat"] * 5, hypothesis=["a dog ran"] * 5, label=[0, 1, 0, 1, 0])
    row = read(tmp_path).train[0]
    assert row["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert len(row["input_ids"]) == 8


def test_train_rows_go_through_collate(folder: Path) -> None:
    data = read(folder)
    assert len(data.train) == 31  # the 9 texts of validation are evaluated only
    rows = [data.train[0], data.train[6]]
    batch = data.collate([dict(row) for row in rows])
    assert batch["input_ids"].shape == (2, max(len(row["input_ids"]) for row in rows))
    assert batch["labels"].tolist() == [row["labels"] for row in rows]


def test_accuracy_is_the_share_of_correct_classes(folder: Path) -> None:
    constant = model()
    nn.init.zeros_(constant.classifier.weight)
    constant.classifier.bias.data = torch.tensor([0.0, 1.0])
    constant.train()
    score = task("text_classification").evaluate(constant, read(folder).evaluation, "cpu")
    assert (score.name, score.count, score.higher_is_better) == ("accuracy", 9, True)
    assert score.value == pytest.approx(6 / 9)
    assert constant.training, "evaluate must leave the training mode as it was"


def test_class_names_are_mapped_by_the_config_of_the_model(tmp_path: Path) -> None:
    names = ["joy", "rage"] * 5
    write_rows(tmp_path / "train.parquet", text=["a cat"] * 10, label=names)
    write_rows(tmp_path / "test.parquet", text=["a cat"] * 2, label=["rage", "rage"])
    named = model(label2id={"rage": 0, "joy": 1}, id2label={0: "rage", 1: "joy"})
    data = read(tmp_path, named)
    assert [row["labels"] for row in data.train] == [1, 0] * 5
    with pytest.raises(DataError, match=r"does not know \(joy, rage\); .* the model's are LABEL_0, LABEL_1"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("labels", "num_labels", "message"),
    [
        ([0, 1, 2, 0, 1], 2, "holds the label 2; the model has classes 0..1"),
        ([1, -1, 1, -1, 1], 2, "holds the label -1"),  # the sign of a sentiment
        ([0, -1, 1, 0, 1], 3, "holds the label -1"),
        ([0.5, 1.0, 0.0, 1.0, 0.0], 2, "holds 0.5; the model has 2 classes"),
        (
            [[0], [1], [0], [1], [0]],
            2,
            "of which a text has one.*--task token-classification, if.*--task multi-label-classification, if",
        ),
        (["a", "b", "a", "b", "a"], 1, "needs scores"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, labels: list[Any], num_labels: int, message: str) -> None:
    write_rows(tmp_path / "train.parquet", text=["a cat"] * 5, label=labels)
    write_rows(tmp_path / "test.parquet", text=["a cat"] * 5, label=labels)
    with pytest.raises(DataError, match=message):
        read(tmp_path, model(num_labels=num_labels))
    data = read(tmp_path, model(num_labels=num_labels), columns=Columns(label="none"))
    assert (data.evaluation, data.calibration_labels) == (None, False)


def test_hidden_test_labels_count_as_missing(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet", text=TEXTS, label=[i % 2 for i in range(40)])
    write_rows(tmp_path / "test.parquet", text=TEXTS, label=[-1] * 40)
    data = read(tmp_path)
    assert len(data.train) == 32
    assert sum(len(batch["labels"]) for batch in data.evaluation) == 8
    assert "held out of train" in data.description


def test_without_labels_there_is_no_evaluation(tmp_path: Path) -> None:
    write_rows(tmp_path / "all.parquet", text=TEXTS)
    data = read(tmp_path)
    assert (data.evaluation, data.calibration_labels) == (None, False)
    assert data.train is not None  # distillation needs no labels
    assert "labels" not in data.collate([data.train[0], data.train[1]])
    assert all("labels" not in batch for batch in data.roles.fit.batches)
    with pytest.raises(DataError, match="no column 'mark'"):
        read(tmp_path, columns=Columns(label="mark"))


def test_a_model_with_one_output_is_a_regression(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet", sentence1=TEXTS, sentence2=TEXTS, score=[i / 10 for i in range(40)])
    write_rows(tmp_path / "validation.parquet", sentence1=TEXTS, sentence2=TEXTS, score=[i / 10 for i in range(40)])
    scorer = model(num_labels=1)
    data = read(tmp_path, scorer)
    regression = task("text_classification")
    assert data.train[3]["labels"] == pytest.approx(0.3)
    score = regression.evaluate(scorer, data.evaluation, "cpu")
    assert (score.name, score.count) == ("spearman", 40)
    assert -1 <= score.value <= 1
    outputs = SimpleNamespace(logits=torch.tensor([[1.0], [3.0]]))
    assert regression.loss(outputs, {"labels": torch.tensor([0.0, 1.0])}).item() == pytest.approx(2.5)
    assert regression.divergence(outputs.logits, torch.zeros(2, 1)).tolist() == [1.0, 9.0]
    scorer.save_pretrained(tmp_path / "scorer")
    tiny_tokenizer().save_pretrained(tmp_path / "scorer")
    assert regression.divergence_name == "KL"
    regression.load(str(tmp_path / "scorer"), dtype=torch.float32, device="cpu")
    assert regression.divergence_name == "squared error"


def test_multi_label_models_are_refused(folder: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="--task multi-label-classification"):
        read(folder, model(problem_type="multi_label_classification"))


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"the tokenizer has \d+ tokens and the model embeds 20"):
        read(folder, model(vocab_size=20))


def test_loss_is_cross_entropy_in_nats() -> None:
    classes = task("text_classification")
    outputs = SimpleNamespace(logits=torch.zeros(3, 4))
    assert classes.loss(outputs, {"labels": torch.tensor([0, 1, 2])}).item() == pytest.approx(math.log(4))
    with pytest.raises(DataError, match="no labels"):
        classes.loss(outputs, {})


def test_the_divergence_is_an_expectation_under_the_teacher() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert task("text_classification").divergence(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_evaluation_can_be_a_sample(folder: Path) -> None:
    data = read(folder, evaluation_samples=5)
    assert sum(len(batch["labels"]) for batch in data.evaluation) == 5
