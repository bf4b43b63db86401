"""Loading of models, and the errors for models that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from secateurs.errors import CheckpointError, UnsupportedModelError
from secateurs.tasks import task
from secateurs.tasks.data.encode import Encode
from tiny import tiny_tokenizer

OPTIONS: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}


def config(**changes: Any) -> BertConfig:
    small = {
        "vocab_size": 40,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    return BertConfig(**{**small, "max_position_embeddings": 32, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    BertForSequenceClassification(config()).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_is_loaded_in_evaluation_mode(folder: Path) -> None:
    model, tokenizer = task("text_classification").load(str(folder), dtype="float64", device="cpu")
    assert not model.training
    assert model.dtype == torch.float64
    assert tokenizer.padding_side == "right"
    assert len(tokenizer) == len(tiny_tokenizer())


def test_a_missing_folder_is_reported() -> None:
    with pytest.raises(CheckpointError, match="the model folder /no/model does not exist"):
        task("text_classification").load("/no/model", **OPTIONS)


def test_a_folder_without_config_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        task("embedding").load(str(tmp_path), **OPTIONS)


def test_a_folder_without_tokenizer_is_reported(tmp_path: Path) -> None:
    BertForSequenceClassification(config()).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="tokenizer"):
        task("text_classification").load(str(tmp_path), **OPTIONS)


def test_damaged_weights_are_reported(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(CheckpointError, match="cannot load the model"):
        task("text_classification").load(str(folder), **OPTIONS)


def test_pickled_weights_are_never_read(folder: Path) -> None:
    weights = BertForSequenceClassification(config()).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled files can run code and are not read"):
        task("text_classification").load(str(folder), **OPTIONS)


def test_nan_weights_are_reported_with_their_name(folder: Path) -> None:
    model = BertForSequenceClassification(config())
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight[0, 0] = torch.nan
    model.save_pretrained(folder)
    with pytest.raises(UnsupportedModelError, match=r"bert\.encoder\.layer\.0\.output\.dense\.weight .* NaN"):
        task("text_classification").load(str(folder), **OPTIONS)


def test_a_head_without_weights_is_refused(folder: Path) -> None:
    BertModel(config()).save_pretrained(folder)
    with pytest.raises(UnsupportedModelError, match=r"lacks 2 weights .*classifier\.bias, classifier\.weight"):
        task("text_classification").load(str(folder), **OPTIONS)


def test_embeddings_need_no_pooler(folder: Path) -> None:
    BertModel(config(), add_pooling_layer=False).save_pretrained(folder)
    model, _ = task("embedding").load(str(folder), **OPTIONS)
    assert model.config.hidden_size == 8


@pytest.mark.parametrize(
    ("missing", "used"), [((), "<pad>"), (("pad_token",), "<sep>"), (("pad_token", "eos_token"), "<unk>")]
)
def test_batches_are_padded_and_the_tokenizer_stays_as_it_was(
    missing: tuple[str, ...], used: str, folder: Path
) -> None:
    tokenizer = tiny_tokenizer()
    for name in missing:
        setattr(tokenizer, name, None)
    tokenizer.save_pretrained(folder)
    saved = json.loads((folder / "tokenizer_config.json").read_text())
    sides = {"padding_side": "left", "truncation_side": "left"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**saved, **sides}))
    BertForSequenceClassification(config(pad_token_id=None)).save_pretrained(folder)
    model, loaded = task("text_classification").load(str(folder), **OPTIONS)
    assert (loaded.padding_side, loaded.truncation_side) == ("left", "left")
    assert loaded.pad_token == (None if missing else "<pad>")
    assert model.config.pad_token_id == loaded.convert_tokens_to_ids(used)
    working = Encode.for_model(model, loaded, 8).tokenizer
    assert (working.pad_token, working.padding_side, working.truncation_side) == (used, "right", "right")
    assert loaded.pad_token == (None if missing else "<pad>")
