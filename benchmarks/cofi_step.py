"""What gates cost: a training step of a model with gates against a plain distillation step of the dense model.

    python benchmarks/cofi_step.py --json benchmarks/results/cofi_step.json
    python benchmarks/cofi_step.py --json /tmp/step.json --quick        # a smoke test of seconds on a small shape

Both steps are whole: teacher and student forward, backward, clipping, optimiser; they run in turns in one process, on
random weights of a BERT shape and random tokens. The gated one learns all gates, multipliers and the layer map; its
penalty is on expected parameters. Medians of processor time with their quartiles; the ratio first.
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

from secateurs.arithmetic import fast
from secateurs.cost import ParameterCost
from secateurs.environment import machine
from secateurs.families import discover
from secateurs.layers import layer_paths
from secateurs.methods._distillation import Distillation, Taught
from secateurs.methods._mask_learning import MaskLearner, MaskLearning, Pace, Removal
from secateurs.objective import Objective
from secateurs.provenance import commit, versions
from secateurs.stages.gates import Gated, Gates
from secateurs.stages.layer_matching import LayerMatching
from secateurs.target import Sparsity
from secateurs.tasks import task

SEED = 0


def made(config: BertConfig) -> nn.Module:
    """Random weights; the embeddings do not learn, as while masks are learned."""
    torch.manual_seed(SEED)
    model = BertForSequenceClassification(config).eval()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.requires_grad_(False)
    return model


def stepper(model: nn.Module, objective: Objective, batch: dict[str, Tensor]) -> Callable[[], None]:
    """One whole training step."""
    learner = objective.learner(model).train()
    optimiser = torch.optim.AdamW(objective.groups(learner), lr=1e-5, weight_decay=0.0, fused=True)
    done = 0

    def step() -> None:
        nonlocal done
        with fast("cpu"):
            loss = objective.loss(learner, batch, done)
        loss.backward()
        nn.utils.clip_grad_norm_(list(objective.clipped(learner)), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        objective.stepped(learner, done, 10**9)
        done += 1

    return step


def plain(config: BertConfig, how: Distillation, batch: dict[str, Tensor]) -> Callable[[], None]:
    """Distillation with the same two losses, nothing pruned."""
    matching = LayerMatching(config.hidden_size, config.hidden_size)
    kept = [True] * config.num_hidden_layers
    return stepper(made(config), Taught("plain", how, matching, kept), batch)


def gated(config: BertConfig, how: Distillation, batch: dict[str, Tensor]) -> Callable[[], None]:
    """The same with gates."""
    model = made(config)
    structure = discover(model)
    budget = Sparsity(0.9).budget(ParameterCost.of(model, structure))
    layers = [[group.name for group in structure.layers[path]] for path in layer_paths(model, structure)]
    learner = MaskLearner(
        Gated(model, structure, Gates(structure)),
        Removal(budget, structure.sizes),
        LayerMatching(config.hidden_size, config.hidden_size),
        layers,
    )
    return stepper(model, MaskLearning(learner, how, Pace(100, 0.01, 0.01, "adam"), lambda step: None, 1), batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="two layers of 128 and short rows")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = BertConfig(num_labels=2)  # BERT-base
    rows, tokens = 16, 64
    if given.quick:
        config = BertConfig(
            vocab_size=500,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=512,
            num_labels=2,
        )
        rows, tokens = 4, 16
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(config.vocab_size, (rows, tokens), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    how = Distillation(made(config), task("text_classification"), 2.0, 0.1, 0.9)
    steps = {"plain": plain(config, how, batch), "gated": gated(config, how, batch)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(given.rounds + 2):
        for name, step in steps.items():
            begun = time.process_time()
            step()
            if turn >= 2:  # the first allocate
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
