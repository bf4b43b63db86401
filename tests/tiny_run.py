"""Recipes of complete runs that take seconds: a tiny model in a folder, a few rows, and a made-up latency table."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from secateurs.latency.curve import LatencyCurve
from secateurs.latency.environment import Environment
from secateurs.latency.table import LatencyTable
from secateurs.pipeline.load import load
from secateurs.pipeline.recipe import Recipe
from secateurs.progress import Track
from secateurs.structure.cut import Kind
from secateurs.structure.families import discover
from secateurs.structure.structure import Structure
from tiny import WORDS, tiny_tokenizer, write_rows
from tiny_models import DECODERS, tiny_model

__all__ = ["SMALL", "Killed", "kill_at", "model_folder", "own_table", "recipe", "rows", "table", "with_trained_gates"]


SMALL: dict[str, dict[str, Any]] = {
    "ziplm": {"preset": "paper", "hyperparameters": {"inits": 3, "steps": 5}},
    "cofi": {"preset": "quick", "hyperparameters": {"steps": 20, "gate_rate": 0.5, "finetuning_steps": 4}},
    "flop": {"preset": "quick", "hyperparameters": {"steps": 20, "finetuning_steps": 4}},
    "neuron_pruning": {"preset": "quick", "hyperparameters": {"steps": 20, "finetuning_steps": 4}},
    "agp": {"hyperparameters": {"steps": 20}},
    "agp_unstructured": {"hyperparameters": {"steps": 20}},
    "fac": {"hyperparameters": {"steps": 10}},
}
"""Fewer steps for the methods whose defaults take long."""


class Killed(BaseException):
    """Stands for a kill: no ``except Exception`` in the library catches it."""


def kill_at(stage: str, item: int) -> Track:
    """A progress display that raises ``Killed``.

    Args:
        stage: title of the stage in which it raises.
        item: number of items of that stage that are finished before.
    """

    def track(items: Iterable[Any], title: str, total: int | None = None) -> Iterable[Any]:
        for number, value in enumerate(items):
            if title == stage and number == item:
                raise Killed(title)
            yield value

    return track


def with_trained_gates(done: Path, recipe: Recipe, folder: Path) -> Path:
    """Make a run folder for ``recipe`` that holds the trained gates of another run, to be resumed.

    Args:
        done: folder of the other run.
        recipe: a recipe that differs in what happens after the gates are trained.
        folder: the new run folder.
    """
    shutil.copytree(done / "stages" / "learned", folder / "stages" / "learned")
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    return folder


def model_folder(path: Path, model_type: str = "bert", **changes: Any) -> Path:
    """Save a random two-class model, or a decoder, with its tokenizer."""
    auto = None if model_type in DECODERS else "AutoModelForSequenceClassification"
    model = tiny_model(model_type, auto=auto, **{"num_labels": 2, "pad_token_id": 0, **changes}).float()
    model.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def rows(path: Path, count: int = 48) -> Path:
    """Write random sentences with random labels, in two splits."""
    chance = random.Random(0)
    for split, number in (("train", count), ("validation", 16)):
        texts = [" ".join(chance.choices(WORDS, k=chance.randint(3, 9))) for _ in range(number)]
        write_rows(path / f"{split}.parquet", text=texts, label=[chance.randint(0, 1) for _ in texts])
    return path


def table(structure: Structure, path: Path) -> Path:
    """Save a latency table in which all units of one kind take equally long. It belongs to no real machine."""
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
    """The recipe with a latency table for the structure of its method, in which all units of a group take equally long."""
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
    """The recipe of a tiny run. Timings of such a small model are noise, so its latency table comes from a file."""
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
            "elsewhere": True,
            "calibration_samples": 32,
            "hyperparameters": {"search_samples": 16, "probes": 3, "rounds": 1, "steps": 3},
            **changes,
        }
    )
