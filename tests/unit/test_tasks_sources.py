"""Reading of files, folders and columns, choice of splits, and the errors for data that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from secateurs.errors import DataError
from secateurs.tasks.base import Columns
from secateurs.tasks.data.columns import TextColumns, find_label, find_texts, texts_of
from secateurs.tasks.data.sources import read_splits
from secateurs.tasks.data.splits import divide
from tiny import write_rows


def sizes(splits: dict[str, Dataset]) -> dict[str, int]:
    return {name: len(rows) for name, rows in splits.items()}


def test_splits_are_named_by_their_files(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet", text=["a", "b"])
    (tmp_path / "dev.csv").write_text("text,label\nx,1\n")
    (tmp_path / "test.jsonl").write_text('{"text": "y"}\n{"text": "z"}\n')
    (tmp_path / "notes.md").write_text("not data")
    assert sizes(read_splits(str(tmp_path))) == {"train": 2, "dev": 1, "test": 2}


def test_hub_layouts_are_read(tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "train-00000-of-00002.parquet", text=["a", "b"])
    write_rows(tmp_path / "data" / "train-00001-of-00002.parquet", text=["c"])
    write_rows(tmp_path / "validation" / "0000.parquet", text=["d"])
    (tmp_path / "dataset_infos.json").write_text(json.dumps({}))
    splits = read_splits(str(tmp_path))
    assert sizes(splits) == {"train": 3, "validation": 1}
    assert splits["train"]["text"][:] == ["a", "b", "c"]


def test_folders_of_save_to_disk_are_read(tmp_path: Path) -> None:
    DatasetDict({"train": Dataset.from_dict({"text": ["a"]})}).save_to_disk(str(tmp_path / "stored"))
    assert sizes(read_splits(str(tmp_path / "stored"))) == {"train": 1}


def test_a_single_text_file_has_one_row_a_line(tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("one\ntwo\n\nthree\n")
    splits = read_splits(str(tmp_path / "story.txt"))
    assert splits["story"]["text"][:] == ["one", "two", "", "three"]


def test_tables_with_tabs_are_read(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("sentence\tlabel\na, b\t1\n")
    assert read_splits(str(tmp_path))["train"][0] == {"sentence": "a, b", "label": 1}


def test_splits_of_one_folder_may_differ_in_their_columns(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet", text=["a"])
    write_rows(tmp_path / "test.parquet", text=["a"], label=[1])
    assert read_splits(str(tmp_path))["test"].column_names == ["text", "label"]


@pytest.mark.parametrize("source", ["/nowhere/at/all", "./nowhere", "a/b/c"])
def test_a_missing_path_is_reported(source: str) -> None:
    with pytest.raises(DataError, match=f"{source} does not exist"):
        read_splits(source)


def test_an_unreachable_hub_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no network\nlong story")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(DataError, match=r"some/set: .*hub \(no network\)$"):
        read_splits("some/set")


def test_damaged_and_empty_files_are_reported(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    with pytest.raises(DataError, match="holds no data"):
        read_splits(str(tmp_path / "bad"))
    (tmp_path / "bad" / "train.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"cannot read .*train\.parquet"):
        read_splits(str(tmp_path / "bad"))
    write_rows(tmp_path / "empty" / "train.parquet", text=[])
    with pytest.raises(DataError, match="no rows in any split"):
        read_splits(str(tmp_path / "empty"))
    (tmp_path / "data.xml").write_text("<a/>")
    with pytest.raises(DataError, match=r"known kinds of file are \.parquet"):
        read_splits(str(tmp_path / "data.xml"))


def rows(count: int, **columns: list[object]) -> Dataset:
    return Dataset.from_dict({"text": [f"row {i}" for i in range(count)], **columns})


def test_validation_is_preferred_to_test() -> None:
    splits = {"test": rows(3), "train_subset": rows(9), "validation": rows(5)}
    division = divide("here", splits, usable=lambda rows: True, seed=0)
    assert (division.rows_name, division.held_out_name, division.trainable) == ("train_subset", "validation", True)


def test_a_split_without_labels_is_not_used_for_evaluation() -> None:
    splits = {"train": rows(9, label=[1] * 9), "validation": rows(5), "test": rows(3, label=[1] * 3)}
    division = divide("here", splits, usable=lambda rows: "label" in rows.column_names, seed=0)
    assert division.held_out_name == "test"


def test_only_a_training_split_is_trained_on() -> None:
    division = divide("here", {"validation": rows(5), "test": rows(4)}, usable=lambda rows: True, seed=0)
    assert (division.rows_name, division.held_out_name, division.trainable) == ("test", "validation", False)


@pytest.mark.parametrize("contiguous", [False, True])
def test_a_lone_split_is_divided_without_overlap(contiguous: bool) -> None:
    everything = rows(50)
    division = divide("here", {"all": everything}, usable=lambda rows: True, seed=0, contiguous=contiguous)
    assert division.held_out is not None
    kept, held_out = division.rows["text"][:], division.held_out["text"][:]
    assert len(held_out) == 10
    assert sorted(kept + held_out) == sorted(everything["text"])
    assert (kept + held_out == everything["text"][:]) is contiguous


def test_an_empty_split_is_reported_by_name() -> None:
    with pytest.raises(DataError, match="split 'validation' of here has no rows; rows: train 4, validation 0"):
        divide("here", {"train": rows(4), "validation": rows(0)}, usable=lambda rows: True, seed=0)


def test_usual_columns_are_found() -> None:
    def found(*names: str) -> TextColumns:
        return find_texts(Columns(), Dataset.from_dict({name: ["x"] for name in names}), "here")

    assert found("idx", "sentence", "label") == TextColumns("sentence", None)
    assert found("sentence1", "sentence2", "score") == TextColumns("sentence1", "sentence2")
    assert found("question", "sentence") == TextColumns("question", "sentence")
    assert found("only") == TextColumns("only", None)
    assert find_label(Columns(), rows(1, score=[0.5])) == "score"
    assert find_label(Columns(), rows(1)) is None


def test_given_columns_are_preferred_and_missing_ones_are_reported() -> None:
    data = rows(1, other=["y"], label=[1], mark=[0])
    assert find_texts(Columns(text="other", text_pair="text"), data, "here") == TextColumns("other", "text")
    assert find_label(Columns(label="mark"), data) == "mark"
    with pytest.raises(DataError, match=r"here has no column 'txt' \(given as text\); its columns are text, other"):
        find_texts(Columns(text="txt"), data, "here")
    with pytest.raises(DataError, match="name one of its columns: x, y"):
        find_texts(Columns(), Dataset.from_dict({"x": ["a"], "y": ["b"]}), "here")


def test_texts_must_be_texts() -> None:
    assert texts_of(Dataset.from_dict({"t": [["two", "words"], ["one"]]}), "t", "here") == ["two words", "one"]
    with pytest.raises(DataError, match="row 1 of column 't' of here has no text"):
        texts_of(Dataset.from_dict({"t": ["a", None]}), "t", "here")
    with pytest.raises(DataError, match="holds int, not text"):
        texts_of(Dataset.from_dict({"t": [1]}), "t", "here")


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_local_files_need_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """A home that is read-only, with the cache of datasets in it."""
    import datasets

    from secateurs.tasks.data import cache

    rows = datasets.Dataset.from_dict({"text": ["a b", "c"]})
    path = tmp_path / f"train.{suffix}"
    rows.to_parquet(path) if suffix == "parquet" else rows.to_json(path)
    home = tmp_path / "home"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(home / "datasets"))
    monkeypatch.setattr(cache, "can_write", lambda folder: home not in folder.parents)
    assert read_splits(str(path))["train"]["text"] == ["a b", "c"]
    assert not home.exists()


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from secateurs.tasks.data import sources

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(sources, "can_write", lambda folder: False)
    with pytest.raises(DataError, match=f"{tmp_path}/datasets, cannot be written; set HF_HOME"):
        read_splits("secateurs-test/nowhere")
