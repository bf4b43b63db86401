"""Multi-label classification: forms of the labels, loss, divergence and metric."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from secateurs.errors import DataError, UnsupportedModelError
from secateurs.tasks import task
from secateurs.tasks.base import Columns, TaskData
from secateurs.tasks.metrics.multi_label_f1 import score_classes
from secateurs.tasks.roles import RoleSizes
from tiny import tiny_tokenizer, write_rows

NAMES = ("toxic", "obscene", "threat")
TEXTS = ["the cat", "a dog ran", "a mat", "the fish", "a cat", "the dog"]
HOT = [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0]]
"""Classes of the texts, in the order of ``NAMES``."""


def model(**changes: Any) -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 40,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    kept = {"id2label": dict(enumerate(NAMES)), "problem_type": "multi_label_classification", **changes}
    return BertForSequenceClassification(BertConfig(**sizes, **kept)).eval()


def read(folder: Path, of: BertForSequenceClassification | None = None, **options: Any) -> TaskData:
    settings = {"columns": Columns(), "batch_size": 4, "sequence_length": 16, "roles": RoleSizes(4), "seed": 0}
    subject = task("multi_label_classification")
    return subject.read(str(folder), of or model(), tiny_tokenizer(), **{**settings, **options})


def folder(place: Path, **columns: list[Any]) -> Path:
    for split in ("train", "test"):
        write_rows(place / f"{split}.parquet", text=TEXTS, **columns)
    return place


@pytest.mark.parametrize(
    "columns",
    [
        {
            name: [row[index] for row in HOT]
            for index, name in reversed(list(enumerate(["Toxic", "OBSCENE", "threat"])))
        },
        {"labels": HOT},
        {"labels": [[float(value) for value in row] for row in HOT]},
        {"labels": [[index for index, value in enumerate(row) if value] for row in HOT]},
        {"labels": [[NAMES[index].upper() for index, value in enumerate(row) if value] for row in HOT]},
        {"labels": [[str(index) for index, value in enumerate(row) if value] for row in HOT]},
        {"labels": [str([NAMES[index] for index, value in enumerate(row) if value]) for row in HOT]},
        {"labels": [str(row) for row in HOT], "score": [0.5] * 6},
    ],
    ids=[
        "one column per class",
        "flags",
        "float flags",
        "numbers",
        "names",
        "digits",
        "names as text",
        "flags as text",
    ],
)
def test_every_form_of_labels_is_read(tmp_path: Path, columns: dict[str, list[Any]]) -> None:
    data = read(folder(tmp_path, **columns))
    assert [row["labels"] for row in data.train] == HOT
    assert data.collate([data.train[0], data.train[1]])["labels"].tolist() == HOT[:2]
    assert "'obscene' (output 1): 2 train, 2 test" in data.summary()
    score = task("multi_label_classification").evaluate(model(), data.evaluation, "cpu")
    assert (score.name, score.count) == ("micro F1", 6)


def test_declared_classes_are_matched_by_name(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, List, Value

    feature = List(ClassLabel(names=["threat", "toxic", "obscene"]))
    features = Features({"text": Value("string"), "labels": feature})
    for split in ("train", "test"):
        rows = Dataset.from_dict({"text": TEXTS[:3], "labels": [[0], [], [1, 2]]}, features=features)
        rows.to_parquet(str(tmp_path / f"{split}.parquet"))
    assert [row["labels"] for row in read(tmp_path).train] == [[0, 0, 1], [0, 0, 0], [1, 1, 0]]


def test_hidden_labels_and_no_labels_are_no_labels(tmp_path: Path) -> None:
    columns = {name: [row[index] for row in HOT] for index, name in enumerate(NAMES)}
    write_rows(tmp_path / "train.parquet", text=TEXTS, **columns)
    write_rows(tmp_path / "test.parquet", text=TEXTS, **{name: [-1] * 6 for name in NAMES})
    assert "rows held out of train" in read(tmp_path).description
    data = read(folder(tmp_path / "texts"))
    assert (data.evaluation, data.calibration_labels) == (None, False)
    assert "none without labels" in data.summary()


def jigsaw(place: Path) -> Path:
    """The CSV file of Jigsaw's toxicity data: a quoted comment of two lines, and a row without labels."""
    header = "id,comment_text," + ",".join(NAMES)
    rows = [f"{i:04x},a {text},{','.join(map(str, row))}" for i, (text, row) in enumerate(zip(TEXTS, HOT, strict=True))]
    rows += ['9999,"a ""cat"",\na dog",0,1,0', "aaaa,a mat,-1,-1,-1"]
    place.mkdir(parents=True, exist_ok=True)
    (place / "train.csv").write_text("\n".join([header, *rows]) + "\n")
    held_out = [row.replace(",a ", ",the ") for row in rows[:3]]
    (place / "test.csv").write_text("\n".join([header, *held_out]) + "\n")
    return place


def test_the_files_of_jigsaw_are_read(tmp_path: Path) -> None:
    data = read(jigsaw(tmp_path))
    assert [row["labels"] for row in data.train] == [*HOT, [0, 1, 0]]
    assert data.summary().splitlines()[1:9] == [
        "  split       train: 8 rows, for calibration and training",
        "  split       test: 3 rows, for evaluation",
        "  columns     text is 'comment_text', label is 'one column of 0 and 1 per class'; not used: id",
        "  labels      lists of classes; a text may have several, or none (without a class: 2 train, 1 test)",
        "  class       toxic is 'toxic' (output 0): 2 train, 1 test",
        "  class       obscene is 'obscene' (output 1): 3 train, 1 test",
        "  class       threat is 'threat' (output 2): 2 train, 1 test",
        "  note        1 of 8 train rows have no label and are left out",
    ]


@pytest.mark.parametrize(
    ("names", "config", "classes", "expected"),
    [
        (
            ("a", "b", "c"),
            {"id2label": {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}},
            None,
            HOT,
        ),  # the model has no names
        (("a", "b", "c"), {}, "number", HOT),
        (("a", "b", "c"), {}, None, r"does not know \(a, b, c\).*--classes number takes a as toxic"),
        (
            ("toxic", "b", "threat"),
            {},
            None,
            "names of classes of the model .toxic, threat., but none has the name obscene",
        ),
        (("a", "b"), {}, None, r"2 columns of .* hold 0 and 1 \(a, b\); the model has 3 classes"),
    ],
)
def test_columns_without_the_names_of_the_model_are_asked_about(
    tmp_path: Path, names: tuple[str, ...], config: dict[str, Any], classes: str | None, expected: Any
) -> None:
    folder(tmp_path, **{name: [row[index] for row in HOT] for index, name in enumerate(names)})
    of, columns = model(**config), Columns(classes=classes)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            read(tmp_path, of, columns=columns)
        assert read(tmp_path, of, columns=Columns(label="none")).evaluation is None
    else:
        assert [row["labels"] for row in read(tmp_path, of, columns=columns).train] == expected


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [0, 1, 2, 0, 1, 2]}, "holds 0, not a list.*--task text-classification"),
        ({"labels": [[0, 7]] * 6}, "holds the label 7; the model has classes 0..2"),
        ({"labels": [["toxic", "rude"]] * 6}, r"does not know \(rude\); .* the model's are toxic, obscene, threat"),
        ({"labels": [[0.25, 0.5, 1.0]] * 6}, "which is no class"),
        (
            {"toxic": [0.25] * 6, "obscene": [0.0] * 6, "threat": [1.0] * 6},
            "column 'toxic' .*holds 0.25, neither 0 nor 1",
        ),
        ({"emotions": [["toxic"]] * 6}, "'emotions' could be one .*choose --label-column emotions"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(folder(tmp_path, **columns))
    assert read(tmp_path, columns=Columns(label="none")).evaluation is None


def test_two_flags_in_every_row_could_be_two_classes(tmp_path: Path) -> None:
    two = model(id2label={0: "a", 1: "b"}, num_labels=2)
    with pytest.raises(DataError, match="a list of classes as well as one 0 or 1 per class"):
        read(folder(tmp_path / "both", labels=[[0, 1], [1, 0]] * 3), two)
    assert [row["labels"] for row in read(folder(tmp_path / "flags", labels=[[0, 1], [0, 0]] * 3), two).train][:2] == [
        [0, 1],
        [0, 0],
    ]


def test_the_two_tasks_name_each_other(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="use --task text-classification"):
        read(folder(tmp_path, labels=HOT), model(problem_type="single_label_classification"))
    assert len(read(tmp_path, model(problem_type=None)).train) == 6  # a config that does not say is no obstacle


def test_loss_and_divergence_are_those_of_every_class() -> None:
    subject = task("multi_label_classification")
    logits, labels = torch.randn(5, 3), torch.randint(2, (5, 3)).float()
    p = logits.double().sigmoid()
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    assert subject.loss(SimpleNamespace(logits=logits), {"labels": labels}).item() == pytest.approx(
        expected.item(), rel=1e-5
    )
    other = torch.randn(5, 3)
    rows = [subject.compared_outputs(SimpleNamespace(logits=each), {}) for each in (other, logits)]
    q = other.double().sigmoid()
    bernoulli = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert subject.divergence(*rows).double() == pytest.approx(bernoulli.sum(-1), rel=1e-4, abs=1e-6)
    shifted = subject.compared_outputs(SimpleNamespace(logits=logits + 1), {})
    assert subject.divergence(shifted, rows[1]).min() > 0.1, "a shift of all logits changes what is predicted"
    with pytest.raises(DataError, match="no labels"):
        subject.loss(SimpleNamespace(logits=logits), {})


def test_f1_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    predicted, true = (torch.rand(50, 4, generator=generator) < rate for rate in (0.4, 0.3))
    score = score_classes(predicted, true)
    assert score.micro_f1 == pytest.approx(metrics.f1_score(true, predicted, average="micro"))
    assert score.macro_f1 == pytest.approx(metrics.f1_score(true, predicted, average="macro"))
    assert score.precision == pytest.approx(metrics.precision_score(true, predicted, average="micro"))
    assert score.recall == pytest.approx(metrics.recall_score(true, predicted, average="micro"))
    assert score.subset_accuracy == pytest.approx(metrics.accuracy_score(true, predicted))


def test_f1_by_hand() -> None:
    predicted = torch.tensor([[True, True, False], [False, False, True]])
    true = torch.tensor([[True, False, False], [False, True, True]])
    score = score_classes(predicted, true)
    assert score.micro_f1 == pytest.approx(2 * 2 / (3 + 3))
    assert score.macro_f1 == pytest.approx((1 + 0 + 1) / 3)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert (score_classes(nothing, nothing).micro_f1, score_classes(nothing, nothing).macro_f1) == (0.0, 0.0)
