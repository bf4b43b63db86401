"""Pruned models in the hands of other tools: pickle, several processes, and attention weights as outputs."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pruned_results import RESULTS, blocks_removed, masked
from remote_code import own_cache
from secateurs.checkpoint.hooks import install
from secateurs.checkpoint.save_load import load, save
from secateurs.modeling.modeling_pruned import base_of
from secateurs.structure.cut import Kind
from secateurs.structure.families import discover, model_types
from tiny import tiny_tokenizer
from tiny_models import batch, hidden_states, tiny_model

install()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(**batch(model, padding="right")).logits


@pytest.mark.parametrize("made", [*RESULTS.values(), masked])
@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_a_pruned_model_is_pickled_and_copied(model_type: str, made: Callable[[Any], Any]) -> None:
    model = made(tiny_model(model_type))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for again in (pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False), copy.deepcopy(model)):
        assert [type(module) for module in again.modules()] == [type(module) for module in model.modules()]
        assert torch.equal(logits(again), logits(model))


def test_pickles_are_read_by_another_process(tmp_path: Path) -> None:
    """One of every structure: the workers of sentence-transformers read such a pickle."""
    inputs = dict(batch(padding="right"))
    models = [made(tiny_model("bert")) for made in RESULTS.values()]
    torch.save([(model, inputs, logits(model)) for model in models], tmp_path / "models.pt")
    code = (
        f"import torch; found = torch.load({str(tmp_path / 'models.pt')!r}, weights_only=False)\n"
        "assert all(torch.equal(model(**inputs).logits, wanted) for model, inputs, wanted in found)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("remote", [False, True])
def test_sentence_transformers_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    with own_cache(monkeypatch, tmp_path / "modules"):
        folder = save(
            blocks_removed(tiny_model("bert", auto="AutoModel").float()), tiny_tokenizer(), tmp_path / "model"
        )
        body = Transformer(
            str(folder), model_kwargs={"trust_remote_code": remote}, config_kwargs={"trust_remote_code": remote}
        )
        encoder = SentenceTransformer(modules=[body, Pooling(32)], device="cpu")
        assert type(body.auto_model).__module__.startswith("transformers_modules") == remote
        texts = ["the cat sat", "on the mat"]
        pool = encoder.start_multi_process_pool(["cpu"])
        try:
            found = encoder.encode(texts, pool=pool, chunk_size=1)
        finally:
            encoder.stop_multi_process_pool(pool)
        assert torch.allclose(torch.tensor(found), torch.tensor(encoder.encode(texts)), atol=1e-6)


def test_a_new_model_has_finite_parameters() -> None:
    """transformers does not initialise emptied modules; their biases start at zero, like those of every linear module."""
    model = blocks_removed(tiny_model("bert"))
    built = type(model)(copy.deepcopy(model.config))
    assert not built.bert.encoder.layer[0].attention.output.dense.bias.any()
    assert model.bert.encoder.layer[0].attention.output.dense.bias.any()


@pytest.mark.parametrize("model_type", model_types())
def test_attention_weights_have_one_entry_per_layer(model_type: str, tmp_path: Path) -> None:
    """A removed attention has weights of 0 heads. Without eager attention there are no weights, as in a dense model."""
    model = blocks_removed(tiny_model(model_type))
    eager = load(save(model, None, tmp_path / "model"), attn_implementation="eager").float()
    given = {name: value.float() if value.is_floating_point() else value for name, value in batch(eager).items()}
    with torch.no_grad():
        outputs = eager(**given, output_attentions=True)
    places = ("attentions", "encoder_attentions", "decoder_attentions", "cross_attentions")
    found = [tuple(weights.shape) for place in places for weights in outputs.get(place) or ()]
    dense = [group for group in discover(tiny_model(model_type)) if group.kind is Kind.HEAD]
    dense.sort(key=lambda group: group.cache == "cross")  # the cross-attentions are collected last
    heads = [discover(model).sizes.get(group.name, 0) for group in dense]
    config = getattr(base_of(model).config, "vision_config", base_of(model).config)
    per_unit = getattr(config, "num_attention_heads", 0) // dense[0].size
    uses = len(found) // len(heads)  # of the one layer of ALBERT
    assert [shape[:2] for shape in found] == [(3, kept * per_unit) for kept in heads] * uses
    tokens = hidden_states(eager(**given, output_hidden_states=True))[0].shape[1]
    both = (tokens, given["decoder_input_ids"].shape[1]) if model.config.is_encoder_decoder else (tokens,)
    assert {shape[3] for shape in found} == set(both)
    assert heads[0] == 0 and all(heads[1:])
