"""Every task once at the defaults of the recipe, on texts that fill them: 128 tokens a text, 32 texts a batch.

Models are random and tiny. What differs from the defaults does not concern texts: the latency table comes from a file, and a
measurement ends after 0.2 s.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet
from transformers import AutoTokenizer

import secateurs
from secateurs.oneshot.backward import TOKENS
from secateurs.pipeline.recipe import Recipe
from secateurs.structure.families import discover
from secateurs.tasks import names, task
from tiny import WORDS, tiny_image_processor, tiny_tokenizer, write_rows
from tiny_models import DECODERS, tiny_model
from tiny_run import table

SIZE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "num_labels": 2}
DEFAULT = Recipe.of({"model": "m", "task": "embedding", "data": "d", "speedup": 1.5})
TRAIN, EVALUATE = 2304, 300
"""Texts of the default roles with the spare ones of the search, and of an evaluation split with the role report."""


@pytest.fixture(scope="module")
def generated() -> list[str]:
    """Texts of 140 to 300 words."""
    chance = random.Random(0)
    return [" ".join(chance.choices(WORDS, k=chance.randint(140, 300))) for _ in range(TRAIN + EVALUATE)]


@pytest.fixture(scope="module")
def paragraphs(shared: Path) -> list[str]:
    """Paragraphs of Wikipedia with more than 100 words: the contexts of SQuAD."""
    contexts = parquet.read_table(shared / "data/squad_v1/train.parquet", columns=["context"])["context"].to_pylist()
    long = [text for text in dict.fromkeys(contexts) if len(text.split()) > 110]
    return long[: TRAIN + EVALUATE]


def real_data(name: str, shared: Path, texts: list[str], folder: Path) -> Path:
    """WikiText for language models, SQuAD for questions, SciFact for embedders, and paragraphs for classifiers."""
    if name == "causal_lm":
        return shared / "data/wikitext2"
    if name == "embedding":
        return shared / "data/scifact"
    if name == "question_answering":
        for split, rows in (("train", 4 * TRAIN), ("validation", EVALUATE)):
            found = parquet.read_table(shared / f"data/squad_v1/{split}.parquet")
            folder.mkdir(exist_ok=True)
            parquet.write_table(
                found.take(list(range(0, len(found), len(found) // rows))[:rows]), folder / f"{split}.parquet"
            )
        return folder
    return written(name, texts, folder)


def written(name: str, texts: list[str], folder: Path) -> Path:
    subject = task(name)
    write_rows(folder / "train.parquet", **subject.example(texts[:TRAIN]))
    write_rows(folder / "validation.parquet", **subject.example(texts[TRAIN:]))
    return folder


def save_model(name: str, tokenizer: Any, folder: Path) -> Path:
    model_type = {"causal_lm": "llama", "seq2seq": "bart", "image_classification": "vit"}.get(name, "bert")
    sizes = {**SIZE, "max_position_embeddings": 512, "vocab_size": len(tokenizer), "pad_token_id": 0}
    if name == "causal_lm":
        sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    if name == "seq2seq":  # the config of BART derives the generic names
        sizes = {key: sizes[key] for key in ("max_position_embeddings", "vocab_size", "pad_token_id")}
        sizes |= {"encoder_layers": 1, "decoder_layers": 1}
    assert (name == "causal_lm") is (model_type in DECODERS)
    if name == "image_classification":
        sizes, tokenizer = SIZE, tiny_image_processor()
    tiny_model(model_type, auto=task(name).auto_class, **sizes).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prune_at_defaults(name: str, model: Path, data: Path, folder: Path) -> None:
    loaded, _ = task(name).load(str(model), dtype=torch.float32, device="cpu")
    times = table(discover(loaded), folder / "latency.json")
    recipe = Recipe.of(
        {
            "model": str(model), "task": name.replace("_", "-"), "data": str(data), "speedup": (1.5,),
            "latency_table": str(times), "elsewhere": True,
        }
    )  # fmt: skip
    report = secateurs.run(recipe, folder / "out")
    texts = {each.role: each for each in report.texts}
    assert texts["fit"].rows == DEFAULT.calibration_samples
    assert (texts["search"].rows, texts["accept"].rows, texts["report"].rows) == (256, 256, 256)
    assert not any("texts than asked for" in note for note in report.notes)
    tokens = texts["fit"].tokens
    assert (tokens is None) is (name == "image_classification")
    enough = 0.85 * DEFAULT.sequence_length * DEFAULT.calibration_samples
    assert tokens is None or tokens > enough, "the texts do not fill the defaults"
    (result,) = report.models
    assert result.divergence is not None
    assert 0 < result.divergence.value < float("inf")
    assert any(kept.kept < kept.size for kept in result.kept.values())
    pruned, _ = task(name).load(str(folder / "out" / result.path), dtype=torch.float32, device="cpu")
    assert all(parameter.isfinite().all() for parameter in pruned.parameters())


def test_a_default_batch_is_weighed_in_several_parts() -> None:
    """Token weights run the model in parts of 2048 tokens; the defaults crashed in every batch of more."""
    assert DEFAULT.batch_size * DEFAULT.sequence_length > TOKENS
    assert DEFAULT.calibration_batch_size is None  # 4096 tokens


@pytest.mark.parametrize("name", names())
def test_defaults_on_generated_texts(name: str, generated: list[str], tmp_path: Path) -> None:
    model = save_model(name, tiny_tokenizer(), tmp_path / "model")
    prune_at_defaults(name, model, written(name, generated, tmp_path / "data"), tmp_path)


# A vocabulary of 30,522 words for 128 target tokens of a text takes seq2seq more than ten minutes. Images are no texts.
@pytest.mark.parametrize("name", [name for name in names() if name not in ("seq2seq", "image_classification")])
def test_defaults_on_real_texts(name: str, shared: Path, paragraphs: list[str], tmp_path: Path) -> None:
    source = shared / "models" / ("stories260k-llama" if name == "causal_lm" else "minilm-sst2")
    if not source.is_dir():
        pytest.skip(f"the tokenizer of {source.name} is not on this machine")
    model = save_model(name, AutoTokenizer.from_pretrained(source), tmp_path / "model")
    prune_at_defaults(name, model, real_data(name, shared, paragraphs, tmp_path / "data"), tmp_path)
