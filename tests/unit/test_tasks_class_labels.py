"""Labels of text classification: which class of the data is which class of the model, and what is asked about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import BertForSequenceClassification

from secateurs.errors import DataError
from secateurs.tasks.base import Columns, TaskData
from tiny import write_rows
from tiny_classifier import TEXTS, model, read

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
