"""Compares two ways to factorise matrices, before any training: for the calibration texts, and for the matrix alone.

    python benchmarks/factorize.py MODEL --task text-classification --data DATA --json benchmarks/results/factorize.json
    python benchmarks/factorize.py MODEL --task text-classification --data DATA --json /tmp/f.json --quick

Every matrix of attention and feed-forward blocks keeps the same fraction of its components, the strongest ones. ``aware``
approximates ``W X`` for the inputs ``X`` of the calibration texts, ``svd`` approximates ``W``. Nothing is trained. Both are
evaluated on other texts, by three numbers: the relative squared error of the outputs, ``||(W - P Q) X||^2 / ||W X||^2`` (the
mean over matrices, each on the inputs that it has in the dense model), the divergence from the outputs of the dense model,
and the metric of the task.
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

from secateurs.context import PruneContext
from secateurs.latency.environment import machine
from secateurs.methods.flop.steps import pair_input_moments
from secateurs.pipeline.load import Loaded, load
from secateurs.pipeline.provenance import commit, versions
from secateurs.pipeline.recipe import Recipe
from secateurs.structure.mask import Mask
from secateurs.surgery.factorize import pairs, refit
from secateurs.surgery.shared_copy import shared_copy
from secateurs.surgery.shrink import shrink
from secateurs.training.evaluate import divergence, record_outputs

FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0)


def output_error(model: Any, kept: Mask, moments: dict[str, Tensor], names: dict[str, str]) -> float:
    """Relative squared error of the outputs of the matrices at their kept components; the mean over matrices.

    Args:
        model: a model whose matrices are pairs of factors.
        kept: the kept components.
        moments: path of a pair -> second moments of its input.
        names: path of a pair -> name of its group.
    """
    errors = []
    for path, pair in pairs(model).items():
        first, second = pair.first.weight.double(), pair.second.weight.double()
        removed = ~kept[names[path]]
        lost, matrix = second[:, removed] @ first[removed], second @ first
        gram = moments[path]
        errors.append(float(((lost @ gram) * lost).sum() / ((matrix @ gram) * matrix).sum()))
    return sum(errors) / len(errors)


def evaluated(loaded: Loaded, fraction: float, moments: dict[str, Tensor], outputs: list[Tensor]) -> dict[str, float]:
    """The three numbers of the model with all matrices at one fraction of their components.

    Args:
        loaded: model and data.
        fraction: fraction of the components that every matrix keeps.
        moments: path of a pair -> second moments of its input on the evaluation texts.
        outputs: outputs of the dense model on the evaluation texts.
    """
    structure, device = loaded.structure, loaded.recipe.device
    units = {group.name: torch.arange(max(1, round(fraction * group.size))) for group in structure}
    mask = Mask.from_units(structure, units)
    names = {group.product: group.name for group in structure}
    with torch.no_grad():
        error = output_error(loaded.model, mask, moments, names)
    small: Any = shrink(shared_copy(loaded.model), structure, mask)
    texts: Any = loaded.data.evaluation
    score = loaded.task.evaluate(small, texts, device)
    apart = divergence(small, loaded.task, texts, outputs, device)
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
    parser.add_argument("--quick", action="store_true", help="a smoke test with few texts and ranks")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    recipe = Recipe.of(
        {
            "model": given.model,
            "task": given.task,
            "data": given.data,
            "method": "flop",
            "hyperparameters": {"init": "aware"},
            "sparsity": 0.5,  # every recipe has a target; this one is not used
            "sequence_length": given.sequence_length,
            "calibration_samples": 64 if given.quick else given.samples,
            "evaluation_samples": 64 if given.quick else None,
            "seed": given.seed,
        }
    )
    loaded = load(recipe)
    context = PruneContext(
        loaded.model, loaded.structure, loaded.data.roles.fit.batches, loaded.task, Path(), recipe.seed
    )
    calibrated = pair_input_moments(context, "all")
    evaluation: Any = loaded.data.evaluation
    moments = pair_input_moments(replace(context, fit=evaluation), "all")
    outputs = record_outputs(loaded.dense, loaded.task, evaluation, recipe.device)
    dense = loaded.task.evaluate(loaded.dense, loaded.data.evaluation, recipe.device)
    fractions = FRACTIONS[2::2] if given.quick else FRACTIONS
    rows: dict[str, list[dict[str, float]]] = {}
    for init in ("svd", "aware"):
        if init == "aware":
            refit(loaded.model, calibrated)
        rows[init] = [{"part": fraction, **evaluated(loaded, fraction, moments, outputs)} for fraction in fractions]
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
