"""Images from a folder by class to a delivered folder: the default method with recovery, and the dry run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from PIL import Image
from typer.testing import CliRunner

from secateurs.checkpoint import save_load
from secateurs.cli import app
from secateurs.report.report import Report
from secateurs.structure.families import discover
from secateurs.structure.mask import Mask
from secateurs.surgery.shrink import shrink
from secateurs.tasks import task
from secateurs.tasks.base import Columns
from secateurs.tasks.roles import RoleSizes
from tiny import tiny_image_processor
from tiny_images import SHAPES, image_folder
from tiny_models import tiny_model
from tiny_run import table


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense classifier of shapes, images of shapes, and a latency table."""
    folder = tmp_path_factory.mktemp("images")
    model = tiny_model("deit", num_labels=2).float()
    model.config.id2label = dict(enumerate(SHAPES))
    model.config.label2id = {name: number for number, name in enumerate(SHAPES)}
    model.save_pretrained(folder / "dense")
    tiny_image_processor().save_pretrained(folder / "dense")
    path = folder / "dense" / "preprocessor_config.json"
    path.write_text(path.read_text() + "\n\n")  # as no version of transformers writes it
    image_folder(folder / "shapes", {"train": 24, "validation": 8})
    table(discover(model), folder / "latency.json")
    return folder


def recipe(place: Path, folder: Path, **changes: Any) -> Path:
    values = {
        "model": str(place / "dense"),
        "task": "image-classification",
        "data": str(place / "shapes"),
        "speedup": [1.7],
        "batch_size": 4,
        "threads": 1,
        "latency_table": str(place / "latency.json"),
        "elsewhere": True,
        "timing_processes": 3,
        "calibration_samples": 16,
        "hyperparameters": {"search_samples": 8, "probes": 3, "rounds": 0, "steps": 1},
        "recover_epochs": 0.25,
        "train_batch_size": 8,
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_classifier_of_images(place: Path, tmp_path: Path) -> None:
    path = recipe(place, tmp_path)
    answer = CliRunner().invoke(app, ["prune", "--config", str(path), "--out", str(tmp_path / "out")])
    assert answer.exit_code == 0, answer.output
    report = Report.load(tmp_path / "out")
    (result,) = report.models
    assert any("sequence length of the environment is not used" in note for note in report.notes)
    assert result.metric is not None and result.metric.name == "accuracy"
    assert result.parameters < result.dense_parameters
    assert "recover" in result.seconds
    folder = tmp_path / "out" / result.path
    processors = [one / "preprocessor_config.json" for one in (place / "dense", folder)]
    assert processors[0].read_bytes() == processors[1].read_bytes()
    assert transformers.AutoImageProcessor.from_pretrained(folder, backend="pil").size == {"height": 16, "width": 16}
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: image-classification" in card
    assert "AutoModelForImageClassification.from_pretrained" in card
    # The delivered folder is evaluated as the run evaluated the model.
    subject = task("image_classification")
    model, processor = subject.load(str(folder), dtype=torch.float32, device="cpu")
    data = subject.read(
        str(place / "shapes"),
        model,
        processor,
        columns=Columns(),
        batch_size=4,
        sequence_length=1,
        roles=RoleSizes(fit=4),
        seed=0,
    )
    assert subject.evaluate(model, data.evaluation, "cpu").value == pytest.approx(result.metric.value)


def test_the_dry_run(place: Path, tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["prune", "--config", str(recipe(place, tmp_path)), "--dry-run"])
    assert answer.exit_code == 0, answer.output
    assert "16 sequences" in answer.output


def test_measure_and_inspect(place: Path) -> None:
    answer = CliRunner().invoke(app, ["inspect", str(place / "dense")])
    assert answer.exit_code == 0, answer.output
    answer = CliRunner().invoke(app, ["measure", str(place / "dense"), "--batch-size", "2", "--threads", "1"])
    assert answer.exit_code == 0, answer.output


def test_a_plain_folder_needs_no_code(place: Path, tmp_path: Path) -> None:
    """All heads and one width: transformers' own config describes the model."""
    subject = task("image_classification")
    model, processor = subject.load(str(place / "dense"), dtype=torch.float32, device="cpu")
    structure = discover(model)
    kept = {group.name: torch.arange(7) for group in structure if group.name.endswith("intermediate")}
    small = shrink(model, structure, Mask.from_units(structure, kept))
    save_load.save(
        small, processor, tmp_path / "plain", extras=lambda to: subject.save_extras(str(place / "dense"), to)
    )
    code = (
        "import sys; sys.modules['secateurs'] = None; import torch, transformers; from PIL import Image;"
        f"model = transformers.AutoModelForImageClassification.from_pretrained({str(tmp_path / 'plain')!r});"
        f"processor = transformers.AutoImageProcessor.from_pretrained({str(tmp_path / 'plain')!r}, backend='pil');"
        f"image = Image.open({str(place / 'shapes' / 'train' / 'disc' / '000.png')!r});"
        "print(model(**processor(images=image, return_tensors='pt')).logits.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    image = Image.open(place / "shapes" / "train" / "disc" / "000.png")
    with torch.no_grad():
        wanted = small(**processor(images=image, return_tensors="pt")).logits
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), wanted)
    assert not list((tmp_path / "plain").glob("*.py"))
