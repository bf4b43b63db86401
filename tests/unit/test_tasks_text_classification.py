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
from transformers import BertConfig, BertForSequenceClassification

from secateurs.errors import DataError, UnsupportedModelError
from secateurs.tasks import task
from secateurs.tasks.base import Columns, TaskData
from secateurs.tasks.roles import RoleSizes
from tiny import WORDS, tiny_tokenizer, write_rows

TEXTS = [" ".join(WORDS[i // 7 : i // 7 + 1 + i % 7]) for i in range(40)]


def model(**changes: Any) -> BertForSequenceClassification:
    small = {
        "vocab_size": 40,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**{**small, "max_position_embeddings": 32, **changes})).eval()


def read(source: Path, of: BertForSequenceClassification | None = None, **options: Any) -> TaskData:
    settings = {"columns": Columns(), "batch_size": 4, "sequence_length": 16, "roles": RoleSizes(10), "seed": 0}
    return task("text_classification").read(str(source), of or model(), tiny_tokenizer(), **{**settings, **options})


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
        ([[0], [1], [0], [1], [0]], 2, "of which a text has one"),
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
    with pytest.raises(UnsupportedModelError, match="multi_label_classification"):
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


POLARITY = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}


def declared(path: Path, names: list[str], labels: list[int], **columns: list[Any]) -> Path:
    """A Parquet file whose label column is a ``ClassLabel``."""
    from datasets import ClassLabel, Dataset

    rows = Dataset.from_dict({"text": ["a cat"] * len(labels), **columns, "label": labels})
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.cast_column("label", ClassLabel(names=names)).to_parquet(str(path))
    return path


def train_labels(source: Path, of: BertForSequenceClassification, **options: Any) -> list[Any]:
    """The labels of the training rows, in the order of the file."""
    return [row["labels"] for row in read(source, of, **options).train]


def lines(data: TaskData, about: str) -> str:
    return "\n".join(found for what, found in data.understood if what == about)


@pytest.mark.parametrize(
    ("names", "config", "classes", "expected"),
    [
        (["positive", "negative"], POLARITY, None, [1, 0]),  # by name, not by number
        (["Positive", "NEGATIVE"], POLARITY, None, [1, 0]),  # case aside
        (["positive", "negative"], POLARITY, "number", [0, 1]),
        (
            ["negative", "neutral", "positive"],
            POLARITY,
            None,
            "does not know .*neutral.*the model's are negative, positive",
        ),
        (
            ["neg", "pos"],
            POLARITY,
            None,
            "--classes number takes neg as negative, pos as positive; --label-column none",
        ),
        (["neg", "pos"], POLARITY, "number", [0, 1]),
        (["neg", "pos"], {}, None, [0, 1]),  # the model has no names
        (["1", "0"], POLARITY, None, [1, 0]),  # names that are numbers are numbers
        (
            ["contradiction", "neutral", "entailment"],  # the permutation of MNLI
            {"num_labels": 3, "id2label": {0: "entailment", 1: "neutral", 2: "contradiction"}},
            None,
            [2, 1, 0],
        ),
        (["not_entailment", "entailment"], {"id2label": {0: "Entailment", 1: "not entailment"}}, None, [1, 0]),
    ],
)
def test_declared_classes_are_matched_by_name(
    tmp_path: Path, names: list[str], config: dict[str, Any], classes: str | None, expected: Any
) -> None:
    labels = list(range(len(names)))
    for split in ("train", "test"):
        declared(tmp_path / f"{split}.parquet", names, labels)
    of, columns = model(**config), Columns(classes=classes)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            read(tmp_path, of, columns=columns)
    else:
        assert train_labels(tmp_path, of, columns=columns) == expected


@pytest.mark.parametrize(
    ("labels", "config", "classes", "expected"),
    [
        (["NEGATIVE", "Positive"], POLARITY, None, [0, 1]),
        (["0", "1"], POLARITY, None, [0, 1]),  # digits as text are numbers
        ([" 1", "0.0"], POLARITY, None, [1, 0]),
        ([0.0, 1.0], POLARITY, None, [0, 1]),
        ([True, False], POLARITY, None, [1, 0]),
        (["LABEL_1", "label_0"], {}, None, [1, 0]),
        (["1", "x"], POLARITY, None, r"does not know \(1, x\)"),
        # five stars, named by their number: 1 to 5 are names, 0 to 4 are numbers, 1 to 4 could be either
        ([1, 5], {"num_labels": 5, "id2label": {i: str(i + 1) for i in range(5)}}, None, [0, 4]),
        (["1", "5"], {"num_labels": 5, "id2label": {i: str(i + 1) for i in range(5)}}, None, [0, 4]),
        ([0, 4], {"num_labels": 5, "id2label": {i: str(i + 1) for i in range(5)}}, None, [0, 4]),
        ([1, 4], {"num_labels": 5, "id2label": {i: str(i + 1) for i in range(5)}}, None, "--classes name takes 1 as 1"),
        ([1, 4], {"num_labels": 5, "id2label": {i: str(i + 1) for i in range(5)}}, "name", [0, 3]),
        ([1, 4], {"num_labels": 5, "id2label": {i: str(i + 1) for i in range(5)}}, "number", [1, 4]),
        (["2.5", "1"], {"num_labels": 1}, None, [2.5, 1.0]),  # scores as text
    ],
)
def test_undeclared_classes_are_names_or_numbers(
    tmp_path: Path, labels: list[Any], config: dict[str, Any], classes: str | None, expected: Any
) -> None:
    for split in ("train", "test"):
        write_rows(tmp_path / f"{split}.parquet", text=["a cat"] * 2, label=labels)
    of, columns = model(**config), Columns(classes=classes)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            read(tmp_path, of, columns=columns)
    else:
        assert train_labels(tmp_path, of, columns=columns) == expected


def test_a_class_that_no_row_has_is_a_note(tmp_path: Path) -> None:
    labels = [i for i in range(77) if i != 40] * 2
    for split in ("train", "test"):
        write_rows(tmp_path / f"{split}.parquet", text=["a cat"] * len(labels), label=labels)
    data = read(tmp_path, model(num_labels=77))
    assert [row["labels"] for row in data.train] == labels
    assert lines(data, "note") == "no row has 1 of the model's classes: LABEL_40"
    assert "66 more: 132 train, 132 test" in lines(data, "class")


@pytest.mark.parametrize("missing", [None, -1])
def test_rows_without_a_label_are_left_out_and_counted(tmp_path: Path, missing: int | None) -> None:
    write_rows(tmp_path / "train.parquet", text=["a cat"] * 5, label=[0, missing, 1, 1, 0])
    write_rows(tmp_path / "test.parquet", text=["a cat"] * 3, label=[0, 1, 1])
    data = read(tmp_path)
    assert [row["labels"] for row in data.train] == [0, 1, 1, 0]
    assert lines(data, "note") == "1 of 5 train rows have no label and are left out"


def test_what_was_understood_is_listed(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet", review=TEXTS, sentiment=["NEGATIVE", "Positive"] * 20, id=list(range(40)))
    write_rows(tmp_path / "test.parquet", review=TEXTS[:3], sentiment=["Positive"] * 3, id=[0, 1, 2])
    assert read(tmp_path, model(**POLARITY)).summary().splitlines()[1:] == [
        "  split       train: 40 rows, for calibration and training",
        "  split       test: 3 rows, for evaluation",
        "  columns     text is 'review', label is 'sentiment'; not used: id",
        "  class       NEGATIVE is 'negative' (output 0): 20 train, 0 test",
        "  class       Positive is 'positive' (output 1): 20 train, 3 test",
        "  texts       10 texts of train to fit",
        "  note        3 texts of train are also in test and are used for evaluation only",
    ]


def test_data_without_labels_say_so(tmp_path: Path) -> None:
    write_rows(tmp_path / "all.parquet", text=TEXTS, url=[f"u{i}" for i in range(40)])
    data = read(tmp_path)
    assert lines(data, "columns") == "text is 'text', there is no label; not used: url"
    assert "none without labels" in lines(data, "evaluation")
    assert "none to evaluate" in data.description
    assert " 0 rows" not in data.summary()


def test_a_column_that_could_be_the_label_is_asked_about(tmp_path: Path) -> None:
    write_rows(tmp_path / "all.parquet", text=TEXTS, mood=["negative", "Positive"] * 20, idx=list(range(40)))
    with pytest.raises(DataError, match=r"'mood' could be one .*choose --label-column mood; --label-column none"):
        read(tmp_path, model(**POLARITY))
    assert read(tmp_path, model(**POLARITY), columns=Columns(label="mood")).evaluation is not None
    assert read(tmp_path, model(**POLARITY), columns=Columns(label="none")).evaluation is None
    assert read(tmp_path).evaluation is None  # no name of a class of this model


def test_tagged_words_are_asked_about(tmp_path: Path) -> None:
    words = [text.split() for text in TEXTS]
    write_rows(tmp_path / "all.parquet", tokens=words, ner_tags=[[0] * len(row) for row in words])
    with pytest.raises(DataError, match="--task token-classification; --text-column tokens reads"):
        read(tmp_path)
    assert "lists, joined" in lines(read(tmp_path, columns=Columns(text="tokens")), "columns")


def test_triplets_become_pairs(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_rows(
            tmp_path / f"{split}.parquet",
            query=["the cat", "a dog"],
            positive=["cat sat", "dog ran"],
            negative=[["a mat"], ["the", "fish"]],
        )
    data = read(tmp_path)
    assert [row["labels"] for row in data.train] == [1, 0, 1, 0, 0]
    assert data.train[0]["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]
    assert "'query' with 'positive' is a pair of class 1, with 'negative' of class 0" in lines(data, "columns")
    assert sum(len(batch["labels"]) for batch in data.evaluation) == 5
    assert [row["labels"] for row in read(tmp_path, model(num_labels=1)).train] == [1.0, 0.0, 1.0, 0.0, 0.0]
    assert "labels" not in read(tmp_path, columns=Columns(label="none")).train[0]
    with pytest.raises(DataError, match=r"has triplets .*the model has 3 classes"):
        read(tmp_path, model(num_labels=3))
    named = model(id2label={0: "entailment", 1: "not_entailment"})
    with pytest.raises(DataError, match=r"triplets read as pairs .*--classes number takes negative as entailment"):
        read(tmp_path, named)
