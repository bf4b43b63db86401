"""Does a change leave every method's results alone? Masks and weights of tiny runs, as hashes, to be compared.

    PYTHONPATH=tests python benchmarks/fingerprint.py OUT.json              # on one commit
    PYTHONPATH=tests python benchmarks/fingerprint.py NEW.json --with OUT.json   # on another, same machine

Every run has a fixed seed, one thread and a latency table of no machine, so that two runs of one commit agree bit for bit.
Across machines they need not: matrix products differ in their last digits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.utils.logging import disable_progress_bar

import tiny_run
from secateurs import run
from secateurs.latency import fresh_processes, timing_process

QUICK = {"train_batch_size": 8}
LOSS = {"sparsity": (0.5,), "speedup": ()}
STEPS = {"steps": 100, "finetuning_steps": 4}
RANKS = {"steps": 60, "finetuning_steps": 4}
SEARCH = {"search_samples": 16, "probes": 3, "rounds": 1, "steps": 3}

RUNS: dict[str, dict[str, Any]] = {
    "ziplm": {"method": "ziplm"},
    "ziplm, recovered": {"method": "ziplm", "recover_epochs": 1.0, **QUICK},
    "ziplm, paper": {"method": "ziplm", "preset": "paper", "hyperparameters": {"inits": 3, "steps": 5}},
    "ziplm, dense inputs": {"method": "ziplm", "hyperparameters": {**SEARCH, "inputs": "dense"}},
    "ziplm, no drift": {"method": "ziplm", "hyperparameters": {**SEARCH, "drift_damping": None, "weigh": "even"}},
    "ziplm, gpt2": {"method": "ziplm", "model_type": "gpt2", "task": "causal-lm"},
    "ziplm, llama": {"method": "ziplm", "model_type": "llama", "task": "causal-lm"},
    "ziplm, distilbert": {"method": "ziplm", "model_type": "distilbert"},
    "ziplm, finalists": {
        "method": "ziplm", "rows": 3000, "calibration_samples": 1792, "speedup": (2.0,),
        "hyperparameters": {**SEARCH, "finalists": 3},
    },
    "ziplm, rank": {"method": "ziplm", "own_table": True, "hyperparameters": {**SEARCH, "allow": "rank"}},
    "uniform": {"method": "uniform", "hyperparameters": {}},
    "magnitude": {"method": "magnitude", "hyperparameters": {}},
    "random": {"method": "random_units", "hyperparameters": {}},
    "cofi, speed-up": {"method": "cofi", "preset": "quick", "speedup": (1.5,), "hyperparameters": STEPS, **QUICK},
    "cofi, sparsity": {"method": "cofi", "preset": "quick", "hyperparameters": STEPS, **QUICK, **LOSS},
    "cofi, hidden": {
        "method": "cofi", "preset": "quick", "hyperparameters": {**STEPS, "hidden": True}, **QUICK, **LOSS
    },
    "cofi, paper": {
        "method": "cofi", "preset": "paper-small", **QUICK, **LOSS,
        "hyperparameters": {**STEPS, "gate_rate": 0.2, "prepruning": 1.0},
    },
    "cofi, from ziplm": {
        "method": "cofi", "preset": "quick", **QUICK, **LOSS,
        "hyperparameters": {**STEPS, "masks": "ziplm", "finetuning_by": "twins"},
    },
    "flop, sparsity": {"method": "flop", "preset": "quick", "hyperparameters": RANKS, **QUICK, **LOSS},
    "flop, speed-up": {
        "method": "flop", "preset": "quick", "own_table": True, "speedup": (1.3,), "hyperparameters": RANKS, **QUICK
    },
    "flop, labels": {
        "method": "flop", "preset": "quick", **QUICK, **LOSS,
        "hyperparameters": {**RANKS, "teach": "labels", "keep": "expected", "schedule": "noam", "ascent": "adam"},
    },
    "flop, rewound": {
        "method": "flop", "preset": "quick", "hyperparameters": {**RANKS, "rewind": True}, **QUICK, **LOSS
    },
    "flop, scratch": {
        "method": "flop", "preset": "quick", **QUICK, **LOSS,
        "hyperparameters": {**RANKS, "init": "scratch", "prepruning": 1.0},
    },
    "np": {"method": "neuron_pruning", "preset": "quick", "hyperparameters": RANKS, **QUICK, **LOSS},
    "np, rewound": {
        "method": "neuron_pruning", "preset": "quick", "hyperparameters": {**RANKS, "rewind": True}, **QUICK, **LOSS
    },
    "agp": {"method": "agp", "hyperparameters": {"steps": 20, "finetuning_steps": 4}, **QUICK, **LOSS},
    "agp, speed-up": {
        "method": "agp", "own_table": True, "speedup": (1.3,), "hyperparameters": {"steps": 20}, **QUICK
    },
    "agp-unstructured": {"method": "agp-unstructured", "hyperparameters": {"steps": 20}, **QUICK, **LOSS},
    "fac": {"method": "fac", "hyperparameters": {"steps": 10}, **QUICK, **LOSS},
    "fac, scratch": {"method": "fac", "hyperparameters": {"steps": 10, "init": "scratch"}, **QUICK, **LOSS},
    "cofi, two targets": {
        "method": "cofi", "preset": "quick", "hyperparameters": STEPS, **QUICK, "sparsity": (0.4, 0.7), "speedup": (),
    },
    "flop, two targets": {
        "method": "flop", "preset": "quick", "hyperparameters": RANKS, **QUICK, "sparsity": (0.4, 0.7), "speedup": (),
    },
    "agp, two targets": {
        "method": "agp", "hyperparameters": {"steps": 20}, **QUICK, "sparsity": (0.4, 0.7), "speedup": (),
    },
    "agp-unstructured, two targets": {
        "method": "agp-unstructured", "hyperparameters": {"steps": 20}, **QUICK, "sparsity": (0.4, 0.7), "speedup": (),
    },
    "fac, two targets": {
        "method": "fac", "hyperparameters": {"steps": 10}, **QUICK, "sparsity": (0.4, 0.7), "speedup": (),
    },
    "cofi, llama": {
        "method": "cofi", "preset": "quick", "hyperparameters": STEPS, **QUICK, **LOSS,
        "model_type": "llama", "task": "causal-lm",
    },
    "flop, gpt2": {
        "method": "flop", "preset": "quick", "hyperparameters": RANKS, **QUICK, **LOSS,
        "model_type": "gpt2", "task": "causal-lm",
    },
}  # fmt: skip


def fingerprint(how: dict[str, Any], folder: Path) -> dict[str, str]:
    """File of a run -> hash of the tensors in it."""
    how = dict(how)
    rows, own_table = how.pop("rows", None), how.pop("own_table", False)
    if own_table:
        how.setdefault("speedup", (1.3,))
    recipe = tiny_run.recipe(folder, seed=3, **how)
    if rows:
        tiny_run.rows(folder / "data", rows)
    if own_table or how.get("sparsity"):
        recipe = tiny_run.own_table(recipe, folder / "own.json")
    run(recipe, folder / "out")
    found = {}
    for path in sorted((folder / "out").glob("s*-*/*.safetensors")):
        digest = hashlib.sha256()
        for key, value in sorted(load_file(path).items()):
            digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.flatten().contiguous().view(torch.uint8).numpy().tobytes())
        found[str(path.relative_to(folder / "out"))] = digest.hexdigest()[:24]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--with", dest="other", type=Path)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    disable_progress_bar()
    # How fast these models run says nothing: no process is started, and few rounds are timed.
    fresh_processes.run_process, fresh_processes.SECONDS = timing_process.answer, 0.05
    other = json.loads(given.other.read_text()) if given.other else {}
    found, wrong = {}, 0
    for name, how in RUNS.items():
        if given.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                found[name] = fingerprint(how, Path(folder))
            except Exception as error:
                found[name] = {"error": f"{type(error).__name__}: {error}"}
        same = "" if name not in other else "  equal" if other[name] == found[name] else "  DIFFERENT"
        wrong += same == "  DIFFERENT"
        print(f"{name}: {found[name]}{same}", flush=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
