"""Times on this machine models that were pruned on another, by their shapes alone.

    python benchmarks/retime.py RECORD --json benchmarks/results/h100.json --runs 'cofi-*'
    python benchmarks/retime.py RECORD --json benchmarks/results/h100.json --runs 'word-*' --scoring --step-rows 16

Time depends on shapes and not on weights: each model is built with random weights from the config of its folder, and what
it is checked by is its number of parameters. RECORD is a folder of run folders, or, as they are easier to carry, a JSON
file: name of a run -> its ``report`` and, by folder, the ``configs`` of its models. All models of the chosen runs are timed
in turns with the dense one, one thread, processor time. ``--scoring`` gives labels, so that a language model with an
adaptive softmax scores text instead of the whole vocabulary. ``--step-rows`` times a whole training step too (forward,
backward, clipping, optimiser). What was timed before, of other runs, stays in the file.
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

import secateurs  # noqa: F401  knows how to build small models from their configs
from secateurs.environment import Environment, machine
from secateurs.provenance import commit, versions
from secateurs.stages.measure import compare
from secateurs.timings import HEADS


def build(config: dict[str, Any]) -> Any:
    """A model of this shape, with random weights."""
    head = config["architectures"][0]
    auto = next(auto for suffix, auto in HEADS.items() if head.endswith(suffix))
    torch.manual_seed(0)
    return getattr(transformers, auto).from_config(transformers.AutoConfig.for_model(**config)).eval()


def read(place: Path) -> dict[str, Any]:
    """A record, or what a folder of run folders says."""
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
    """``run/folder`` -> model of the chosen runs; and ``dense``."""
    models: dict[str, Any] = {}
    for name, run in record.items():
        if not fnmatch(name, pattern):
            continue
        told = {model["path"]: model for model in run["report"]["models"]}
        for folder, config in run["configs"].items():
            if "dense" not in models:
                models["dense"] = build({key: value for key, value in config.items() if key != "secateurs"})
                size = sum(parameter.numel() for parameter in models["dense"].parameters())
                assert size == told[folder]["dense_parameters"], f"the dense model of {name} has another shape"
            models[f"{name}/{folder}"] = build(config)
            size = sum(parameter.numel() for parameter in models[f"{name}/{folder}"].parameters())
            assert size == told[folder]["parameters"], f"{name}/{folder} was built with another shape"
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--runs", default="*", help="names of runs, with * for anything")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--sequence-length", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--scoring", action="store_true")
    parser.add_argument("--step-rows", type=int, default=0)
    parser.add_argument("--step-rounds", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    models = shapes(read(given.record), given.runs)
    if not models:
        parser.exit(2, f"{given.record} has no run like {given.runs}\n")
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
