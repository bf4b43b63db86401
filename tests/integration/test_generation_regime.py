"""``secateurs prune`` and ``secateurs measure`` in the regime generation, from the options to the card."""

from __future__ import annotations

import functools
import json
import random
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny_run
from secateurs import cli
from secateurs.latency import compare, profile
from secateurs.latency.environment import Environment, lengths
from secateurs.latency.table import LatencyTable
from secateurs.pipeline import estimates
from secateurs.pipeline import run as pipeline
from secateurs.pipeline.recipe import Recipe
from secateurs.report.report import Report
from tiny import WORDS, write_rows
from work_clock import work_clock

OPTIONS = ("--regime", "generation", "--prompt-length", 6, "--new-tokens", 5, "--batch-size", 2, "--threads", 1)
TOKENS = 6 + 5


def secateurs(*arguments: object) -> int:
    """Exit status of ``secateurs ARGUMENTS`` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["secateurs", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a decoder with grouped attention, an encoder, and running text."""
    folder = tmp_path_factory.mktemp("generation")
    tiny_run.model_folder(folder / "llama", "llama")
    tiny_run.model_folder(folder / "bert")
    chance = random.Random(0)
    for split, number in (("train", 200), ("validation", 60)):
        texts = [" ".join(chance.choices(WORDS, k=12)) for _ in range(number)]
        write_rows(folder / "data" / f"{split}.parquet", text=texts)
    return folder


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """The folder of a run whose table, steering and confirmation count work in place of time."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (compare, profile):
            patch.setattr(module, "timer_for", lambda environment: work_clock)
        patch.setattr(pipeline, "measure_table", functools.partial(profile.measure_table, seconds=0.0, rounds=(1, 1)))
        status = secateurs(
            "prune", place / "llama", "--task", "causal-lm", "--data", place / "data", "--speedup", 1.5, *OPTIONS,
            "--sequence-length", 16, "--calibration-samples", 16, "--set", "search_samples=16", "--timing-processes", 3,
            "--out", place / "out", "--quiet",
        )  # fmt: skip
    assert status == 0
    return place / "out"


def bytes_by_shapes(folder: Path) -> int:
    model = AutoModelForCausalLM.from_pretrained(folder)
    names = ("k_proj.weight", "v_proj.weight")
    rows = sum(parameter.shape[0] for name, parameter in model.named_parameters() if name.endswith(names))
    return 2 * TOKENS * rows * 4


def test_the_contract_holds_in_generation(finished: Path, place: Path) -> None:
    report = Report.load(finished)
    [model] = report.models
    made = model.generation
    assert model.met and made is not None
    assert model.measured_speedup is not None and model.latency_ms is not None and model.predicted_speedup is not None
    assert model.measured_speedup.low >= 0.99 * 1.5
    assert model.measured_speedup.median == pytest.approx(model.predicted_speedup, rel=0.1)
    assert model.latency_ms == pytest.approx(made.first_token_ms + 5 * made.per_token_ms)
    assert model.dense_latency_ms == pytest.approx(made.dense_first_token_ms + 5 * made.dense_per_token_ms)
    assert made.cache_bytes == bytes_by_shapes(finished / model.path) < made.dense_cache_bytes
    assert made.dense_cache_bytes == bytes_by_shapes(place / "llama")
    assert report.environment["regime"] == "generation"
    assert made.output_head_share is not None and 0 < made.output_head_share < 1
    assert LatencyTable.load(finished / "latency.json").parts.keys() == {"first_token", "per_token"}


def test_page_card_and_config_say_what_was_timed(finished: Path) -> None:
    [model] = Report.load(finished).models
    page, card = (finished / "report.html").read_text(), (finished / model.path / "README.md").read_text()
    for text in (page, card):
        for words in ("time to first token", "time per token", "key-value cache", "The output head takes"):
            assert words in text
    assert "A generation (a prompt of 6 tokens, then 5 steps) of the dense model takes" in page
    assert "It is the sum of two tables" in page
    assert "regime generation, prompt length 6, new tokens 5" in card
    measured = json.loads((finished / model.path / "config.json").read_text())["secateurs"]["measured"]
    assert model.generation is not None
    assert measured["generation"]["cache_bytes"] == model.generation.cache_bytes


def test_a_dry_run_times_a_generation_with_everything_removed(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "SPEEDUP_SECONDS", 0.0)
    status = secateurs(
        "prune", place / "llama", "--task", "causal-lm", "--data", place / "data", "--speedup", 1.1, *OPTIONS,
        "--sequence-length", 16, "--calibration-samples", 16, "--set", "search_samples=16", "--dry-run",
    )  # fmt: skip
    told = " ".join(capsys.readouterr().out.split())
    assert status == 0
    assert "The largest speed-up is about" in told


def test_the_model_generates(finished: Path) -> None:
    [result] = Report.load(finished).models
    model = AutoModelForCausalLM.from_pretrained(finished / result.path)
    prompt = torch.tensor([[5, 6, 7]])
    tokens = model.generate(prompt, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert tokens.shape == (1, 7)


def test_models_and_tables_are_measured(
    finished: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [result] = Report.load(finished).models
    short = ("--seconds", 0, "--processes", 1)
    capsys.readouterr()
    assert secateurs("measure", place / "llama", finished / result.path, *OPTIONS, *short, "--json") == 0
    timings = json.loads(capsys.readouterr().out)["timings"]
    assert result.generation is not None
    assert [timing["generation"]["cache_bytes"] for timing in timings.values()] == [
        result.generation.dense_cache_bytes,
        result.generation.cache_bytes,
    ]
    assert secateurs("measure", place / "llama", *OPTIONS, *short, "--table", tmp_path / "table.json") == 0
    printed = capsys.readouterr().out
    assert "per token: " in printed and "output head" in printed
    environment = LatencyTable.load(tmp_path / "table.json").environment
    assert environment == Environment(batch_size=2, threads=1, **lengths("generation", 128, 6, 5))


def test_a_table_of_another_regime_is_refused(
    finished: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("prune", place / "llama", "--task", "causal-lm", "--data", place / "data", "--speedup", 1.5)
    given = ("--latency-table", finished / "latency.json", "--out", tmp_path / "out", "--threads", 1, "--batch-size", 2)
    assert secateurs(*common, *given) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "give its environment with --regime generation --prompt-length 6 --new-tokens 5" in told


@pytest.mark.parametrize("command", ["prune", "measure"])
def test_encoders_are_refused_in_one_line(
    place: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more: tuple[object, ...] = ("--processes", 1)
    if command == "prune":
        more = ("--task", "text-classification", "--data", place / "data", "--speedup", 2, "--out", tmp_path / "out")
    assert secateurs(command, place / "bert", *OPTIONS, *more) == 2
    told = " ".join(capsys.readouterr().err.split())
    expected = {
        "prune": "the regime generation times decoders, whose task is causal-lm, not text-classification",
        "measure": "BertForSequenceClassification does not generate: the regime generation needs a decoder",
    }
    assert expected[command] in told
    assert not (tmp_path / "out").exists()


def test_recipes_without_a_regime_are_of_throughput(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{model: m, task: causal-lm, data: d, speedup: 2, sequence_length: 64}")
    old = Recipe.load(tmp_path / "recipe.yaml").environment
    assert (old.regime, old.sequence_length, old.prompt_length, old.new_tokens) == ("throughput", 64, 0, 0)
    new = Recipe.load(tmp_path / "recipe.yaml", regime="generation", prompt_length=10, new_tokens=20).environment
    assert (new.sequence_length, new.prompt_length, new.new_tokens) == (30, 10, 20)
