"""The command line: what the commands print, and that wrong input gives a one-line error and exit status 2."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_run
from secateurs import __version__
from secateurs.methods.base import ForwardPasses
from secateurs.methods.cofi import CoFi
from secateurs.structure.families import model_types
from secateurs.structure.structure import Structure
from tiny import write_rows

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a model, data, a latency table and two recipes: for ziplm and for cofi."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "recipe.yaml").write_text(tiny_run.recipe(folder).to_yaml())
    learned = {"method": "cofi", "speedup": (), "hyperparameters": {}, "train_batch_size": 8}
    (folder / "learned.yaml").write_text(tiny_run.recipe(folder, sparsity=(0.5,), **learned).to_yaml())
    return folder


@pytest.fixture(scope="module")
def broken(place: Path) -> dict[str, Path]:
    """Name -> path of a model, data set or file in which one thing is wrong."""
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
    "model of an unsupported type": ("--config {recipe} {unsupported}", "albert"),
    "weights are NaN": ("--config {recipe} {nan}", "nan|NaN"),
    "weights truncated": ("--config {recipe} {truncated}", "truncated"),
    "weights pickled": ("--config {recipe} {pickle}", "pytorch_model.bin alone.*not read.*python -c .*save_pretrained"),
    "config missing": ("--config {recipe} {no_config}", "no_config"),
    "tokenizer missing": ("--config {recipe} {no_tokenizer}", "tokenizer"),
    "data missing": ("--config {recipe} --data {nowhere}", "nowhere"),
    "data empty": ("--config {recipe} --data {empty}", "empty|no rows"),
    "column missing": ("--config {recipe} --text-column body", "body.*text"),
    "labels do not fit": ("--config {recipe} --data {labels}", "label.*7|7.*label"),
    "labels are not tags": ("--config {recipe} --task token-classification", "row 0.*not a tag for every word"),
    "model of another task": ("--config {recipe} --task question-answering", "lacks.*qa_outputs"),
    "recovery without training split": (
        "--config {recipe} --data {untrainable} --recover-epochs 1",
        "recovery.*untrainable",
    ),
    "no such task": ("--config {recipe} --task summarise", "summarise.*text-classification"),
    "no such method": ("--config {recipe} --method magic", "magic.*ziplm"),
    "no such preset": ("--config {recipe} --preset best", "best"),
    "no such hyperparameter": ("--config {recipe} --set dampening=1", "dampening.*damping"),
    "hyperparameter of another type": ("--config {recipe} --set damping=high", "damping.*'high'"),
    "hyperparameter with an unknown choice": ("--config {recipe} --set inputs=sequentail", "inputs.*sequential"),
    "hyperparameter is not YAML": ("--config {recipe} --set probes=[", "probes=.*YAML"),
    "too few texts for the search": (
        "--config {recipe} --set search_samples=0",
        "search_samples.*greater than or equal to 2",
    ),
    "hyperparameter out of range": ("--config {recipe} --set ratio=2", "ratio"),
    "speed-up of one": ("--config {recipe} --speedup 1", "greater than 1"),
    "unreachable speed-up": ("--config {recipe} --speedup 90", "unreachable.*gives"),
    "two targets with one folder name": ("--config {recipe} --speedup 2.001 --speedup 2.004", "share a folder"),
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
    "nothing to resume": ("--resume", "no run to resume"),
    "negative seed": ("--config {recipe} --seed -1", "seed: .*greater than or equal to 0"),
    "seed that is too large": ("--config {recipe} --seed 4294967296", "seed: .*less than or equal to 4294967295"),
    "infinite speed-up": ("--config {recipe} --speedup inf", "finite number"),
    "sparsity of 0": ("--config {learned} --sparsity 0", "sparsity of 0 .*between 0 and 1"),
    "sparsity of 1": ("--config {learned} --sparsity 1", "sparsity of 1 .*between 0 and 1"),
    "sparsity for a method that needs a speed-up": ("--config {learned} --method ziplm", "ziplm prunes to a time"),
    "no epochs to learn masks": ("--config {learned} --set epochs=0", "epochs: .*greater than 0"),
    "no steps to learn masks": ("--config {learned} --set epochs=0.001 --set ramp=0", "1 steps are too few"),
    "too few steps to learn masks": ("--config {learned} --set steps=20", "20 steps are too few.*at least 98"),
    "too few epochs to learn masks": ("--config {learned} --set epochs=4", "24 steps are too few.*48 rows"),
    "masks without training split": ("--config {learned} --data {untrainable}", "cofi needs a training split"),
    "start missing": ("--config {learned} --set start={nowhere}", "nowhere does not exist"),
    "start of another width": ("--config {learned} --set start={wide}", "shape .*48.* the teacher .*32"),
    "start with other labels": ("--config {learned} --set start={three}", "3 labels, the teacher for 2"),
    "start of another model type": ("--config {learned} --set start={other}", "a distilbert, the teacher a bert"),
    "no such tracker": ("--config {learned} --tracker logbook", "no tracker 'logbook'.*tensorboard"),
    "tracker without training": ("--config {recipe} --tracker wandb", "this run has none.*--recover-epochs"),
    "no batches per step": ("--config {recipe} --accumulate 0", "accumulate.*given: 0"),
    "hidden size that must not change": (
        "--config {learned} --task embedding --set hidden=true",
        "whose size must stay",
    ),
}
"""Case -> arguments of ``secateurs prune``, and a pattern of the error message."""


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_gets_one_line(
    run: Run, place: Path, broken: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    def fail(*given: object, **named: object) -> None:
        raise AssertionError("wrong input must be found before the model is timed or evaluated")

    for stage in ("measure_table", "_dense_score"):
        monkeypatch.setattr(f"secateurs.pipeline.run.{stage}", fail)
    line, pattern = BAD[case]
    recipes = {name: place / f"{name}.yaml" for name in ("recipe", "learned")}
    names = {**broken, **recipes, "nowhere": tmp_path / "nowhere"}
    arguments = line.format(**names).split()
    status, _, err = run("prune", *arguments, "--out", tmp_path / "out")
    messages = [text for text in err.splitlines() if text.startswith("secateurs: ")]
    assert status == 2, err
    assert len(messages) == 1, err
    assert "Traceback" not in err
    assert re.search(pattern, messages[0]), messages[0]
    assert not list((tmp_path / "out").glob("speedup-*")) if (tmp_path / "out").exists() else True


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"secateurs {__version__}\n", "")


@pytest.mark.parametrize("command", ["measure", "inspect"])
@pytest.mark.parametrize("name", ["./nope", "nope"])
def test_a_model_that_is_nowhere_is_said_to_be_missing(run: Run, command: str, name: str) -> None:
    status, _, err = run(command, name)
    assert status == 2
    assert re.search(r"model folder ./nope does not exist|nope: there is no such folder here, ", err), err


def test_inspect_lists_the_model_types(run: Run) -> None:
    status, text, _ = run("inspect", "--json")
    assert status == 0
    types = {name: family for family in json.loads(text) for name in family["types"]}
    assert sorted(types) == model_types()
    assert types["secateurs-adaptive-lm"]["file"] == "adaptive_lm"
    assert "gpt2" in types["gpt2"]["hidden"]
    status, text, _ = run("inspect")
    assert status == 0
    assert all(name in text for name in types)


def test_a_loss_of_nan_gets_one_line(run: Run, place: Path, tmp_path: Path) -> None:
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
    status, text, _ = run("report", out, "--json")
    assert status == 0
    [loaded] = json.loads(text)
    assert [Path(result["path"]).name for result in loaded["models"]] == ["speedup-1.60x"]
    status, text, _ = run("inspect", out / "speedup-1.60x", "--json")
    assert status == 0
    found = json.loads(text)
    assert found["measured"]
    assert {group["group"] for group in found["groups"]} >= {"layer.0.heads", "layer.1.intermediate"}
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
    status, text, _ = run(
        "measure", place / "model", "--batch-size", 2, "--sequence-length", 8, "--threads", 1, "--clock", "cpu",
        "--seconds", 1, "--json",
    )  # fmt: skip
    assert status == 0
    assert list(json.loads(text)["timings"]) == [str(place / "model")]
    status, text, _ = run("prune", "--config", place / "recipe.yaml", "--speedup", "1.6", "--out", out, "--resume")
    assert status == 0
    assert "1.60x" in text
    status, text, err = run("prune", "--resume", "--out", out, "--quiet")
    assert (status, text, err) == (0, "", "")


def test_a_dry_run_writes_nothing(run: Run, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, text, err = run("prune", "--config", place / "recipe.yaml", "--out", out, "--dry-run")
    assert status == 0, err
    assert "prune to 1.50x" in text
    assert "GB" in text
    assert not out.exists()


def test_a_dry_run_counts_the_samples_of_a_step(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ForwardPasses]] = []
    forward_passes = CoFi.forward_passes

    def spy(self: CoFi, structure: Structure, samples: int, rows: int, batch: int) -> ForwardPasses:
        seen.append((batch, forward_passes(self, structure, samples, rows, batch)))
        return seen[-1][1]

    monkeypatch.setattr(CoFi, "forward_passes", spy)
    for more in (("--train-batch-size", "4"), ("--accumulate", "3")):
        status, _, err = run("prune", "--config", place / "learned.yaml", "--dry-run", "--set", "steps=100", *more)
        assert status == 0, err
    (small_batch, few), (large_batch, many) = seen
    assert (small_batch, large_batch) == (4, 24)
    assert many.per_target - few.per_target == pytest.approx(4.5 * 100 * 20)


def test_measure_writes_a_latency_table(run: Run, place: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    status, _, err = run(
        "measure", place / "model", "--table", table,
        "--batch-size", 2, "--sequence-length", 8, "--threads", 1, "--clock", "cpu", "--seconds", 1, "--probe",
    )  # fmt: skip
    assert status == 0, err
    assert json.loads(table.read_text())["environment"]["batch_size"] == 2
