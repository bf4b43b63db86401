"""The folder that is handed over is the dense one made smaller: everything but what was cut is as it was."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file
from tokenizers import Tokenizer

from deliveries import TEXT, TEXTS, deliver, dense, tokenizer_files, with_idle_units
from secateurs.checkpoint.saved_model import load_saved_model
from secateurs.pipeline.run import run
from secateurs.tasks import task as find
from secateurs.tasks.base import Columns
from secateurs.tasks.roles import RoleSizes
from tiny import WORDS, tiny_tokenizer, write_rows
from tiny_models import tiny_model
from tiny_run import own_table, recipe


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dense classifier, and what is handed over."""
    folder = tmp_path_factory.mktemp("classifier")
    model = dense(folder / "dense")
    (model / "README.md").write_text("---\nlicense: mit\nlanguage: en\ndatasets:\n- glue\n---\n# A model\n")
    return model, deliver(folder, model)


def test_tokenizer_files_are_those_of_the_dense_model(classifier: tuple[Path, Path]) -> None:
    before, after = classifier
    assert tokenizer_files(after) == tokenizer_files(before)
    long = " ".join(["the cat"] * 100)
    assert len(Tokenizer.from_file(str(after / "tokenizer.json")).encode(long).ids) == 202


@pytest.mark.parametrize("task", ["token-classification", "question-answering", "embedding", "causal-lm"])
def test_no_task_changes_the_tokenizer_it_is_given(task: str, tmp_path: Path) -> None:
    """Nor one that has a truncation of its own, pads on the left, and has no padding token."""
    subject = find(task.replace("-", "_"))
    texts = [f"{TEXT} {word}" for word in WORDS[:24]]
    write_rows(tmp_path / "data" / "train.parquet", **subject.example(texts))
    model = tiny_model("llama" if task == "causal-lm" else "bert", auto=type(subject).auto_class, num_labels=2)
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(7)
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    tokenizer.pad_token = None
    before = tokenizer.backend_tokenizer.to_str(), tokenizer.init_kwargs, tokenizer.special_tokens_map
    settings: dict[str, Any] = {"batch_size": 4, "sequence_length": 24, "roles": RoleSizes(8), "seed": 0}
    data = subject.read(str(tmp_path / "data"), model.float(), tokenizer, columns=Columns(), **settings)
    assert all((batch["attention_mask"].diff(dim=1) <= 0).all() for batch in data.roles.fit.batches)
    assert (tokenizer.backend_tokenizer.to_str(), tokenizer.init_kwargs, tokenizer.special_tokens_map) == before
    assert tokenizer.padding_side == tokenizer.truncation_side == "left"
    assert tokenizer.pad_token is None


@pytest.mark.parametrize("padding", [True, False])
def test_a_decoder_generates_in_batches_as_one_by_one(padding: bool, tmp_path: Path) -> None:
    model = dense(tmp_path / "dense", "llama", pad_token_id=0 if padding else None)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, padding_side="left", truncation_side="left")
    tokenizer.pad_token = tokenizer.pad_token if padding else None
    tokenizer.save_pretrained(model)
    saved = json.loads((model / "tokenizer_config.json").read_text())
    assert saved["padding_side"] == "left"
    after = deliver(tmp_path, model, "causal-lm", model_type="llama")
    assert tokenizer_files(after) == tokenizer_files(model)
    again = transformers.AutoTokenizer.from_pretrained(after)
    assert (again.padding_side, again.truncation_side) == ("left", "left")
    configs = [json.loads((path / "config.json").read_text()) for path in (model, after)]
    assert configs[1].get("pad_token_id") == configs[0].get("pad_token_id")
    if not padding:
        assert again.pad_token is None
        return
    small = transformers.AutoModelForCausalLM.from_pretrained(after)
    options = {"max_new_tokens": 4, "do_sample": False}
    batch = again(["the", "the cat sat on"], padding=True, return_tensors="pt", return_token_type_ids=False)
    together = small.generate(**batch, **options)[:, -4:]
    for row, text in enumerate(["the", "the cat sat on"]):
        alone = small.generate(**again([text], return_tensors="pt", return_token_type_ids=False), **options)[:, -4:]
        assert together[row].tolist() == alone[0].tolist()


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("value", [0o022, 0o027, 0o077])
def test_files_have_the_mode_of_the_umask(value: int, tmp_path: Path) -> None:
    model = dense(tmp_path / "dense")
    with umask(value):
        after = deliver(tmp_path, model)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in after.rglob("*") if path.is_file()}
    assert {"model.safetensors", "mask.safetensors"} <= modes.keys()
    assert set(modes.values()) == {0o666 & ~value}
    assert {stat.S_IMODE(path.stat().st_mode) for path in after.parent.rglob("*") if path.is_file()} == {0o666 & ~value}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shards", ["5GB", "20KB"])
def test_half_precision_comes_back(dtype: torch.dtype, shards: str, tmp_path: Path) -> None:
    model = dense(tmp_path / "dense", dtype=dtype)
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(model, dtype=dtype)
    (model / "model.safetensors").unlink()
    whole.save_pretrained(model, max_shard_size=shards)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))  # the files decide
    after = deliver(tmp_path, model)
    tensors = load_file(after / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    sizes = [sum(file.stat().st_size for file in path.glob("model*.safetensors")) for path in (model, after)]
    assert sizes[1] < sizes[0]
    name = str(dtype).removeprefix("torch.")
    values = json.loads((after / "config.json").read_text())
    assert values["dtype"] == name
    assert values["secateurs"]["measured"]["quality_dtype"] == "float32"
    assert f"The weights are saved in {name}." in (after / "README.md").read_text()


def test_what_is_evaluated_in_half_precision_is_what_is_saved(tmp_path: Path) -> None:
    """In float32, the saved weights give the reported divergence from the dense model, to the last digit."""
    from secateurs.pipeline.load import load
    from secateurs.pipeline.recipe import Recipe
    from secateurs.training.evaluate import divergence, record_outputs

    model = dense(tmp_path / "dense", dtype=torch.bfloat16)
    after = deliver(tmp_path, model)
    measured = json.loads((after / "config.json").read_text())["secateurs"]["measured"]
    loaded = load(Recipe.load(after.parent / "recipe.yaml"))
    teacher = record_outputs(loaded.dense, loaded.task, loaded.data.roles.report.batches, "cpu")
    saved = load_saved_model(str(after), trust_remote_code=False)
    found = divergence(saved, loaded.task, loaded.data.roles.report.batches, teacher, "cpu")
    assert found == pytest.approx(measured["divergence"]["value"], rel=1e-6)


def test_float32_says_so(classifier: tuple[Path, Path]) -> None:
    assert "The weights are saved in float32." in (classifier[1] / "README.md").read_text()


def test_the_card_has_the_metadata_of_the_dense_card(classifier: tuple[Path, Path]) -> None:
    front = yaml.safe_load((classifier[1] / "README.md").read_text().split("---\n")[1])
    assert front["license"] == "mit"
    assert front["language"] == "en"
    assert front["datasets"] == ["glue"]
    (entry,) = front["model-index"]
    (evaluation,) = entry["results"]
    assert evaluation["task"] == {"type": "text-classification"}
    assert evaluation["dataset"] == {"name": "data", "type": "data"}
    (metric,) = evaluation["metrics"]
    measured = json.loads((classifier[1] / "config.json").read_text())["secateurs"]["measured"]["metric"]
    assert metric == {"type": "accuracy", "value": measured["value"], "name": "accuracy"}


def test_a_pipeline_gives_the_same_answers(tmp_path: Path) -> None:
    model = dense(tmp_path / "dense", id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(model)
    with_idle_units(classifier).save_pretrained(model)
    after = deliver(tmp_path, model, speedup=(1.2,))
    wanted, found = (transformers.pipeline("text-classification", model=str(path))(TEXTS) for path in (model, after))
    for one, other in zip(wanted, found, strict=True):
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)


def test_code_is_mentioned_where_it_is(tmp_path: Path, classifier: tuple[Path, Path]) -> None:
    model = dense(tmp_path / "dense")
    changes: dict[str, Any] = {"model": str(model), "method": "agp-unstructured", "hyperparameters": {"steps": 4}}
    made = own_table(recipe(tmp_path, **changes, speedup=(), sparsity=(0.5,)), tmp_path / "own.json")
    zeros = tmp_path / "out" / run(made, tmp_path / "out").models[0].path
    pruned = classifier[1]
    assert (pruned / "modeling_pruned.py").is_file() and not (zeros / "modeling_pruned.py").exists()
    with_code, without = ((path / "README.md").read_text() for path in (pruned, zeros))
    assert "code in its folder" in with_code and "trust_remote_code" in with_code
    assert "code in its folder" not in without and "trust_remote_code=True)" not in without
    assert "0 in tensors of full size" in without and "cut out of the weights" not in without
    assert "1710.01878" in without and "ZipLM" not in without.split("## Citation")[1]
