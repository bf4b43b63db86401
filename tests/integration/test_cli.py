"""The command line: what it prints, and that bad input gets one line and status 2."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_run
from secateurs import cli, pipeline
from secateurs.methods.cofi import CoFi
from secateurs.structure import Structure
from tiny import write_rows

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``secateurs ARGS`` in this process -> status, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["secateurs", *map(str, arguments)])
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, data, a latency table and the recipe that names them."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "recipe.yaml").write_text(tiny_run.recipe(folder).to_yaml())
    learned = {"method": "cofi", "speedup": (), "hyperparameters": {}, "train_batch_size": 8}
    (folder / "learned.yaml").write_text(tiny_run.recipe(folder, sparsity=(0.5,), **learned).to_yaml())
    return folder


@pytest.fixture(scope="module")
def broken(place: Path) -> dict[str, Path]:
    """Models and data with one thing wrong each."""
    made = {}
    for name in ("nan", "no_tokenizer", "truncated", "no_config", "pickle", "unsupported"):
        made[name] = place / "broken" / name
        shutil.copytree(place / "model", made[name])
    weights = load_file(made["nan"] / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] = torch.nan
    save_file(weights, made["nan"] / "model.safetensors", {"format": "pt"})
    for file in made["no_tokenizer"].glob("token*"):
        file.unlink()
    data = (made["truncated"] / "model.safetensors").read_bytes()
    (made["truncated"] / "model.safetensors").write_bytes(data[: len(data) // 2])
    (made["no_config"] / "config.json").unlink()
    (made["pickle"] / "model.safetensors").rename(made["pickle"] / "pytorch_model.bin")
    config = json.loads((made["unsupported"] / "config.json").read_text())
    config |= {"model_type": "albert", "embedding_size": 16}
    (made["unsupported"] / "config.json").write_text(json.dumps(config))
    made["wide"] = tiny_run.model_folder(place / "broken" / "wide", hidden_size=48)
    made["three"] = tiny_run.model_folder(place / "broken" / "three", num_labels=3)
    made["other"] = tiny_run.model_folder(place / "broken" / "other", "distilbert")
    made["empty"] = write_rows(place / "broken" / "empty" / "train.parquet", text=[], label=[]).parent
    made["labels"] = write_rows(
        place / "broken" / "labels" / "train.parquet", text=["a cat"] * 8, label=[0, 7] * 4
    ).parent
    for split in ("test", "validation"):
        write_rows(place / "broken" / "untrainable" / f"{split}.parquet", text=["a cat"] * 8, label=[0, 1] * 4)
    made["untrainable"] = place / "broken" / "untrainable"
    (place / "broken" / "table.json").write_text("{}")
    made["table"] = place / "broken" / "table.json"
    (place / "broken" / "list.yaml").write_text("- 1\n- 2\n")
    made["list"] = place / "broken" / "list.yaml"
    return made


BAD: dict[str, tuple[str, str]] = {
    "model missing": ("--config {recipe} {nowhere}", "nowhere"),
    "model of another type": ("--config {recipe} {unsupported}", "albert"),
    "weights are NaN": ("--config {recipe} {nan}", "nan|NaN"),
    "weights truncated": ("--config {recipe} {truncated}", "truncated"),
    "weights pickled": ("--config {recipe} {pickle}", "safetensors"),
    "config missing": ("--config {recipe} {no_config}", "no_config"),
    "tokenizer missing": ("--config {recipe} {no_tokenizer}", "tokenizer"),
    "data missing": ("--config {recipe} --data {nowhere}", "nowhere"),
    "data empty": ("--config {recipe} --data {empty}", "empty|no rows"),
    "column missing": ("--config {recipe} --text-column body", "body.*text"),
    "labels do not fit": ("--config {recipe} --data {labels}", "label.*7|7.*label"),
    "labels are no tags": ("--config {recipe} --task token-classification", "row 0.*not a tag for every word"),
    "a model of another task": ("--config {recipe} --task question-answering", "lacks.*qa_outputs"),
    "nothing to recover on": ("--config {recipe} --data {untrainable} --recover-epochs 1", "recovery.*untrainable"),
    "no such task": ("--config {recipe} --task summarise", "summarise.*text_classification"),
    "no such method": ("--config {recipe} --method magic", "magic.*ziplm"),
    "no such preset": ("--config {recipe} --preset best", "best"),
    "no such hyper-parameter": ("--config {recipe} --set dampening=1", "dampening.*damping"),
    "a hyper-parameter of another type": ("--config {recipe} --set damping=high", "damping.*'high'"),
    "a hyper-parameter with no such choice": ("--config {recipe} --set inputs=sequentail", "inputs.*sequential"),
    "a hyper-parameter that is no YAML": ("--config {recipe} --set probes=[", "probes=.*YAML"),
    "too few texts to search on": ("--config {recipe} --set search_samples=0", "search_samples.*at least 2"),
    "a hyper-parameter out of range": ("--config {recipe} --set ratio=2", "ratio"),
    "speed-up of one": ("--config {recipe} --speedup 1", "greater than 1"),
    "unreachable speed-up": ("--config {recipe} --speedup 90", "unreachable.*gives"),
    "two targets of one name": ("--config {recipe} --speedup 2.001 --speedup 2.004", "share a folder"),
    "cpu clock with several threads": ("--config {recipe} --clock cpu --threads 2", "cpu clock.*1 thread"),
    "sequence too long": ("--config {recipe} --sequence-length 4096", "4096"),
    "no such device": ("--config {recipe} --device cuda:7", "cuda"),
    "cpu clock on a gpu": ("--config {recipe} --device cuda --clock cpu", "clock"),
    "no such clock": ("--config {recipe} --clock sun", "clock"),
    "recipe missing": ("--config {nowhere}", "no recipe"),
    "recipe is a list": ("--config {list}", "not a mapping"),
    "table missing": ("--config {recipe} --latency-table {nowhere}", "no latency table"),
    "table is a folder": ("--config {recipe} --latency-table {labels}", "cannot read the latency table"),
    "recipe inside a file": ("--config {table}/recipe.yaml", "not readable"),
    "table broken": ("--config {recipe} --latency-table {table}", "not a latency table"),
    "nothing given": ("", "model is missing"),
    "fewer classes than the model": ("--config {recipe} {three}", "2 classes and the model 3"),
    "a sparsity of nothing": ("--config {learned} --sparsity 0", "sparsity of 0 .*between 0 and 1"),
    "a sparsity of everything": ("--config {learned} --sparsity 1", "sparsity of 1 .*between 0 and 1"),
    "a sparsity for a method of time": ("--config {learned} --method ziplm", "ziplm prunes to a time"),
    "no passes to learn masks in": ("--config {learned} --set epochs=0", "epochs must be above 0"),
    "no steps to learn masks in": ("--config {learned} --set epochs=0.001 --set ramp=0", "1 steps are too few"),
    "too few steps to learn masks in": ("--config {learned} --set steps=20", "20 steps are too few.*at least 98"),
    "too few passes to learn masks in": ("--config {learned} --set epochs=4", "24 steps are too few.*48 rows"),
    "masks and nothing to learn them on": ("--config {learned} --data {untrainable}", "cofi needs a training split"),
    "a start that is not there": ("--config {learned} --set start={nowhere}", "nowhere does not exist"),
    "a start that is wider": ("--config {learned} --set start={wide}", "shape .*48.* the teacher .*32"),
    "a start for other labels": ("--config {learned} --set start={three}", "3 labels, the teacher for 2"),
    "a start of another kind": ("--config {learned} --set start={other}", "a distilbert, the teacher a bert"),
    "no such tracker": ("--config {learned} --tracker logbook", "no tracker 'logbook'.*tensorboard"),
    "a tracker and no training": ("--config {recipe} --tracker wandb", "this run has none.*--recover-epochs"),
    "no rows at once": ("--config {recipe} --accumulate 0", "accumulate.*given: 0"),
    "a hidden size that must stay": ("--config {learned} --task embedding --set hidden=true", "whose size must stay"),
}
"""All of them are found before the model is timed or evaluated."""


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line(
    run: Run, place: Path, broken: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    def work(*given: object, **named: object) -> None:
        raise AssertionError("the work has begun")

    for stage in ("measure_table", "_dense_score"):
        monkeypatch.setattr(pipeline, stage, work)
    line, pattern = BAD[case]
    recipes = {name: place / f"{name}.yaml" for name in ("recipe", "learned")}
    names = {**broken, **recipes, "nowhere": tmp_path / "nowhere"}
    arguments = line.format(**names).split()
    status, _, err = run("prune", *arguments, "--out", tmp_path / "out")
    told = [text for text in err.splitlines() if text.startswith("secateurs: ")]
    assert status == 2, err
    assert len(told) == 1, err
    assert "Traceback" not in err
    assert re.search(pattern, told[0]), told[0]
    assert not list((tmp_path / "out").glob("speedup-*")) if (tmp_path / "out").exists() else True


def test_a_loss_that_becomes_nan_gets_one_line(run: Run, place: Path, tmp_path: Path) -> None:
    options = ("--set", "rate=1e30", "--set", "steps=98")
    status, _, err = run("prune", "--config", place / "learned.yaml", *options, "--out", tmp_path / "out")
    assert status == 2, err
    assert "Traceback" not in err
    assert re.search(r"secateurs: the loss became (nan|inf) at step \d+ of pruning; lower", err), err


def test_prune_report_inspect_measure(run: Run, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, text, err = run("prune", "--config", place / "recipe.yaml", "--speedup", "1.6", "--out", out)
    assert status == 0, err
    assert "1.60x" in text
    assert "report.html" in text
    status, text, _ = run("report", out)
    assert status == 0
    assert "speedup-1.60x" in text
    status, text, _ = run("inspect", out / "speedup-1.60x")
    assert status == 0
    assert "layer.0.heads" in text
    assert "measured when it was pruned" in text
    status, text, _ = run(
        "measure", place / "model", out / "speedup-1.60x",
        "--batch-size", 2, "--sequence-length", 8, "--threads", 1, "--clock", "cpu", "--seconds", 1,
    )  # fmt: skip
    assert status == 0
    assert "1.000x" in text
    status, text, _ = run("prune", "--config", place / "recipe.yaml", "--speedup", "1.6", "--out", out, "--resume")
    assert status == 0
    assert "1.60x" in text


def test_a_dry_run_writes_nothing(run: Run, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, text, err = run("prune", "--config", place / "recipe.yaml", "--out", out, "--dry-run")
    assert status == 0, err
    assert "prune to 1.50x" in text
    assert "GB" in text
    assert not out.exists()


def test_a_dry_run_counts_the_rows_of_a_step(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    reckon = CoFi.forwards

    def spy(self: CoFi, structure: Structure, samples: int, rows: int, batch: int) -> dict[str, float]:
        seen.append((batch, reckon(self, structure, samples, rows, batch)))
        return seen[-1][1]

    monkeypatch.setattr(CoFi, "forwards", spy)
    for more in (("--train-batch-size", "4"), ("--accumulate", "3")):
        status, _, err = run("prune", "--config", place / "learned.yaml", "--dry-run", "--set", "steps=100", *more)
        assert status == 0, err
    (four, few), (many, more_work) = seen
    assert (four, many) == (4, 24)
    assert more_work["target"] - few["target"] == pytest.approx(4.5 * 100 * 20)


def test_a_table_measured_here_is_written(run: Run, place: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    status, _, err = run(
        "measure", place / "model", "--table", table,
        "--batch-size", 2, "--sequence-length", 8, "--threads", 1, "--clock", "cpu", "--seconds", 1, "--probe",
    )  # fmt: skip
    assert status == 0, err
    assert json.loads(table.read_text())["environment"]["batch_size"] == 2
