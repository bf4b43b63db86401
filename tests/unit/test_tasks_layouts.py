"""Folders of data as people have them: which files are read, and as which split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from datasets.data_files import DataFilesDict, get_data_patterns

from secateurs.errors import DataError
from secateurs.tasks.data.layouts import find_files
from secateurs.tasks.data.sources import read_splits
from secateurs.tasks.data.splits import divide

TABLE = "text,label\na,1\nb,0\n"


def make(folder: Path, *names: str, **contents: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents.get(path.suffix[1:], TABLE))
    return folder


def sizes(splits: dict[str, Dataset]) -> dict[str, int]:
    return {name: len(rows) for name, rows in splits.items()}


LIKE_DATASETS = (
    ("train/data.csv", "test/data.csv"),
    ("train.csv", "validation.csv", "test.csv"),
    ("data/train-00000-of-00002.csv", "data/train-00001-of-00002.csv", "data/test-00000-of-00001.csv"),
    ("train_1.csv", "train_2.csv", "test_1.csv"),
    ("my-train.csv", "my-test.csv", "sample.csv"),
    ("en/train.csv", "de/train.csv", "en/test.csv"),
    ("train/part 1.csv", "train/part 2.csv", "validation/a.csv"),
    ("a.csv", "b.csv"),
)


@pytest.mark.parametrize("names", LIKE_DATASETS)
def test_files_are_divided_as_datasets_divides_them(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = make(tmp_path, *names)
    theirs = DataFilesDict.from_patterns(get_data_patterns(str(folder)), base_path=str(folder))
    ours = find_files(folder)
    assert sorted(sorted(map(str, paths)) for paths in ours.values()) == sorted(map(sorted, theirs.values()))


SPLITS = {
    "tables in folders": (("train/data.csv", "test/data.csv"), {"train": 2, "test": 2}),
    "a licence": (("reviews.csv", "LICENSE.txt"), {"reviews": 2}),
    "notes and names of labels": (("reviews.csv", "notes.txt", "id2label.json", "train/README.txt"), {"reviews": 2}),
    "a submission of Kaggle": (("train.csv", "test.csv", "sample_submission.csv"), {"train": 2, "test": 2}),
    "joined words": (("trainset.csv", "testset.csv"), {"train": 2, "test": 2}),
    "numbered": (("train_1.csv", "train2.csv", "dev.csv"), {"train": 4, "dev": 2}),
    "text beside a table": (("train.csv", "test.txt"), {"train": 2, "test": 3}),
    "a system's folder": (("train.csv", "__MACOSX/train.csv", ".cache/train.csv"), {"train": 2}),
    "the two of MNLI": (
        ("train.csv", "dev_mismatched.csv", "dev_matched.csv"),
        {"train": 2, "dev_matched": 2, "dev_mismatched": 2},
    ),
    "a variant": (("big_train.csv", "train.csv", "train_small.csv"), {"big_train": 2, "train": 2, "train_small": 2}),
    "two subjects": (("books_train.csv", "films_train.csv", "test-1.csv", "test-2.csv"), {"train": 4, "test": 4}),
    "one kind of rows": (("reviews_2019.csv", "reviews_2020.csv"), {"all": 4}),
}


@pytest.mark.parametrize("case", SPLITS)
def test_splits_are_found(tmp_path: Path, case: str) -> None:
    names, expected = SPLITS[case]
    assert sizes(read_splits(str(make(tmp_path, *names)))) == expected


def test_a_split_with_the_word_as_its_name_comes_first(tmp_path: Path) -> None:
    folder = make(tmp_path, "big_train.csv", "train.csv", "dev_a.csv", "dev.csv")
    division = divide("here", read_splits(str(folder)), usable=lambda rows: True, seed=0)
    assert (division.rows_name, division.held_out_name) == ("train", "dev")


def test_a_split_of_files_with_several_names_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_splits(str(make(tmp_path, "books_train.csv", "films_train.csv", "test_1.csv", "test_2.csv")))
    assert [each.getMessage() for each in caplog.records] == [
        f"{tmp_path}: the split 'train' is read from all of: books_train, films_train"
    ]


def test_what_would_be_guessed_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", "reviews.csv")
    (folder / "users.csv").write_text("id,name\n1,a\n")
    with pytest.raises(
        DataError, match=r"holds 2 files that are not .* same columns.*reviews\.csv and users\.csv; give"
    ):
        read_splits(str(folder))
    with pytest.raises(DataError, match="not of one kind"):
        read_splits(str(make(tmp_path / "b", "a.csv", "b.jsonl", jsonl='{"text": "a"}\n')))
    with pytest.raises(DataError, match="'train' by its folder or to 'test' by its name"):
        read_splits(str(make(tmp_path / "c", "train/test.csv")))
    with pytest.raises(DataError, match=r"several kinds \(\.csv, \.jsonl\)"):
        read_splits(str(make(tmp_path / "d", "train.csv", "train.jsonl", jsonl='{"text": "a"}\n')))


def test_folders_of_texts_by_class_are_read(tmp_path: Path) -> None:
    texts = [f"{split}/{label}/{i}_9.txt" for split in ("train", "test") for label in ("pos", "neg") for i in range(3)]
    side = ["train/unsup/0_0.txt", "train/urls_pos.txt", "README", "imdbEr.txt", "imdb.vocab"]
    make(tmp_path, *(f"aclImdb/{name}" for name in texts + side), txt="one text\nof two lines")
    for source in (tmp_path, tmp_path / "aclImdb"):
        splits = read_splits(str(source))
        assert sizes(splits) == {"test": 6, "train": 6}
        assert splits["train"].features["label"].names == ["neg", "pos"]
        assert splits["train"]["label"][:] == [0] * 3 + [1] * 3
        assert splits["train"]["text"][0] == "one text\nof two lines"


def test_a_split_without_folders_by_class_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(
        tmp_path, *(f"train/{label}/{i}.txt" for label in ("pos", "neg") for i in range(3)), "test/1.txt", "test/2.txt"
    )
    assert sizes(read_splits(str(tmp_path))) == {"train": 6}
    assert "not read, because they hold no folders of texts by class: test" in caplog.text


def test_folders_of_texts_by_class_need_no_split_and_no_suffix(tmp_path: Path) -> None:
    make(tmp_path, "alt.atheism/49960", "alt.atheism/49961", "sci.space/60862", "sci.space/60863")
    splits = read_splits(str(tmp_path))
    assert sizes(splits) == {"all": 4}
    assert splits["all"].features["label"].names == ["alt.atheism", "sci.space"]


CARD = "---\nconfigs:\n{}---\n# A data set\n"
CONFIG = "- config_name: {}\n  data_files:\n  - split: train\n    path: {}\n  - split: test\n    path: {}\n"


def test_the_configs_of_a_card_are_read(tmp_path: Path) -> None:
    make(tmp_path, "a.csv", "b-1.csv", "b-2.csv", "test.csv")
    (tmp_path / "README.md").write_text(CARD.format(CONFIG.format("default", "a.csv", "b-*.csv")))
    assert sizes(read_splits(str(tmp_path))) == {"train": 2, "test": 4}


def test_one_of_several_configs_has_to_be_chosen(tmp_path: Path) -> None:
    make(tmp_path, "cola/a.csv", "cola/b.csv", "sst2/a.csv", "sst2/b.csv")
    configs = [CONFIG.format(name, f"{name}/a.csv", f"{name}/b.csv") for name in ("cola", "sst2")]
    (tmp_path / "README.md").write_text(CARD.format("".join(configs)))
    with pytest.raises(DataError, match=f"several configs; give one of cola, sst2, as in {tmp_path}:cola"):
        read_splits(str(tmp_path))
    assert sizes(read_splits(f"{tmp_path}:cola")) == {"train": 2, "test": 2}
    with pytest.raises(DataError, match="no config 'mnli'; give one of cola, sst2"):
        read_splits(f"{tmp_path}:mnli")
    (tmp_path / "README.md").write_text("# Only words")
    with pytest.raises(DataError, match="lists no configs"):
        read_splits(f"{tmp_path}:cola")


def squad(count: int) -> dict[str, Any]:
    questions = [
        {"id": str(i), "question": "who sat?", "answers": [{"text": "cat", "answer_start": 4}] if i % 2 else []}
        for i in range(count)
    ]
    return {"version": "2.0", "data": [{"title": "T", "paragraphs": [{"context": "the cat sat", "qas": questions}]}]}


@pytest.mark.parametrize("indent", [None, 2])
def test_official_files_of_squad_are_read(tmp_path: Path, indent: int | None) -> None:
    (tmp_path / "train-v2.0.json").write_text(json.dumps(squad(80), indent=indent))
    (tmp_path / "dev-v2.0.json").write_text(json.dumps(squad(40), indent=indent))
    splits = read_splits(str(tmp_path))
    assert sizes(splits) == {"dev-v2.0": 40, "train-v2.0": 80}
    assert splits["train-v2.0"][1] == {
        "id": "1",
        "title": "T",
        "context": "the cat sat",
        "question": "who sat?",
        "answers": {"text": ["cat"], "answer_start": [4]},
    }
    assert splits["train-v2.0"][0]["answers"] == {"text": [], "answer_start": []}


ROWS = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
JSON = {
    "array": json.dumps(ROWS),
    "lines": "\n".join(map(json.dumps, ROWS)),
    "rows under a key": json.dumps({"version": 1, "data": ROWS}),
    "columns": json.dumps({"text": ["a", "b"], "label": [1, 0]}),
    "columns of pandas": json.dumps({"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 0}}),
}


@pytest.mark.parametrize("form", JSON)
def test_forms_of_json_are_read(tmp_path: Path, form: str) -> None:
    (tmp_path / "train.json").write_text(JSON[form])
    assert read_splits(str(tmp_path))["train"].to_list() == ROWS


def test_several_lists_of_rows_in_one_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "all.json").write_text(json.dumps({"train": ROWS, "test": ROWS}))
    with pytest.raises(DataError, match=r"several lists of rows \(train, test\)"):
        read_splits(str(tmp_path))


SENTENCES = "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n# SYM O O\nBonn NNP B-NP B-LOC\n\n"


@pytest.mark.parametrize(
    "names", [("train.txt", "valid.txt"), ("eng.train", "eng.testa"), ("a-train.conll", "a-dev.conll")]
)
def test_conll_files_are_read(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        (tmp_path / name).write_text(SENTENCES)
    splits = read_splits(str(tmp_path))
    assert len(splits) == 2
    for rows in splits.values():
        assert rows["tokens"][:] == [["EU", "rejects"], ["#", "Bonn"]]
        assert rows["ner_tags"][:] == [["B-ORG", "O"], ["O", "B-LOC"]]
        assert rows["pos_tags"][0] == ["NNP", "VBZ"]


def test_conll_files_may_have_two_columns_tabs_and_comments(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("# id 1\nNew York\tB-loc\r\nis\tO\r\n\r\nbig\tO\r\n")
    rows = read_splits(str(tmp_path))["train"]
    assert rows.to_dict() == {"tokens": [["New York", "is"], ["big"]], "ner_tags": [["B-loc", "O"], ["O"]]}


def test_texts_are_not_taken_for_tagged_words(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("one two\nthree four\n\nfive six\n")
    (tmp_path / "test.tsv").write_text("text\tlabel\na b\tO\n")
    splits = read_splits(str(tmp_path))
    assert splits["train"].column_names == ["text"]
    assert splits["test"].column_names == ["text", "label"]


def test_damaged_conll_files_are_refused_and_a_bad_sentence_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "train.conll").write_text("a b c\nd\n")
    with pytest.raises(DataError, match="1 of 2 lines do not have 3 fields"):
        read_splits(str(tmp_path))
    (tmp_path / "train.conll").write_text(SENTENCES * 60 + "broken line\n\n")
    assert sizes(read_splits(str(tmp_path))) == {"train": 120}
    assert "1 of 121 sentences skipped" in caplog.text
