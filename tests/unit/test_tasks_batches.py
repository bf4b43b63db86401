"""Padding of rows to batches."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from secateurs.tasks.data.batches import IGNORED, Collate
from tiny import tiny_tokenizer

LONG = {"input_ids": [2, 5, 6, 3], "attention_mask": [1, 1, 1, 1], "token_type_ids": [0, 0, 1, 1]}
SHORT = {"input_ids": [2, 3], "attention_mask": [1, 1], "token_type_ids": [1, 1]}


def without_padding_token() -> PreTrainedTokenizerBase:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    return tokenizer


def with_left_padding() -> PreTrainedTokenizerBase:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left"
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "padding"), [(tiny_tokenizer(), 0), (with_left_padding(), 0), (without_padding_token(), 3)]
)
def test_rows_are_padded_on_the_right(tokenizer: PreTrainedTokenizerBase, padding: int) -> None:
    side, token = tokenizer.padding_side, tokenizer.pad_token
    batch = Collate.like(tokenizer)([LONG, SHORT])
    assert list(batch) == ["input_ids", "attention_mask", "token_type_ids"]
    assert all(value.dtype == torch.int64 for value in batch.values())
    assert batch["input_ids"].tolist() == [[2, 5, 6, 3], [2, 3, padding, padding]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]
    assert (tokenizer.padding_side, tokenizer.pad_token) == (side, token), "the given tokenizer must not change"


def test_labels_and_loss_mask_of_tokens_are_padded() -> None:
    rows = [
        {**LONG, "loss_mask": [0, 1, 1, 0], "labels": [7, 8, 9, 7]},
        {**SHORT, "loss_mask": [1, 1], "labels": [4, 5]},
    ]
    batch = Collate.like(tiny_tokenizer(), token_labels=True)(rows)
    assert batch["loss_mask"].tolist() == [[0, 1, 1, 0], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[7, 8, 9, 7], [4, 5, IGNORED, IGNORED]]
    assert rows[1]["labels"] == [4, 5], "rows must not change"


@pytest.mark.parametrize("labels", [(1, 0), (0.5, 1.5), ([1, 2], [0, 1])])
def test_labels_of_sequences_are_not_padded(labels: tuple) -> None:
    batch = Collate.like(tiny_tokenizer())([{**LONG, "labels": labels[0]}, {**SHORT, "labels": labels[1]}])
    assert torch.equal(batch["labels"], torch.tensor(labels))
    assert batch["labels"].dtype == torch.tensor(labels).dtype
