"""Factors of what matrices do to text against factors of the matrices alone, before any training, rank by rank.

    python benchmarks/factorize.py MODEL --task text-classification --data DATA --json benchmarks/results/factorize.json
    python benchmarks/factorize.py MODEL --task text-classification --data DATA --json /tmp/f.json --quick

Every matrix of attention and feed-forward blocks keeps the same part of its components, the strongest; nothing is
trained or refitted. ``aware`` has seen the calibration texts. Both are judged on texts neither has seen: by the relative
squared error of the outputs, ``||(W - P Q) X||^2 / ||W X||^2`` (mean over matrices, each on the dense model's inputs), by
the divergence from the dense model's answers, and by the metric.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateurs.environment import machine
from secateurs.factorize import pairs, refit
from secateurs.job import Job
from secateurs.loading import Loaded, load
from secateurs.mask import Mask
from secateurs.methods._rank_learning import input_moments
from secateurs.provenance import commit, versions
from secateurs.recipe import Recipe
from secateurs.shrink import shrink
from secateurs.stages.evaluate import divergence, signals
from secateurs.workload import twin

FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0)


def output_error(model: Any, kept: Mask, moments: dict[str, Tensor], names: dict[str, str]) -> float:
    """Mean over matrices of the relative squared error of what they put out, if only these components are kept."""
    errors = []
    for path, pair in pairs(model).items():
        first, second = pair.first.weight.double(), pair.second.weight.double()
        gone = ~kept[names[path]]
        lost, whole = second[:, gone] @ first[gone], second @ first
        gram = moments[path]
        errors.append(float(((lost @ gram) * lost).sum() / ((whole @ gram) * whole).sum()))
    return sum(errors) / len(errors)


def judged(loaded: Loaded, fraction: float, moments: dict[str, Tensor], wanted: list[Tensor]) -> dict[str, float]:
    """One row: all matrices at one part of their components."""
    structure, device = loaded.structure, loaded.recipe.device
    units = {group.name: torch.arange(max(1, round(fraction * group.size))) for group in structure}
    mask = Mask.from_units(structure, units)
    names = {group.product: group.name for group in structure}
    with torch.no_grad():
        error = output_error(loaded.model, mask, moments, names)
    small = shrink(twin(loaded.model), structure, mask)
    score = loaded.task.evaluate(small, loaded.data.evaluation, device)
    apart = divergence(small, loaded.task, loaded.data.evaluation, wanted, device)
    return {"output_error": error, "divergence": apart, score.name: score.value}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--task", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=1024, help="calibration texts")
    parser.add_argument("--sequence-length", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few texts and ranks")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    recipe = Recipe(
        model=given.model,
        task=given.task,
        data=given.data,
        method="flop",
        hyperparameters={"init": "svd"},
        sparsity=(0.5,),  # none is pruned to; a recipe has one
        sequence_length=given.sequence_length,
        calibration_samples=64 if given.quick else given.samples,
        evaluation_samples=64 if given.quick else None,
        seed=given.seed,
    )
    loaded = load(recipe)
    job = Job(loaded.model, loaded.structure, loaded.data.calibration, loaded.task, Path(), recipe.seed)
    seen, unseen = input_moments(job, "all"), input_moments(replace(job, batches=loaded.data.evaluation), "all")
    wanted = signals(loaded.dense, loaded.task, loaded.data.evaluation, recipe.device)
    dense = loaded.task.evaluate(loaded.dense, loaded.data.evaluation, recipe.device)
    fractions = FRACTIONS[2::2] if given.quick else FRACTIONS
    rows: dict[str, list[dict[str, float]]] = {}
    for init in ("svd", "aware"):
        if init == "aware":
            refit(loaded.model, seen)
        rows[init] = [{"part": fraction, **judged(loaded, fraction, unseen, wanted)} for fraction in fractions]
    record = {
        "model": Path(given.model).name,
        "data": loaded.data.description.replace(given.data, Path(given.data).name),
        dense.name: dense.value,
        "divergence_name": loaded.task.divergence_name,
        **rows,
        "seed": given.seed,
        "threads": given.threads,
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(record, indent=1) + "\n")
    for plain, aware in zip(rows["svd"], rows["aware"], strict=True):
        print(
            f"{plain['part']:.4f} of the components: output error {plain['output_error']:.4f} -> "
            f"{aware['output_error']:.4f}, {loaded.task.divergence_name} {plain['divergence']:.4f} -> "
            f"{aware['divergence']:.4f}, {dense.name} {plain[dense.name]:.4f} -> {aware[dense.name]:.4f}"
        )


if __name__ == "__main__":
    main()
