"""The work of one-shot ZipLM by stage, in passes, and what it buys.

    python benchmarks/cost.py MODEL --task embedding --data DATA --table latency.json --speedup 1.5 2 3 --json cost.json
    python benchmarks/cost.py --depths 6 12 24 --json depth.json         # random models, against depth
    python benchmarks/cost.py --lengths 32 64 128 --json length.json     # random models, against length

A *pass* is the processor time of one float32 forward pass of the dense model over the texts to fit, in this process. It is
taken before and after every stage, since the speed of a shared machine drifts, and a stage is divided by the mean of both.
Stages: ``fit`` (calibration, token weights, level database), ``search`` and ``refit`` of every target. Evaluation is not
counted.
Memory is the largest of each stage (Linux), and what the process held before it is given too; every random model has a
process of its own. The divergence from the dense model is taken on texts of the role report, before and after the refit;
that of random models means nothing. A latency table comes from ``secateurs measure MODEL --table FILE``; for random models
the cost of a unit is its parameters.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from transformers import BertConfig, BertForSequenceClassification

from secateurs.context import PruneContext
from secateurs.latency.environment import machine
from secateurs.latency.table import LatencyTable
from secateurs.methods import method
from secateurs.pipeline import load as loading
from secateurs.pipeline.memory_estimate import memory_bytes
from secateurs.pipeline.provenance import commit, versions
from secateurs.pipeline.recipe import Recipe
from secateurs.structure.cost import ParameterCost
from secateurs.structure.target import Budget, Speedup
from secateurs.tasks.base import Batch, model_inputs
from secateurs.tasks.text_classification import TextClassification
from secateurs.training.evaluate import record_outputs


def seconds_of_a_pass(model: Any, batches: list[Batch]) -> float:
    """Processor seconds of a forward pass over all batches, from every fourth one and its share of the tokens."""
    timed = batches[::4]
    started = time.process_time()
    with torch.inference_mode():
        for batch in timed:
            model(**model_inputs(batch))
    return (time.process_time() - started) * sum(map(padded, batches)) / sum(map(padded, timed))


def padded(batch: Batch) -> int:
    """Tokens of a batch, padding included."""
    return batch["input_ids"].numel()


def peak_bytes(*, forget: bool = False) -> int:
    """The largest memory of this process since it was last forgotten."""
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "the memory of a process is read from /proc"
    return int(found[1]) * 1024


def divergence(context: PruneContext, texts: list[Batch], dense: list[torch.Tensor]) -> tuple[float, float]:
    """Mean divergence of the live model on these texts, and its standard error."""
    now = record_outputs(context.model, context.task, texts, "cpu")  # type: ignore[arg-type]
    rows = torch.cat([context.task.divergence(one, other) for one, other in zip(now, dense, strict=True)]).double()
    return float(rows.mean()), float(rows.std()) / len(rows) ** 0.5


def measure(ziplm: Any, context: PruneContext, budgets: dict[str, Budget], report: list[Batch]) -> dict[str, Any]:
    """Passes by stage, and divergences, for every budget."""
    dense_model, batches = copy.deepcopy(context.model), list(context.fit)
    seconds_of_a_pass(dense_model, batches)
    units = [seconds_of_a_pass(dense_model, batches)]
    dense = record_outputs(context.model, context.task, report, "cpu")  # type: ignore[arg-type]
    held = peak_bytes(forget=True)
    memory: dict[str, int] = {}

    def timed(stage: str, work: Any) -> tuple[Any, float]:
        peak_bytes(forget=True)
        started = time.process_time()
        found = work()
        took = time.process_time() - started
        memory[stage] = max(memory.get(stage, 0), peak_bytes())
        units.append(seconds_of_a_pass(dense_model, batches))
        return found, took / ((units[-2] + units[-1]) / 2)

    fitted, fit = timed("fit", lambda: ziplm.fit(context))
    found: dict[str, Any] = {"seconds_of_a_pass": units, "fit": fit, "targets": {}}
    for name, budget in budgets.items():
        allocation, search = timed("search", lambda budget=budget: fitted.allocate(budget))
        fitted.candidates.invalidate()
        fitted.candidates.apply(allocation)
        before = divergence(context, report, dense)
        fitted.candidates.invalidate()
        _, refit = timed("refit", lambda allocation=allocation: fitted.apply(allocation, "target"))
        after = divergence(context, report, dense)
        found["targets"][name] = {
            "search": search,
            "refit": refit,
            "divergence": before,
            "after_refit": after,
            "allocation": allocation,
        }
        print(
            f"{name}: search {search:.1f}, refit {refit:.1f} passes; divergence {before[0]:.4f} ({before[1]:.4f}), after the "
            f"refit {after[0]:.4f} ({after[1]:.4f})",
            flush=True,
        )
        fitted.stitch.reset_all()
        fitted.candidates.invalidate()
    first = next(iter(found["targets"].values()))
    weights = sum(parameter.nbytes for parameter in context.model.parameters())
    found["weight_bytes"] = weights
    found["held_bytes"], found["peak_bytes"] = held, memory
    most = ", ".join(f"{stage} {number / 1e9:.2f}" for stage, number in memory.items())
    print(f"memory: {most} GB; before {held / 1e9:.2f} GB, of which {weights / 1e9:.2f} GB weights", flush=True)
    print(
        f"fit {fit:.1f}; the first target {fit + first['search'] + first['refit']:.1f} passes of {min(units):.1f} to "
        f"{max(units):.1f} s",
        flush=True,
    )
    return found


def of_model(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The cost on a model and data."""
    recipe = Recipe.of(
        {
            "model": options.model,
            "task": options.task,
            "data": options.data,
            "speedup": options.speedup,
            "sequence_length": options.length,
            "calibration_samples": options.samples,
            "seed": options.seed,
            "hyperparameters": dict(pair.split("=", 1) for pair in options.set),
        }
    )
    loading.REPORT_TEXTS = options.report
    loaded = loading.load(recipe)
    table = LatencyTable.load(Path(options.table))
    budgets = {f"{speedup:g}x": Speedup(speedup).budget(table) for speedup in options.speedup}
    print(loaded.data.roles, flush=True)
    predicted = memory_bytes(loaded, 4.0 * 1000)
    found = measure(loaded.method, loaded.context(folder), budgets, loaded.data.roles.report.batches)
    print(f"memory as --dry-run predicts it: {predicted / 1e9:.2f} GB", flush=True)
    return found | {"predicted_bytes": predicted}


def of_random(options: argparse.Namespace, folder: Path, depth: int, length: int) -> dict[str, Any]:
    """The cost on a random BERT and random token ids; half of the parameters of the layers are removed."""
    torch.set_num_threads(options.threads)
    threadpool_limits(options.threads)
    torch.manual_seed(options.seed)
    sizes = {
        "hidden_size": options.width,
        "intermediate_size": 4 * options.width,
        "num_attention_heads": options.width // 64,
    }
    config = BertConfig(**sizes, num_hidden_layers=depth, vocab_size=1000, max_position_embeddings=512)
    model = BertForSequenceClassification(config).eval()
    ids = torch.randint(1000, (options.samples, length))
    batch = max(1, 4096 // length)
    batches = [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids.split(batch)]
    ziplm: Any = method("ziplm", **dict(pair.split("=", 1) for pair in options.set))
    sizes_of = ziplm.role_sizes(options.samples)
    search, accept = (batches[: -(-size // batch)] for size in (sizes_of.search, sizes_of.accept))
    context = PruneContext(model, ziplm.structure(model), batches, TextClassification(), folder, seed=options.seed)
    cost = ParameterCost.of(model, context.structure)
    budget = Budget(cost.fixed + (cost(context.structure.sizes) - cost.fixed) / 2, cost)
    print(f"{depth} layers of {options.width}, {length} tokens:", flush=True)
    return measure(ziplm, replace(context, search=search, accept=accept), {"half": budget}, batches[:2])


def main() -> None:
    """Read the command line, measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("model", nargs="?")
    parser.add_argument("--task", default="text-classification")
    parser.add_argument("--data")
    parser.add_argument("--table")
    parser.add_argument("--speedup", type=float, nargs="+", default=[1.5, 2.0, 3.0])
    parser.add_argument("--depths", type=int, nargs="*", default=[])
    parser.add_argument("--lengths", type=int, nargs="*", default=[])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--report", type=int, default=872, help="texts of the divergence")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--json", required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shapes = [(depth, options.length) for depth in options.depths] + [(6, length) for length in options.lengths]
    found: dict[str, Any] = {}
    # A pass and the factorisations get the same number of threads.
    with threadpool_limits(options.threads), tempfile.TemporaryDirectory() as folder:
        if options.model:
            found["model"] = of_model(options, Path(folder))
        for depth, length in shapes:
            place = Path(folder) / f"{depth}-{length}"
            place.mkdir()
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found[f"{depth} layers, {length} tokens"] = pool.apply(of_random, (options, place, depth, length))
    record = {"options": vars(options), "machine": machine(), "versions": versions(), "commit": commit(), "cost": found}
    Path(options.json).write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
