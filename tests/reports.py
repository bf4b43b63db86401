"""Invented reports with realistic numbers, for the tests of the report."""

from __future__ import annotations

from dataclasses import replace

from secateurs.latency.curve import LatencyCurve
from secateurs.latency.environment import Environment
from secateurs.latency.table import LatencyTable
from secateurs.report.report import Report
from secateurs.report.values import Divergence, Interval, Kept, Metric, ModelResult, Trial
from secateurs.structure.cut import Kind

HEADS, WIDTH = 12, 3072
ENVIRONMENT = Environment(batch_size=32, sequence_length=128, threads=1, clock="cpu")


def kept(layers: int, fraction: float, seed: int = 0) -> dict[str, Kept]:
    """Kept counts of about ``fraction`` of all units: uneven, fewer in later layers, and 0 in some groups."""
    found: dict[str, Kept] = {}
    for layer in range(layers):
        share = fraction * (1.25 - 0.5 * layer / layers) + 0.09 * ((layer * 7 + seed * 3) % 5 - 2)
        heads = max(0, min(HEADS, round(HEADS * share)))
        width = max(0, min(WIDTH, round(WIDTH * share * 0.8)))
        found[f"layer.{layer}.heads"] = Kept(Kind.HEAD, HEADS, heads)
        found[f"layer.{layer}.intermediate"] = Kept(Kind.INTERMEDIATE, WIDTH, width)
    return found


def latency_table(layers: int) -> LatencyTable:
    """A latency table in which small widths save little time."""
    units = (0, 64, 128, 256, 512, 1024, 1536, 2048, 2560, 3072)
    raw = (0.0, 0.62, 0.71, 1.02, 1.76, 3.31, 4.95, 6.41, 8.22, 9.68)
    heads = tuple(range(HEADS + 1))
    head_raw = (0.0, *(0.55 + 0.43 * count + 0.08 * (count % 3 == 0) for count in heads[1:]))
    curves = {
        "heads": LatencyCurve(heads, tuple(sorted(head_raw)), head_raw, (0.0,) + (0.03,) * HEADS),
        "intermediate": LatencyCurve(units, raw, tuple(ms * 1.02 for ms in raw), (0.0,) + (0.02,) * 9, 64),
    }
    groups = {f"layer.{layer}.{name}": name for layer in range(layers) for name in curves}
    prunable = layers * (head_raw[-1] + raw[-1])
    return LatencyTable(ENVIRONMENT, prunable + 6.4, 6.4, curves, groups, noise=0.021)


def trials(target: float) -> list[Trial]:
    """One attempt up to 3x, and above it an attempt that was too slow before."""
    confirmed = Interval(
        target * 1.006, target * 0.994, target * 1.017, [target * 0.99, target * 1.006, target * 1.022]
    )
    met = Trial({"layer.0.heads": 4}, target * 1.012, Interval(target * 1.01, target, target * 1.02), confirmed, True)
    missed = Trial({"layer.0.heads": 5}, target * 1.02, Interval(target * 0.97, target * 0.9, target * 1.1), None, None)
    return [met] if target < 4 else [missed, met]


def result(target: float, layers: int = 12, *, quality: float = 0.881, seed: int = 0) -> ModelResult:
    """One pruned model that is 0.6 % faster than its target."""
    fraction = 1 / target
    dense_ms = latency_table(layers).dense_ms
    return ModelResult(
        target=target,
        predicted_speedup=target * 1.012,
        measured_speedup=Interval(target * 1.006, target * 0.994, target * 1.017),
        latency_ms=dense_ms / (target * 1.006),
        dense_latency_ms=dense_ms,
        parameters=int(23_837_000 + layers * 7_087_872 * fraction * 0.9),
        dense_parameters=23_837_000 + layers * 7_087_872,
        sparsity=1 - fraction * 0.9,
        metric=Metric("accuracy", quality, 0.892),
        divergence=Divergence("held_out_kl", 0.012 * target**1.5),
        seconds={"calibrate": 48.2, "prune": 96.4 + target, "recover": 754.0 * target, "measure": 31.0},
        path=f"speedup-{target:.2f}x",
        kept=kept(layers, fraction, seed),
        met=True,
        attempts=1 if target < 4 else 2,
        sparsity_with_norms=0.99 * (1 - fraction * 0.9),
        trials=trials(target),
    )


def report(layers: int = 12, *, method: str = "ziplm", qualities: tuple[float, ...] | None = None) -> Report:
    """A run with five targets."""
    qualities = qualities or (0.890, 0.8853, 0.872, 0.851, 0.8112)
    targets = (1.5, 2.0, 3.0, 4.0, 5.0)
    return Report(
        name=f"{layers} layers on sst2",
        model="bert-base-uncased" if layers == 12 else "distilbert/distilbert-base-uncased",
        method=method,
        task="text_classification",
        environment=ENVIRONMENT.to_dict(),
        machine={
            "processor": "Example Processor 9000 @ 2.40GHz",
            "cores": 8,
            "gpu": None,
            "system": "Linux-6.1-x86_64",
        },
        versions={"secateurs": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.9"},
        seeds=[0, 1],
        recipe={
            "model": "bert-base-uncased",
            "task": "text_classification",
            "data": {"source": "glue:sst2", "columns": {"text": "sentence", "label": "label"}},
            "method": {"name": method, "damping": 0.01, "samples": 2048},
            "targets": [{"speedup": target} for target in targets],
            "recovery": {"epochs": 8, "learning_rate": 5e-5},
        },
        data="glue:sst2, train (67,349 rows) and validation (872 rows); 2,048 rows for calibration",
        models=[
            result(target, layers, quality=quality, seed=len(method))
            for target, quality in zip(targets, qualities, strict=True)
        ],
        preset="gradual",
        commit="4f1c2ab",
        command="secateurs prune recipe.yaml",
        created="2025-03-02T10:00:00+00:00",
        latency_table=latency_table(layers).to_dict(),
        auto_class="AutoModelForSequenceClassification",
        pipeline_tag="text-classification",
    )


def missed(original: Report) -> Report:
    """The same run with its last target missed and a note on noisy timings."""
    last = replace(original.models[-1], met=False, measured_speedup=Interval(4.71, 4.52, 4.86))
    note = "Repeated timings of the dense model spread by 6.1 %: another program may have been running."
    return replace(original, models=[*original.models[:-1], last], notes=[note])


def unlabelled(original: Report) -> Report:
    """The same run without labelled data."""
    return replace(original, models=[replace(model, metric=None) for model in original.models])


def sparse(original: Report) -> Report:
    """The same run with sparsities as targets, without predictions and timings."""
    models = [
        replace(
            model,
            target=model.sparsity,
            predicted_speedup=None,
            measured_speedup=None,
            latency_ms=None,
            dense_latency_ms=None,
            path=f"sparsity-{model.sparsity:.2f}",
        )
        for model in original.models
    ]
    return replace(original, models=models, latency_table=None, target_kind="sparsity")


def learned(original: Report) -> Report:
    """The same run by learned gates, whose expected sparsity is higher than the sparsity of the masks."""
    shown = sparse(original)
    return replace(shown, models=[replace(model, expected_sparsity=model.sparsity + 0.004) for model in shown.models])
