"""A tiny classifier of texts, and data sets read for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification

from secateurs.tasks import task
from secateurs.tasks.base import Columns, TaskData
from secateurs.tasks.roles import RoleSizes
from tiny import WORDS, tiny_tokenizer

__all__ = ["TEXTS", "model", "read"]

TEXTS = [" ".join(WORDS[i // 7 : i // 7 + 1 + i % 7]) for i in range(40)]
"""Texts of one to seven words."""


def model(**changes: Any) -> BertForSequenceClassification:
    """A classifier with two classes and 32 positions; ``changes`` are config fields."""
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
    """A data set as text classification reads it; ``options`` are arguments of ``Task.read``."""
    settings = {"columns": Columns(), "batch_size": 4, "sequence_length": 16, "roles": RoleSizes(10), "seed": 0}
    return task("text_classification").read(str(source), of or model(), tiny_tokenizer(), **{**settings, **options})
