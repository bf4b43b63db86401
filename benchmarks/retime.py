"""Times models on this machine that were pruned on another machine, using only their shapes.

    python benchmarks/retime.py RECORD --json benchmarks/results/h100.json --runs 'cofi-*'
    python benchmarks/retime.py RECORD --json benchmarks/results/h100.json --runs 'word-*' --scoring --step-rows 16

Time depends on shapes and not on weights. Each model is therefore built with random weights from the config of its folder,
and its number of parameters is checked. RECORD is a folder of run folders, or a JSON file, which is easier to transfer: run
name -> the ``report`` of the run and the ``configs`` of its models by folder. All models of the chosen runs are timed
interleaved with the dense model, with one thread and on the CPU clock. ``--scoring`` passes labels, so that a language model
with an adaptive softmax scores text instead of computing logits of the full vocabulary. ``--step-rows`` also times a training
step (forward, backward, clipping, optimiser). Earlier results of other runs stay in the JSON file of ``--json``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
import transformers
from flop_lm import training_steps

import secateurs  # noqa: F401  registers the hooks that build pruned models from their configs
from secateurs.checkpoint.saved_model import HEADS
from secateurs.latency.compare import compare
from secateurs.latency.environment import Environment, machine
from secateurs.pipeline.provenance import commit, versions


def build(config: dict[str, Any]) -> Any:
    """Build a model with random weights from a config."""
    head = config["architectures"][0]
    auto = next(auto for suffix, auto in HEADS.items() if head.endswith(suffix))
    torch.manual_seed(0)
    return getattr(transformers, auto).from_config(transformers.AutoConfig.for_model(**config)).eval()


def read(place: Path) -> dict[str, Any]:
    """Read a record from a JSON file or from a folder of run folders."""
    if place.is_file():
        return json.loads(place.read_text())
    record = {}
    for path in sorted(place.glob("*/report.json")):
        report = json.loads(path.read_text())
        folders = [model["path"] for model in report["models"]]
        configs = {folder: json.loads((path.parent / folder / "config.json").read_text()) for folder in folders}
        record[path.parent.name] = {"report": report, "configs": configs}
    return record


def shapes(record: dict[str, Any], pattern: str) -> dict[str, Any]:
    """Build the models of the chosen runs.

    Args:
        record: run name -> report and configs.
        pattern: pattern of the run names, with ``*`` for any characters.

    Returns:
        ``dense`` -> dense model, and ``RUN/FOLDER`` -> pruned model.
    """
    models: dict[str, Any] = {}
    for name, run in record.items():
        if not fnmatch(name, pattern):
            continue
        reported = {model["path"]: model for model in run["report"]["models"]}
        for folder, config in run["configs"].items():
            if "dense" not in models:
                models["dense"] = build({key: value for key, value in config.items() if key != "secateurs"})
                size = sum(parameter.numel() for parameter in models["dense"].parameters())
                assert size == reported[folder]["dense_parameters"], f"the dense model of {name} has another shape"
            models[f"{name}/{folder}"] = build(config)
            size = sum(parameter.numel() for parameter in models[f"{name}/{folder}"].parameters())
            assert size == reported[folder]["parameters"], f"{name}/{folder} was built with another shape"
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="folder of run folders, or JSON file")
    parser.add_argument("--json", type=Path, required=True, help="file for the results")
    parser.add_argument("--runs", default="*", help="pattern of run names, with * for any characters")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--sequence-length", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--scoring", action="store_true", help="pass labels to the models")
    parser.add_argument(
        "--step-rows", type=int, default=0, help="sequences per training step; 0 times no training step"
    )
    parser.add_argument("--step-rounds", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    models = shapes(read(given.record), given.runs)
    if not models:
        parser.exit(2, f"{given.record} has no run whose name matches {given.runs}\n")
    environment = Environment(
        batch_size=given.batch_size, sequence_length=given.sequence_length, threads=1, clock="cpu"
    )
    batch = None
    if given.scoring:
        words = models["dense"].config.vocab_size
        ids = torch.randint(
            words, (given.batch_size, given.sequence_length), generator=torch.Generator().manual_seed(0)
        )
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids, "use_cache": False}
    measured = compare(models, environment, seconds=given.seconds, batch=batch)
    steps = training_steps(models, given.step_rows, given.sequence_length, given.step_rounds) if given.step_rows else {}
    out = json.loads(given.json.read_text()) if given.json.is_file() else {}
    common = {
        "environment": environment.to_dict(),
        "scoring": given.scoring,
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    for name, speed in measured.speedups.items():
        timing = measured.timings[name]
        out[name] = {"speedup": asdict(speed), "latency_ms": timing.latency_ms, **common}
        if name in steps:
            out[name]["training_step"] = steps[name]
        step = f"  training step {steps[name]['ratio']:.2f}x" if name in steps else ""
        print(
            f"{name:<44} {speed.median:6.2f}x ({speed.low:.2f} to {speed.high:.2f})  {timing.latency_ms:.1f} ms{step}"
        )
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
