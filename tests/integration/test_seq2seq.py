"""A translator pruned from end to end, with a metric of generated texts; and what CoFi refuses."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import secateurs
from secateurs import cli
from secateurs.errors import UnsupportedModelError
from secateurs.pipeline.load import load
from secateurs.pipeline.recipe import Recipe
from secateurs.structure.families import discover
from secateurs.tasks import task
from tiny import WORDS, tiny_tokenizer, write_rows
from tiny_models import tiny_model
from tiny_run import table

QUICK = [
    "--speedup",
    "1.5",
    "--sequence-length",
    "16",
    "--threads",
    "1",
    "--calibration-samples",
    "32",
    "--elsewhere",
    "--quiet",
]
SETTINGS = [f"--set={value}" for value in ("search_samples=16", "probes=3", "rounds=1", "steps=3")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, cells of translations and a latency table."""
    folder = tmp_path_factory.mktemp("seq2seq")
    chance = random.Random(0)
    texts = [" ".join(chance.choices(WORDS, k=chance.randint(3, 9))) for _ in range(48)]
    for split, some in (("train", texts[:40]), ("validation", texts[40:])):
        write_rows(folder / f"data/{split}.parquet", translation=[{"en": text, "de": text[::-1]} for text in some])
    model = tiny_model("bart", pad_token_id=0, decoder_start_token_id=3, eos_token_id=3).float()
    model.save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    loaded, _ = task("seq2seq").load(str(folder / "model"), dtype=torch.float32, device="cpu")
    table(discover(loaded), folder / "latency.json")
    return folder


def test_cofi_matches_the_layers_of_one_stack_only(place: Path, tmp_path: Path) -> None:
    """Refused before the work; without the layers it prunes both stacks."""
    values: dict[str, Any] = {
        "model": str(place / "model"), "data": str(place / "data"), "columns": {"text": "en", "text_pair": "de"},
        "task": "seq2seq", "method": "cofi", "preset": "quick", "sparsity": 0.5, "sequence_length": 16,
        "calibration_samples": 16, "train_batch_size": 8,
    }  # fmt: skip
    steps = {"steps": 20, "gate_rate": 0.5, "finetuning_steps": 4}
    with pytest.raises(UnsupportedModelError, match=r"one stack.*an encoder and a decoder; use --set layer_weight=0"):
        load(Recipe.of({**values, "hyperparameters": steps}))
    recipe = Recipe.of({**values, "hyperparameters": {**steps, "layer_weight": 0, "output_weight": 1}})
    (model,) = secateurs.run(recipe, tmp_path / "out").models
    assert model.sparsity >= 0.5
    stacks = {name.split(".")[0] for name, kept in model.kept.items() if kept.kept < kept.size}
    assert {"encoder", "decoder"} <= stacks


def prune(place: Path, out: Path, *options: str) -> int:
    """Exit status of ``secateurs prune`` with the model and the data of the folder."""
    given = {"--task": "seq2seq", "--data": place / "data", "--latency-table": place / "latency.json", "--out": out}
    named = ["--text-column", "en", "--text-pair-column", "de", *(str(part) for pair in given.items() for part in pair)]
    sys.argv = ["secateurs", "prune", str(place / "model"), *named, *QUICK, *SETTINGS, *options]
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(autouse=True)
def _arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)


def test_the_report_has_the_metric_of_the_recipe(place: Path, tmp_path: Path) -> None:
    assert prune(place, tmp_path / "out", "--metric", "chrf", "--max-new-tokens", "6") == 0
    (model,) = json.loads((tmp_path / "out/report.json").read_text())["models"]
    assert model["metric"]["name"] == "chrf"
    assert 0 <= model["metric"]["value"] < 1
    dense = json.loads((tmp_path / "out/stages/dense.json").read_text())
    assert (dense["count"], dense["details"]["max_new_tokens"]) == (8, 6)


def test_a_missing_library_gets_one_line_before_the_work(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "sacrebleu" else find(name, *rest)
    )
    assert prune(place, tmp_path / "out", "--metric", "bleu") == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert "pip install 'secateurs[seq2seq]'" in error
    assert not (tmp_path / "out").exists()
