"""Rerankers and embedders that are handed over give the same answers in sentence-transformers, but for what was cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file

from deliveries import TEXT, TEXTS, deliver, tokenizer_files, with_idle_units
from secateurs.checkpoint.saved_model import load_saved_model
from secateurs.cli.inspect import describe, tables
from secateurs.errors import CheckpointError
from tiny import tiny_tokenizer, write_rows
from tiny_models import tiny_model
from tiny_run import model_folder


@pytest.fixture
def sentence_model(tmp_path: Path) -> Any:
    """A small embedder with the idle units of ``with_idle_units``, a length, prompts and a similarity of its own."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    with_idle_units(tiny_model("bert", auto="AutoModel").float()).save_pretrained(tmp_path / "plain")
    tiny_tokenizer().save_pretrained(tmp_path / "plain")
    transformer = Transformer(str(tmp_path / "plain"), max_seq_length=9)
    return SentenceTransformer(
        modules=[transformer, Pooling(32, "cls"), Normalize()],
        device="cpu",
        prompts={"query": "the ", "document": "a "},
        default_prompt_name="query",
        similarity_fn_name="dot",
    )


def same_embedder(before: Path, after: Path) -> None:
    """All files of sentence-transformers are there, and its answers are those for the dense folder."""
    from sentence_transformers import SentenceTransformer

    names = {path.name for path in before.rglob("*") if path.is_file()}
    assert names <= {path.name for path in after.rglob("*") if path.is_file()}
    one, other = (SentenceTransformer(str(path), device="cpu") for path in (before, after))
    assert [type(module) for module in one] == [type(module) for module in other]
    for field in ("max_seq_length", "similarity_fn_name", "prompts", "default_prompt_name"):
        assert getattr(one, field) == getattr(other, field), field
    for options in ({}, {"prompt_name": "query"}, {"prompt": ""}):
        assert abs(one.encode(TEXTS, **options) - other.encode(TEXTS, **options)).max() < 1e-6
    assert abs(one.encode_query(TEXTS) - other.encode_query(TEXTS)).max() < 1e-6
    assert torch.allclose(
        one.similarity(*[one.encode(TEXTS)] * 2), other.similarity(*[other.encode(TEXTS)] * 2), atol=1e-5
    )


def test_a_reranker_comes_back_with_all_its_files(tmp_path: Path) -> None:
    """A reranker with an activation and a length of its own, which loses idle units: the same scores."""
    from sentence_transformers import CrossEncoder

    plain = model_folder(tmp_path / "plain", num_labels=1)
    maker = CrossEncoder(str(plain), device="cpu", activation_fn=torch.nn.Tanh(), max_length=12)
    with_idle_units(maker[0].auto_model)
    maker.save_pretrained(str(tmp_path / "dense"))
    front = "---\nlibrary_name: sentence-transformers\npipeline_tag: text-ranking\n---\n"
    (tmp_path / "dense" / "README.md").write_text(front)
    pairs = [(TEXT, text) for text in TEXTS]
    texts = [first for first, _ in pairs] * 10
    write_rows(tmp_path / "data" / "train.parquet", text=texts, text_pair=TEXTS * 10, label=[0.1, 0.7, 0.4, 0.9] * 10)
    after = deliver(tmp_path, tmp_path / "dense", speedup=(1.2,))
    files = {path.name for path in (tmp_path / "dense").iterdir()}
    assert files <= {path.name for path in after.iterdir()}
    answers = [CrossEncoder(str(path), device="cpu").predict(pairs) for path in (tmp_path / "dense", after)]
    assert abs(answers[0] - answers[1]).max() < 1e-6
    assert abs(maker.predict(pairs) - answers[1]).max() < 1e-6
    card = (after / "README.md").read_text()
    assert "from sentence_transformers import CrossEncoder" in card
    found = yaml.safe_load(card.split("---\n")[1])
    assert (found["library_name"], found["pipeline_tag"]) == ("sentence-transformers", "text-ranking")


@pytest.mark.parametrize("layout", ["top", "nested", "BertForMaskedLM"])
def test_an_embedder_comes_back_with_all_its_files(layout: str, sentence_model: Any, tmp_path: Path) -> None:
    """Also in the layout of older models, and in that of all-mpnet-base-v2, whose config names a head without weights."""
    before = tmp_path / "dense"
    sentence_model.save_pretrained(str(before))
    inner = before / "0_Transformer" if layout == "nested" else before
    if layout == "nested":
        inner.mkdir()
        for path in list(before.iterdir()):
            if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json", "README.md"):
                path.rename(inner / path.name)
        modules = json.loads((before / "modules.json").read_text())
        modules[0]["path"] = inner.name
        (before / "modules.json").write_text(json.dumps(modules))
    elif layout != "top":
        values = json.loads((before / "config.json").read_text())
        (before / "config.json").write_text(json.dumps({**values, "architectures": [layout]}))
    after = deliver(tmp_path, before, "embedding", speedup=(1.2,))
    assert tokenizer_files(after) == tokenizer_files(inner)
    same_embedder(before, after)
    card = yaml.safe_load((after / "README.md").read_text().split("---\n")[1])
    assert card["library_name"] == "sentence-transformers"
    assert json.loads((after / "config.json").read_text())["architectures"] == ["BertModel"]
    saved = load_saved_model(str(after), trust_remote_code=False)
    assert type(saved).__name__ == "BertModel"


@pytest.mark.parametrize("head", ["BertForMaskedLM", "BertForSequenceClassification", "BertForPreTraining"])
@pytest.mark.parametrize("pooler", [True, False])
@pytest.mark.parametrize("remote", [True, False])
def test_a_head_that_has_no_weights_is_not_read(head: str, pooler: bool, remote: bool, tmp_path: Path) -> None:
    """As in all-mpnet-base-v2: the config names the class of the pretraining, the weights are those of the base model."""
    config = tiny_model("bert").config
    base = transformers.BertModel(config, add_pooling_layer=pooler)
    base.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "architectures": [head]}))
    model = load_saved_model(str(tmp_path), trust_remote_code=remote)
    assert type(model).__name__ == "BertModel"
    saved = base.state_dict()
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {n: t.shape for n, t in saved.items()}
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    assert next(iter(tables(describe(str(tmp_path), trust_remote_code=False)))).row_count == 6


def test_a_head_that_lost_a_tensor_is_still_incomplete(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    transformers.BertForMaskedLM(tiny_model("bert").config).save_pretrained(tmp_path)
    for lost in ("cls.predictions.transform.dense.bias", "bert.encoder.layer.1.output.dense.weight"):
        tensors = load_file(tmp_path / "model.safetensors")
        del tensors[lost]
        (tmp_path / lost).mkdir()
        (tmp_path / lost / "config.json").write_text((tmp_path / "config.json").read_text())
        save_file(tensors, tmp_path / lost / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=f"incomplete: tensor {lost} is missing"):
            load_saved_model(str(tmp_path / lost), trust_remote_code=False)
