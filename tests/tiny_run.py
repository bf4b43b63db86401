"""A whole run in seconds: a tiny model and tokenizer in a folder, a few rows, and a latency table from elsewhere."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from secateurs.environment import Environment
from secateurs.families import discover
from secateurs.latency_curve import LatencyCurve
from secateurs.latency_table import LatencyTable
from secateurs.loading import load
from secateurs.recipe import Recipe
from secateurs.structure import Kind, Structure
from tiny import WORDS, tiny_tokenizer, write_rows
from tiny_models import DECODERS, tiny_model

__all__ = ["SMALL", "model_folder", "own_table", "recipe", "rows", "table"]


SMALL: dict[str, dict[str, Any]] = {
    "ziplm": {"preset": "paper", "hyperparameters": {"inits": 3, "steps": 5}},
    "cofi": {"preset": "quick", "hyperparameters": {"steps": 100, "finetuning_steps": 4}},
    "flop": {"preset": "quick", "hyperparameters": {"steps": 60, "finetuning_steps": 4}},
    "np": {"preset": "quick", "hyperparameters": {"steps": 60, "finetuning_steps": 4}},
    "agp": {"hyperparameters": {"steps": 20}},
    "agp_unstructured": {"hyperparameters": {"steps": 20}},
    "fac": {"hyperparameters": {"steps": 10}},
}
"""Methods whose defaults take long."""


def model_folder(path: Path, model_type: str = "bert", **changes: Any) -> Path:
    """A random two-class model (or a decoder) with its tokenizer."""
    auto = None if model_type in DECODERS else "AutoModelForSequenceClassification"
    model = tiny_model(model_type, auto=auto, **{"num_labels": 2, "pad_token_id": 0, **changes}).float()
    model.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def rows(path: Path, count: int = 48) -> Path:
    """Random sentences with random labels, in two splits."""
    chance = random.Random(0)
    for split, number in (("train", count), ("validation", 16)):
        texts = [" ".join(chance.choices(WORDS, k=chance.randint(3, 9))) for _ in range(number)]
        write_rows(path / f"{split}.parquet", text=texts, label=[chance.randint(0, 1) for _ in texts])
    return path


def table(structure: Structure, path: Path) -> Path:
    """A table in which every unit takes as long as every other of its kind; measured on no machine at all."""
    curves = {}
    for kind in {group.kind for group in structure}:
        size = max(group.size for group in structure if group.kind is kind)
        unit = 1.0 / size
        curves[str(kind)] = LatencyCurve((0, 1, size), (0.0, 0.1 + unit, 0.1 + unit * size), multiple=1)
    assert set(curves) == {str(Kind.HEAD), str(Kind.INTERMEDIATE)}
    groups = {group.name: str(group.kind) for group in structure}
    dense = 0.5 + sum(float(curves[groups[group.name]](group.size)) for group in structure)
    LatencyTable(Environment(), dense, 0.5, curves, groups, {"processor": "nowhere"}).save(path)
    return path


def own_table(recipe: Recipe, path: Path) -> Recipe:
    """The recipe with a table of the structure of its own method, in which every unit takes as long as every other."""
    if not path.exists():
        structure = load(recipe).structure
        curves = {
            group.name: LatencyCurve((0, 1, group.size), (0.0, 0.1, 0.09 + 0.01 * group.size)) for group in structure
        }
        dense = 0.5 + sum(curve.ms[-1] for curve in curves.values())
        names = {group.name: group.name for group in structure}
        LatencyTable(Environment(), dense, 0.5, curves, names, {"processor": "nowhere"}).save(path)
    return recipe.model_copy(update={"latency_table": str(path)})


def recipe(folder: Path, model_type: str = "bert", task: str = "text-classification", **changes: Any) -> Recipe:
    """The recipe of a tiny run; the timings of such a model mean nothing, so the table comes from a file."""
    model = folder / "model"
    if not model.exists():
        model_folder(model, model_type)
        rows(folder / "data")
        from secateurs.tasks import task as find

        loaded, _ = find(task.replace("-", "_")).load(str(model), dtype=torch.float32, device="cpu")
        table(discover(loaded), folder / "latency.json")
    return Recipe.of(
        {
            "model": str(model),
            "task": task,
            "data": str(folder / "data"),
            "speedup": (1.5, 2.0),
            "batch_size": 8,
            "sequence_length": 16,
            "threads": 1,
            "latency_table": str(folder / "latency.json"),
            "calibration_samples": 32,
            "hyperparameters": {"search_samples": 16, "probes": 3, "rounds": 1, "steps": 3},
            **changes,
        }
    )
