"""Measures what gates cost: a training step of a model with gates / a distillation step of the same model without gates.

    python benchmarks/cofi_step.py --json benchmarks/results/cofi_step.json
    python benchmarks/cofi_step.py --json /tmp/step.json --quick        # a smoke test of seconds on a small shape

A step consists of the forward passes of teacher and student, the backward pass, clipping and the optimiser. The two steps
run in turns in one process, on random weights of a BERT shape and random tokens. The step with gates trains all gates, the
multipliers and the map between layers, with a penalty on expected parameters. The results are medians and quartiles of
processor time and of the ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from secateurs.gates.gates import Gated, Gates
from secateurs.gates.layer_matching import LayerMatching
from secateurs.gates.learner import freeze_embeddings
from secateurs.gates.mask_learning import GatedStudent, GatePace, MaskLearning, Removal
from secateurs.gates.student_loss import DistillationLoss, StudentObjective
from secateurs.latency.environment import machine
from secateurs.numerics.precision import autocast_if_fast
from secateurs.pipeline.provenance import commit, versions
from secateurs.structure.cost import ParameterCost
from secateurs.structure.families import discover
from secateurs.structure.layers import layer_paths
from secateurs.structure.target import Sparsity
from secateurs.tasks import task
from secateurs.training.objective import Objective

SEED = 0


def build(config: BertConfig) -> nn.Module:
    """Build a model with random weights and frozen embeddings, like the student of CoFi."""
    torch.manual_seed(SEED)
    model = BertForSequenceClassification(config).eval()
    freeze_embeddings(model)
    return model


def stepper(model: nn.Module, objective: Objective, batch: dict[str, Tensor]) -> Callable[[], None]:
    """A function that does one training step.

    Args:
        model: the model that is trained.
        objective: the loss.
        batch: the inputs of every step.
    """
    trained = objective.trained_module(model).train()
    optimiser = torch.optim.AdamW(objective.parameter_groups(trained), lr=1e-5, weight_decay=0.0, fused=True)
    done = 0

    def step() -> None:
        nonlocal done
        with autocast_if_fast("cpu"):
            loss = objective.loss(trained, batch, done)
        loss.backward()
        nn.utils.clip_grad_norm_(list(objective.clipped_parameters(trained)), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        objective.after_step(trained, done, 10**9)
        done += 1

    return step


def plain_step(config: BertConfig, loss: DistillationLoss, batch: dict[str, Tensor]) -> Callable[[], None]:
    """A step without gates."""
    matching = LayerMatching(config.hidden_size, config.hidden_size)
    kept = [True] * config.num_hidden_layers
    return stepper(build(config), StudentObjective("plain", loss, matching, kept), batch)


def gated_step(config: BertConfig, loss: DistillationLoss, batch: dict[str, Tensor]) -> Callable[[], None]:
    """A step with gates, on the same loss."""
    model = build(config)
    structure = discover(model)
    budget = Sparsity(0.9).budget(ParameterCost.of(model, structure))
    layers = [[group.name for group in structure.layers[path]] for path in layer_paths(model, structure)]
    student = GatedStudent(
        Gated(model, structure, Gates(structure)),
        Removal(budget, structure.sizes),
        LayerMatching(config.hidden_size, config.hidden_size),
        layers,
    )
    pace = GatePace(ramp=100, gates=0.05, multipliers=10.0, ascent="gradient")
    return stepper(model, MaskLearning(student, loss, pace, lambda step: None, 1), batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="file for the results")
    parser.add_argument("--rounds", type=int, default=12, help="number of timed steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="two layers of hidden size 128, and short rows")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = BertConfig()  # BERT-base, with two labels
    rows, tokens = 16, 64
    if given.quick:
        config = BertConfig(
            vocab_size=500,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=512,
        )
        rows, tokens = 4, 16
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(config.vocab_size, (rows, tokens), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    loss = DistillationLoss(build(config), task("text_classification"), 2.0, output_weight=0.1, layer_weight=0.9)
    steps = {"plain": plain_step(config, loss, batch), "gated": gated_step(config, loss, batch)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(given.rounds + 2):
        for name, step in steps.items():
            begun = time.process_time()
            step()
            if turn >= 2:  # the first two steps allocate memory
                seconds[name].append(time.process_time() - begun)
    ratios = [ours / theirs for ours, theirs in zip(seconds["gated"], seconds["plain"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    record = {
        "ratio": middle,
        "ratio_quartiles": [low, high],
        "plain_seconds": statistics.median(seconds["plain"]),
        "gated_seconds": statistics.median(seconds["gated"]),
        "rounds": given.rounds,
        "threads": given.threads,
        "clock": "processor time",
        "shape": {"hidden": config.hidden_size, "layers": config.num_hidden_layers, "rows": rows, "tokens": tokens},
        "seed": SEED,
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(record, indent=1) + "\n")
    print(f"gated / plain {middle:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
