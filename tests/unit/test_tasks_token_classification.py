"""Token classification: first tokens of words, tags, loss mask and scores."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForTokenClassification

from secateurs.errors import DataError, UnsupportedModelError
from secateurs.tasks import task
from secateurs.tasks.base import Columns, TaskData
from secateurs.tasks.data.batches import IGNORED
from secateurs.tasks.data.encode import Encode
from secateurs.tasks.roles import RoleSizes
from secateurs.tasks.token_classification.word_rows import WordRows
from tiny import tiny_tokenizer, write_rows

LABELS = ("O", "B-pet", "I-pet", "B-place")
WORDS = [["the", "cat", "sat"], ["small.", "red.blue", "dog", "on", "the", "moon"], ["it", "ran"]]
TAGS = [["O", "B-pet", "O"], ["O", "B-pet", "I-pet", "O", "O", "B-place"], ["O", "O"]]


def model(labels: tuple[str, ...] | None = LABELS, **changes: Any) -> BertForTokenClassification:
    small = {
        "vocab_size": 40,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "max_position_embeddings": 32,
    }
    if labels is not None:
        small |= {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    torch.manual_seed(0)
    return BertForTokenClassification(BertConfig(**{**small, **changes})).eval()


def read(source: Path, of: BertForTokenClassification | None = None, **options: Any) -> TaskData:
    settings = {"columns": Columns(), "batch_size": 2, "sequence_length": 16, "roles": RoleSizes(10), "seed": 0}
    return task("token_classification").read(str(source), of or model(), tiny_tokenizer(), **{**settings, **options})


def write(folder: Path, words: Any = WORDS, tags: Any = TAGS) -> Path:
    for split in ("train", "validation"):
        write_rows(folder / f"{split}.parquet", tokens=words, tags=tags)
    return folder


def test_the_first_token_of_a_word_stands_for_it(tmp_path: Path) -> None:
    row = read(write(tmp_path)).train[1]
    # <cls> small . red . blue dog on the moon <sep>: "small." and "red.blue" are several tokens each
    assert row["loss_mask"] == [0, 1, 0, 1, 0, 0, 1, 1, 1, 1, 0]
    no = IGNORED
    assert row["labels"] == [no, 0, no, 1, no, no, 2, 0, 0, 3, no]
    assert len(row["input_ids"]) == 11


def test_labels_and_loss_mask_are_padded(tmp_path: Path) -> None:
    data = read(write(tmp_path))
    batch = data.collate([data.train[0], data.train[1]])
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "loss_mask", "labels"}
    assert batch["labels"][0].tolist() == [IGNORED, 0, 1, 0] + [IGNORED] * 7
    assert batch["loss_mask"][0].tolist() == [0, 1, 1, 1] + [0] * 7


def test_compared_outputs_are_one_row_per_word() -> None:
    logits = torch.arange(24.0).view(2, 4, 3)
    batch = {"loss_mask": torch.tensor([[0, 1, 0, 1], [0, 1, 0, 0]])}
    rows = task("token_classification").compared_outputs(SimpleNamespace(logits=logits), batch)
    assert rows.tolist() == [[3, 4, 5], [9, 10, 11], [15, 16, 17]]


def test_the_loss_ignores_tokens_without_label() -> None:
    tagger = task("token_classification")
    logits = torch.zeros(1, 3, 4)
    logits[0, 2] = 100.0 * torch.arange(4)  # a token without label
    labels = torch.tensor([[1, 0, IGNORED]])
    assert tagger.loss(SimpleNamespace(logits=logits), {"labels": labels}).item() == pytest.approx(math.log(4))
    with pytest.raises(DataError, match=r"no labels.*column of tags"):
        tagger.loss(SimpleNamespace(logits=logits), {})


def constant(label: int, labels: tuple[str, ...] = LABELS) -> BertForTokenClassification:
    made = model(labels)
    nn.init.zeros_(made.classifier.weight)
    made.classifier.bias.data = torch.nn.functional.one_hot(torch.tensor(label), len(labels)).float()
    return made


def test_evaluation_counts_entities_and_words(tmp_path: Path) -> None:
    always = constant(3)  # predicts B-place for every word
    score = task("token_classification").evaluate(always, read(write(tmp_path), always).evaluation, "cpu")
    assert (score.name, score.count, score.higher_is_better) == ("entity_f1", 11, True)
    # 3 entities, 11 predicted, 1 right
    assert score.value == pytest.approx(2 / 14)
    assert score.details["accuracy"] == pytest.approx(1 / 11)
    assert (score.details["precision"], score.details["recall"]) == (pytest.approx(1 / 11), pytest.approx(1 / 3))
    assert score.details["entities"] == 3
    assert score.details["words_cut_off"] == 0


def test_labels_that_mark_no_entities_are_scored_by_accuracy(tmp_path: Path) -> None:
    names = ("NOUN", "VERB")
    tags = [["NOUN" if len(word) == 3 else "VERB" for word in row] for row in WORDS]
    always = constant(0, names)
    score = task("token_classification").evaluate(always, read(write(tmp_path, tags=tags), always).evaluation, "cpu")
    assert score.name == "accuracy"
    assert score.value == pytest.approx(sum(tag == "NOUN" for row in tags for tag in row) / 11)


def test_words_behind_the_end_of_a_sequence_are_not_counted(tmp_path: Path) -> None:
    data = read(write(tmp_path), sequence_length=5)
    score = task("token_classification").evaluate(model(), data.evaluation, "cpu")
    # 3 tokens fit: all of the first and last row; "small" "." "red" of the second
    assert (score.count, score.details["words_cut_off"]) == (7, 4)
    with pytest.raises(DataError, match="no tagged word within 2 tokens"):
        read(tmp_path, sequence_length=2)


def test_words_and_tags_may_be_texts_with_blanks(tmp_path: Path) -> None:
    write(tmp_path / "listed")
    write(tmp_path / "text", [" ".join(row) for row in WORDS], [" ".join(row) for row in TAGS])
    listed, text = read(tmp_path / "listed").train, read(tmp_path / "text").train
    assert [listed[i] for i in range(3)] == [text[i] for i in range(3)]


def test_integer_tags_are_mapped_by_their_names_in_the_data(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, List, Value

    names = ("O", "B-place", "B-pet", "I-pet")
    numbered = [[names.index(tag) for tag in row] for row in TAGS]
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=list(names)))})
    rows = Dataset.from_dict({"tokens": WORDS, "ner_tags": numbered}, features=features)
    for split in ("train", "validation"):
        rows.to_parquet(tmp_path / f"{split}.parquet")
    assert [tag for tag in read(tmp_path).train[1]["labels"] if tag != IGNORED] == [0, 1, 2, 0, 0, 3]
    unnamed = read(tmp_path, model(None, num_labels=4))
    assert [tag for tag in unnamed.train[1]["labels"] if tag != IGNORED] == [0, 2, 3, 0, 0, 1]


def declared(folder: Path, names: tuple[str, ...], tags: list[list[str]] = TAGS) -> Path:
    """Files whose tags are numbers with declared names."""
    from datasets import ClassLabel, Dataset, Features, List, Value

    numbered = [[names.index(tag) for tag in row] for row in tags]
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=list(names)))})
    rows = Dataset.from_dict({"tokens": WORDS, "ner_tags": numbered}, features=features)
    for split in ("train", "validation"):
        rows.to_parquet(folder / f"{split}.parquet")
    return folder


def of_second_row(data: TaskData) -> list[int]:
    return [tag for tag in data.train[1]["labels"] if tag != IGNORED]


@pytest.mark.parametrize("names", [("I-PET", "o", "B-Place", "b_pet"), ("O", "B-pet", "I-pet", "B-place")])
def test_tags_are_matched_by_name_case_aside(tmp_path: Path, names: tuple[str, ...]) -> None:
    spelled = {name.casefold().replace("_", "-"): name for name in names}
    tags = [[spelled[tag.casefold()] for tag in row] for row in TAGS]
    declared(tmp_path, names, tags)
    assert of_second_row(read(tmp_path)) == [0, 1, 2, 0, 0, 3]
    assert of_second_row(read(write(tmp_path / "names", tags=tags))) == [0, 1, 2, 0, 0, 3]


def test_names_that_do_not_match_are_asked_about(tmp_path: Path) -> None:
    declared(
        tmp_path,
        ("O", "B-animal", "I-animal", "B-city"),
        [[tag.replace("pet", "animal").replace("place", "city") for tag in row] for row in TAGS],
    )
    with pytest.raises(
        DataError,
        match=r"does not know \(B-animal, B-city, I-animal\).*--classes number takes O as O, B-animal as B-pet",
    ):
        read(tmp_path)
    assert of_second_row(read(tmp_path, columns=Columns(classes="number"))) == [0, 1, 2, 0, 0, 3]
    data = read(tmp_path, columns=Columns(label="none"))
    assert (data.evaluation, data.calibration_labels) == (None, False)


def test_of_several_columns_of_tags_the_one_with_the_names_of_the_model_is_used(tmp_path: Path) -> None:
    parts = [["DET", "NOUN", "VERB"], ["ADJ", "ADJ", "NOUN", "ADP", "DET", "NOUN"], ["PRON", "VERB"]]
    for split in ("train", "test"):
        write_rows(tmp_path / f"{split}.parquet", tokens=WORDS, ner_tags=TAGS, pos_tags=parts)
    tagger = model(("ADJ", "ADP", "DET", "NOUN", "PRON", "VERB"))
    assert of_second_row(read(tmp_path, tagger)) == [0, 0, 3, 1, 2, 3]
    assert of_second_row(read(tmp_path)) == [0, 1, 2, 0, 0, 3]
    numbers = [[0] * len(row) for row in WORDS]
    for split in ("train", "test"):
        write_rows(tmp_path / f"{split}.parquet", tokens=WORDS, ner_tags=numbers, pos_tags=numbers)
    with pytest.raises(DataError, match="choose --label-column ner_tags; --label-column pos_tags; --label-column none"):
        read(tmp_path)
    assert read(tmp_path, columns=Columns(label="pos_tags")).evaluation is not None


def test_what_was_understood_is_listed(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet", tokens=WORDS * 40 + [[]], tags=TAGS * 40 + [[]], id=list(range(121)))
    write_rows(tmp_path / "test.parquet", tokens=WORDS, tags=TAGS, id=[0, 1, 2])
    assert read(tmp_path, model((*LABELS, "I-place"))).summary().splitlines()[1:10] == [
        "  split       train: 120 rows, for calibration and training",
        "  split       test: 3 rows, for evaluation",
        "  skipped     1 of 121 train rows, which cannot be used",
        "  columns     list of words is 'tokens', list of tags is 'tags'; not used: id",
        "  class       O is 'O' (output 0): 280 train, 7 test",
        "  class       B-pet is 'B-pet' (output 1): 80 train, 2 test",
        "  class       I-pet is 'I-pet' (output 2): 40 train, 1 test",
        "  class       B-place is 'B-place' (output 3): 40 train, 1 test",
        "  note        no word has 1 of the model's classes: I-place",
    ]


def test_a_column_that_could_hold_the_tags_is_asked_about(tmp_path: Path) -> None:
    write_rows(tmp_path / "all.parquet", tokens=WORDS * 2, entities=TAGS * 2)
    with pytest.raises(
        DataError, match="'entities' has as many elements as 'tokens' has words: choose --label-column ent"
    ):
        read(tmp_path)
    assert read(tmp_path, columns=Columns(label="entities")).evaluation is not None
    assert "none to evaluate" in read(tmp_path, columns=Columns(label="none")).description


def test_without_tags_there_is_no_evaluation(tmp_path: Path) -> None:
    write_rows(tmp_path / "all.parquet", words=WORDS)
    data = read(tmp_path)
    assert (data.evaluation, data.calibration_labels) == (None, False)
    assert "none to evaluate" in data.description
    assert "none without labels" in data.summary()
    assert all("labels" not in batch and "loss_mask" in batch for batch in data.roles.fit.batches)


BAD = {
    "no words": ({"body": ["a"] * 5}, "no column 'tokens' or 'words'.*as text; its columns are body"),
    "no list": ({"tokens": [1, 2, 3, 4, 5]}, "row 0 of column 'tokens' .* holds no words"),
    "an empty sentence": ({"tokens": [["a"]] * 4 + [[]]}, "has no words; drop such rows"),
    "too few tags": ({"tokens": [["a", "cat"]] * 5, "tags": [["O"]] * 5}, "has 1 tags for 2 words"),
    "no tags in a row": (
        {"tokens": [["a"]] * 5, "tags": [["O"], ["O"], None, None, ["O"]]},
        "None, not a tag for every",
    ),
    "an unknown tag": (
        {"tokens": [["a"]] * 5, "tags": [["B-car"]] * 5},
        r"does not know \(B-car\).* the model's are O, B-pet",
    ),
    "a number too large": (
        {"tokens": [["a"]] * 5, "tags": [[4]] * 5},
        r"holds the label 4; the model has classes 0\.\.3",
    ),
    "one class for all": ({"tokens": [["a"]] * 5, "tags": [0] * 5}, "holds 0, not a tag for every word"),
    "only hidden tags": ({"tokens": [["a"]] * 5, "tags": [[IGNORED]] * 5}, "no tagged word"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_reported_in_one_line(tmp_path: Path, case: str) -> None:
    columns, message = BAD[case]
    write_rows(tmp_path / "train.parquet", **columns)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_models_with_one_label_and_slow_tokenizers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="one label"):
        read(write(tmp_path), model(None, num_labels=1))
    slow = SimpleNamespace(is_fast=False, pad_token_id=0)
    with pytest.raises(UnsupportedModelError, match="fast tokenizer"):
        WordRows(Encode(slow, 8, ("input_ids",)), WORDS)


def test_byte_level_tokenizers_get_blanks_between_words() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    parts = ["a", "Ġa", "c", "t", "Ġ", "Ġcat"]
    bpe = models.BPE(
        {part: i for i, part in enumerate(["ca", "cat", *parts])}, [("c", "a"), ("Ġ", "a"), ("ca", "t"), ("Ġ", "cat")]
    )
    backend = Tokenizer(bpe)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rows = WordRows(Encode(PreTrainedTokenizerFast(tokenizer_object=backend), 8, ("input_ids",)), [["cat", "a"]])
    assert rows[0]["input_ids"] == [7, 3]
    assert rows[0]["loss_mask"] == [1, 1]
