"""Labels and lists inside text: fastText's lines, lists in cells of a table, and tables in text files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from secateurs.errors import DataError
from secateurs.tasks import task
from secateurs.tasks.base import Columns, TaskData
from secateurs.tasks.data.list_cells import as_list
from secateurs.tasks.data.sources import read_splits
from secateurs.tasks.roles import RoleSizes
from tiny import tiny_tokenizer

WORDS = [["the", "cat", "'s"], ["a", "small", "dog"], ["it"]]
TAGS = [["O", "B-pet", "O"], ["O", "I-pet", "B-pet"], ["O"]]


def read(name: str, source: Path, names: tuple[str, ...], **options: Any) -> TaskData:
    sizes = {
        "vocab_size": 40,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    torch.manual_seed(0)
    subject = task(name)
    config = transformers.BertConfig(**sizes, id2label=dict(enumerate(names)))
    model = getattr(transformers, subject.auto_class).from_config(config)
    settings: dict[str, Any] = {"columns": Columns(), "batch_size": 4, "sequence_length": 16, "roles": RoleSizes(4)}
    return subject.read(str(source), model, tiny_tokenizer(), **{**settings, "seed": 0, **options})


def test_labels_of_fasttext_are_read(tmp_path: Path) -> None:
    lines = ["__label__spam free  money", "__label__ham the cat", "", "__label__spam a dog"]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "test.txt").write_text("\ufeff__label__ham the mat\r\n", encoding="utf-8")
    data = read("text_classification", tmp_path, ("ham", "spam"))
    assert data.train.texts == ["free  money", "the cat", "a dog"]
    assert [row["labels"] for row in data.train] == [1, 0, 1]
    assert sum(len(batch["labels"]) for batch in data.evaluation) == 1


def test_several_labels_of_fasttext_are_classes(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text("__label__a __label__b the cat\n__label__b a dog\n")
    assert [row["labels"] for row in read("multi_label_classification", tmp_path, ("a", "b")).train] == [[1, 1], [0, 1]]
    with pytest.raises(DataError, match="--task multi-label-classification"):
        read("text_classification", tmp_path, ("a", "b"))


def test_text_about_labels_is_text(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("__label__ begins a line of fastText\nthis one has none\n")
    assert read_splits(str(tmp_path))["train"].column_names == ["text"]


def test_a_table_in_a_text_file_is_no_running_text(tmp_path: Path) -> None:
    rows = ["Quality\t#1 String\t#2 String", "1\tthe cat\ta cat", "0\ta dog\tthe mat"]
    (tmp_path / "msr_paraphrase_train.txt").write_text("\n".join(rows) + "\n")
    with pytest.raises(DataError, match=r"tabs divide every line into 3 fields.*rename it msr_paraphrase_train\.tsv"):
        read_splits(str(tmp_path))
    (tmp_path / "msr_paraphrase_train.txt").write_text("\n".join([*rows, "no tab"]) + "\n")
    assert len(read_splits(str(tmp_path))["msr_paraphrase_train"]) == 4


@pytest.mark.parametrize("dump", [str, json.dumps])
def test_lists_in_cells_are_lists(tmp_path: Path, dump: Any) -> None:
    quote = '"{}"'.format
    lines = [",".join(quote(dump(each).replace('"', '""')) for each in pair) for pair in zip(WORDS, TAGS, strict=True)]
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("\n".join(["tokens,ner_tags", *lines]) + "\n")
    data = read("token_classification", tmp_path, ("O", "B-pet", "I-pet"))
    assert data.train.words == WORDS
    assert data.train.tags == [[0, 1, 0], [0, 2, 1], [0]]
    with pytest.raises(DataError, match="--task token-classification"):
        read("text_classification", tmp_path, ("x", "y"))
    texts = read("text_classification", tmp_path, ("x", "y"), columns=Columns(text="tokens"))
    assert texts.train.texts == ["the cat 's", "a small dog", "it"]


def test_arrays_without_commas_are_no_lists(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("tokens,n\n\"['the' 'cat']\",1\n\"['a'\n 'dog']\",2\n")
    with pytest.raises(DataError, match="looks like a list and is none; save the data as JSON lines or Parquet"):
        read("token_classification", tmp_path, ("O", "B-pet"))
    assert as_list("""['he said "a" "b"', 'c']""") == ['he said "a" "b"', "c"]
    assert as_list("['a' 'b', 'c']") is None
    assert as_list("[see above]") is None
