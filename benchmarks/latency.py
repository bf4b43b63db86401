"""Measures how well a latency table predicts the speed-up of random pruned models.

    python benchmarks/latency.py MODEL --clock cpu --threads 1 --json benchmarks/results/latency-cpu.json

The script measures the table of a sequence classifier or language model. It then builds random pruned models and times them
interleaved with the dense model. MODEL is the folder or the hub name of a Hugging Face model.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from secateurs.errors import SecateursError
from secateurs.latency.environment import Environment, machine
from secateurs.latency.interleave import NOISE_LIMIT
from secateurs.latency.predict import prediction_error
from secateurs.latency.profile import measure_table
from secateurs.pipeline.provenance import commit, versions
from secateurs.structure.families import discover


def load(path: str) -> Any:
    """Load a model in float32 with the head that its config names."""
    names = " ".join(AutoConfig.from_pretrained(path).architectures or [])
    if "SequenceClassification" in names:
        auto = AutoModelForSequenceClassification
    else:
        auto = AutoModelForCausalLM if "LMHead" in names or "CausalLM" in names else AutoModel
    return auto.from_pretrained(path, dtype=torch.float32).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--json", type=Path, help="file for the record of the results")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--sequence-length", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="cpu")
    parser.add_argument("--configs", type=int, default=10, help="number of random pruned models")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table-seconds", type=float, default=20.0)
    parser.add_argument("--prediction-seconds", type=float, default=60.0)
    parser.add_argument("--quick", action="store_true", help="measure the table in a quarter of the time")
    parser.add_argument("--probe", action="store_true", help="measure the width multiple instead of using the default")
    options = parser.parse_args()
    logging.basicConfig(format="%(levelname)s %(message)s")

    environment = Environment(
        options.device,
        options.dtype,
        options.batch_size,
        options.sequence_length,
        options.threads,
        clock=options.clock,
    )
    model = load(options.model)
    structure = discover(model)
    start = time.perf_counter()
    try:
        table = measure_table(
            model,
            structure,
            environment,
            seed=options.seed,
            seconds=options.table_seconds,
            quick=options.quick,
            probe=options.probe,
        )
        table_seconds = time.perf_counter() - start
        result = prediction_error(
            model,
            structure,
            table,
            configs=options.configs,
            seed=options.seed + 1,
            seconds=options.prediction_seconds,
        )
    except SecateursError as error:
        parser.exit(2, f"{error}\n")

    print(f"{Path(options.model).name} on {environment}, {machine()['processor']}")
    print(f"table in {table_seconds:.0f} s: dense {table.dense_ms:.1f} ms, overhead {table.overhead_ms:.1f} ms")
    for name, curve in table.curves.items():
        points = "  ".join(f"{units}: {ms:.2f}" for units, ms in zip(curve.units, curve.ms, strict=True))
        print(f"  {name} (multiple {curve.multiple}): {points} ms")
    for row in result["configs"]:
        low, high = row["interval"]
        print(
            f"  predicted {row['predicted']:6.2f}x  measured {row['measured']:6.2f}x ({low:.2f} to {high:.2f})  "
            f"error {100 * row['error']:+.1f} %"
        )
    print(f"mean error {100 * result['mean_error']:.1f} %, max {100 * result['max_error']:.1f} %")
    noise = max(table.noise, result["noise"])
    if noise > NOISE_LIMIT:
        print(f"the timings are noisy: {100 * noise:.0f} %")
    if options.json:
        record = {
            "benchmark": "latency",
            "model": Path(options.model).name,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "versions": versions(),
            "seed": options.seed,
            "table_seconds": table_seconds,
            "load_average": list(os.getloadavg()),
            "table": table.to_dict(),
            "prediction": result,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
