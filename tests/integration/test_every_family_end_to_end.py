"""One short ``secateurs prune`` for every model type: the default method, a recovery step, and the delivered folder.

The smallest amounts of work are set, and every other value is the default of the recipe. The latency table comes from a file,
because timings of random models are noise.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from typer.testing import CliRunner

from secateurs.cli import app
from secateurs.pipeline.load import load
from secateurs.pipeline.recipe import Recipe
from secateurs.report.report import Report
from secateurs.structure.families import discover, model_types
from secateurs.tasks import names
from secateurs.tasks import task as find
from secateurs.training.evaluate import divergence, record_outputs
from tiny import WORDS, tiny_processor, write_rows
from tiny_models import DECODERS, tiny_model
from tiny_run import table

PREFERRED = ("text_classification", "token_classification", "image_classification", "embedding")
"""Tasks for types that generate nothing, the most used first."""

SENTENCES = ("the cat sat on the mat .", "the film was good and the story was not .", "a small dog ran over the moon .")


@cache
def texts(count: int) -> list[str]:
    """Sentences with one to three other words in each."""
    chance = random.Random(0)
    found = []
    for number in range(count):
        words = SENTENCES[number % len(SENTENCES)].split()
        for place in chance.sample(range(len(words)), chance.randint(1, 3)):
            words[place] = chance.choice(WORDS)
        found.append(" ".join(words))
    return found


@cache
def tasks_of(auto_class: str) -> list[str]:
    """The tasks whose models one class of transformers loads."""
    return [name for name in names() if find(name).auto_class == auto_class]


def task_of(model_type: str) -> str | None:
    """The task that a model type is pruned for here; ``None`` if no task has its models."""
    if model_type in DECODERS:
        return "causal_lm"
    config = transformers.AutoConfig.for_model(model_type)
    for name in [*tasks_of("AutoModelForSeq2SeqLM"), *PREFERRED]:
        cls = getattr(transformers, type(find(name)).auto_class)._model_mapping.get(type(config), None)
        if cls is not None:
            cls = cls[0] if isinstance(cls, tuple) else cls
            return name if cls.main_input_name == find(name).inputs else None
    return None


def short_recipe(model_type: str, name: str, folder: Path) -> Path:
    """A dense model, data, a latency table and a recipe in a new folder; the path of the recipe."""
    subject = find(name)
    model = tiny_model(model_type, auto=subject.auto_class, num_labels=2, pad_token_id=0).float()
    model.save_pretrained(folder / "dense")
    tiny_processor(model).save_pretrained(folder / "dense")
    for split, part in (("train", texts(72)[:56]), ("validation", texts(72)[56:])):
        write_rows(folder / "data" / f"{split}.parquet", **subject.example(part))
    loaded, _ = find(name).load(str(folder / "dense"), dtype=torch.float32, device="cpu")
    values: dict[str, Any] = {
        "model": str(folder / "dense"),
        "task": name.replace("_", "-"),
        "data": str(folder / "data"),
        "speedup": [1.7],
        "sequence_length": 16,
        "batch_size": 4,
        "threads": 1,
        "latency_table": str(table(discover(loaded), folder / "latency.json")),
        "elsewhere": True,
        "timing_processes": 3,
        "calibration_samples": 16,
        "hyperparameters": {"search_samples": 4, "probes": 3, "rounds": 0, "steps": 1},
        "recover_epochs": 0.25,
        "train_batch_size": 8,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("model_type", model_types())
def test_a_short_prune(model_type: str, tmp_path: Path) -> None:
    name = task_of(model_type)
    if name is None:
        pytest.skip(f"no task has {model_type} models: their structure is tested in tests/conformance")
    path = short_recipe(model_type, name, tmp_path)
    answer = CliRunner().invoke(app, ["prune", "--config", str(path), "--out", str(tmp_path / "out")])
    assert answer.exit_code == 0, answer.output
    (result,) = Report.load(tmp_path / "out").models
    assert result.parameters < result.dense_parameters
    assert any(0 < kept.kept < kept.size for kept in result.kept.values())
    assert "recover" in result.seconds

    subject = load(Recipe.load(path))  # as the run had it: its dense model, and the texts of the report
    folder = tmp_path / "out" / result.path
    model = getattr(transformers, subject.task.auto_class).from_pretrained(folder).eval()
    batches = subject.data.roles.report.batches
    outputs = record_outputs(model, subject.task, batches, "cpu")
    assert all(torch.isfinite(values).all() for values in outputs)
    assert result.divergence is not None
    again = divergence(model, subject.task, batches, record_outputs(subject.dense, subject.task, batches, "cpu"), "cpu")
    assert again == pytest.approx(result.divergence.value, rel=1e-5)
