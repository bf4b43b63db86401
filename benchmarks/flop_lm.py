"""Compares FLOP with its baselines on one language model, at equal numbers of parameters and of training steps.

    python benchmarks/flop_lm.py MODEL --data DATA --out runs/word --json benchmarks/results/flop_word.json \
        --steps 2000 --seed 0 --seed 1 -- --batch-size 16 --sequence-length 64 --threads 1 --clock cpu

Each method and seed is one run of `secateurs prune` with all targets (``runs/word/<method>-<seed>``). The same call again,
possibly with more methods or seeds, resumes what is not finished. Options after ``--`` are passed to `secateurs prune`, for
every method. ``fac-scratch`` is ``fac`` from random weights: a smaller model of the same kind, trained from scratch.

Per model the record has the score on held-out text, parameters, zeros, the measured inference speed-up, the minutes of the
run, and the training speed-up: the time of a step (forward, backward, clipping, optimiser) of the dense model / that of the
pruned model, in turns in one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from cofi_step import stepper
from methods import portable

import secateurs
from secateurs.latency.environment import machine
from secateurs.pipeline.provenance import commit, versions
from secateurs.pipeline.recipe import Recipe
from secateurs.tasks import task
from secateurs.training.objective import Objective

RANKS = ("flop", "agp", "fac", "fac-scratch")
METHODS = ("flop", "agp", "agp-unstructured", "fac")
EVERY = {"freeze_embeddings": "false"}
OWN = {
    "flop": {"init": "svd", "teach": "labels", "finetuning": "0"},
    "agp": {},
    "agp-unstructured": {},
    "fac": {},
    "fac-scratch": {"init": "scratch"},
}


class NextToken(Objective):
    """The loss of the language model, to time a step.

    Args:
        model: the language model.
    """

    name = "timing"

    def __init__(self, model: Any) -> None:
        self.task, self.model = task("causal_lm"), model

    def loss(self, model: Any, inputs: dict[str, torch.Tensor], step: int) -> torch.Tensor:
        """See ``Objective.loss``."""
        return self.task.loss(model(**self.task.inputs_for_loss(self.model, inputs)), inputs)


def training_steps(models: dict[str, Any], rows: int, tokens: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Time a training step of each model, in turns.

    Args:
        models: name -> model; one is called ``dense``.
        rows: sequences per step.
        tokens: tokens per sequence.
        rounds: number of timed steps.

    Returns:
        Name -> median speed-up relative to ``dense`` with its quartiles, and median processor seconds.
    """
    ids = torch.randint(models["dense"].config.vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    steps = {name: stepper(model, NextToken(model), inputs) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            begun = time.process_time()
            step()
            if turn:  # the first step allocates memory
                seconds[name].append(time.process_time() - begun)
    found = {}
    for name, own in seconds.items():
        ratios = [dense / mine for dense, mine in zip(seconds["dense"], own, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        found[name] = {"ratio": middle, "quartiles": [low, high], "seconds": statistics.median(own)}
    return found


def training_speedup(dense: str, pruned: Path, batch: int, length: int, rounds: int) -> dict[str, Any]:
    """Time a training step of the pruned model in a folder against one of the dense model; see ``training_steps``."""
    models = {"dense": secateurs.load(dense), "pruned": secateurs.load(pruned)}
    steps = training_steps(models, batch, length, rounds)
    speedup = {"ratio": steps["pruned"]["ratio"], "quartiles": steps["pruned"]["quartiles"]}
    seconds = {f"{name}_seconds": step["seconds"] for name, step in steps.items()}
    return {**speedup, **seconds, "rows": batch, "tokens": length}


def prune(given: argparse.Namespace, options: list[str], method: str, seed: int) -> dict[str, Any]:
    """Do or resume one run, and return its report.

    Args:
        given: options of this script.
        options: options that are passed on.
        method: name of the method.
        seed: seed of the run.
    """
    folder = given.out / f"{method}-{seed}"
    command = [sys.executable, "-m", "secateurs.cli", "prune", given.model, "--task", "causal-lm", "--data", given.data]
    command += ["--out", str(folder), "--seed", str(seed), "-v", "--method", method.removesuffix("-scratch"), *options]
    for sparsity in given.sparsity:
        command += ["--sparsity", str(sparsity)]
    values = {**EVERY, **OWN[method], "steps": str(given.steps), "rate": str(given.rate)}
    for entry in given.set:
        name, _, assignment = entry.partition(":")
        if name == method:
            values |= [assignment.split("=", 1)]
    for name, value in values.items():
        command += ["--set", f"{name}={value}"]
    shared = given.out / ("latency.json" if method in RANKS else "latency-whole.json")
    if (folder / "recipe.yaml").is_file():
        command += ["--resume"]
        if Recipe.load(folder / "recipe.yaml").latency_table:
            command += ["--latency-table", str(shared)]
    elif shared.is_file():
        command += ["--latency-table", str(shared)]
    subprocess.run(command, check=True)
    if not shared.is_file():
        # The first run measures the table, and other methods with the same groups use it.
        shared.write_bytes((folder / "latency.json").read_bytes())
    return json.loads((folder / "report.json").read_text())


def row(given: argparse.Namespace, method: str, seed: int, model: dict[str, Any]) -> dict[str, Any]:
    """The record of one model. Its training step is timed once, and the result is kept in the run folder."""
    folder = given.out / f"{method}-{seed}"
    timed = folder / f"step-{Path(model['path']).name}.json"
    if not timed.is_file():
        timing = training_speedup(given.model, folder / model["path"], given.step_rows, given.step_tokens, given.rounds)
        timed.write_text(json.dumps(timing))
    kept = ("target", "parameters", "dense_parameters", "sparsity", "zeros", "metric", "measured_speedup", "met")
    return {
        "method": method,
        "seed": seed,
        **{name: model[name] for name in kept},
        "training_speedup": json.loads(timed.read_text()),
        "minutes": sum(model["seconds"].values()) / 60,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True, help="training steps, for every method")
    parser.add_argument("--rate", type=float, default=3e-4, help="peak learning rate of the weights, for every method")
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--sparsity", type=float, action="append")
    parser.add_argument("--method", choices=OWN, action="append")
    parser.add_argument("--set", action="append", default=[], help="METHOD:name=value: a hyperparameter of one method")
    parser.add_argument("--rounds", type=int, default=10, help="number of timed training steps")
    parser.add_argument("--step-rows", type=int, default=16, help="sequences per timed training step")
    parser.add_argument("--step-tokens", type=int, default=64, help="tokens per sequence of a timed training step")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    given = parser.parse_args(sys.argv[1:split])
    given.sparsity = given.sparsity or [0.7, 0.8, 0.9]
    options = sys.argv[split + 1 :]
    if "--threads" in options:
        torch.set_num_threads(int(options[options.index("--threads") + 1]))
    runs, rows = [], []
    for seed in given.seed or [0]:
        for method in given.method or METHODS:
            report = prune(given, options, method, seed)
            runs.append({"method": method, "seed": seed, "report": portable(report)})
            rows += [row(given, method, seed, model) for model in report["models"]]
            record = {
                "model": Path(given.model).name,
                "data": runs[0]["report"]["data"],
                "steps": given.steps,
                "rate": given.rate,
                "rows": rows,
                "threads": torch.get_num_threads(),
                "clock of training steps": "processor time",
                "machine": machine(),
                "versions": versions(),
                "commit": commit(),
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "runs": runs,
            }
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.write_text(json.dumps(record, indent=1) + "\n")
    for one in rows:
        metric = one["metric"]
        print(
            f"{one['method']:<17} seed {one['seed']}  {100 * one['target']:.0f} %  {metric['name']} {metric['value']:.4f} "
            f"(dense {metric['dense']:.4f})  {one['parameters']:,} parameters  {one['measured_speedup']['median']:.2f}x "
            f"inference  {one['training_speedup']['ratio']:.2f}x training"
        )


if __name__ == "__main__":
    main()
