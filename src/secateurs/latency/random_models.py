"""Random pruned models: their kept counts, and runs of them, to test and to correct a latency table."""

from __future__ import annotations

import random
from collections.abc import Mapping

import torch
from torch import nn

from secateurs.latency.environment import Environment
from secateurs.latency.passes import Workload
from secateurs.latency.runtimes import runtime
from secateurs.latency.table import LatencyTable
from secateurs.latency.timer import Run
from secateurs.structure.cut import Kind
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.surgery.shared_copy import shared_copy
from secateurs.surgery.shrink import shrink

__all__ = ["borrow_memory", "model_run", "random_counts", "spread_counts"]


def random_counts(
    structure: Structure, table: LatencyTable, generator: random.Random, shares: Mapping[Kind, float] | None = None
) -> dict[str, int]:
    """Random kept counts of a pruned model.

    Each group keeps a share that differs from the common one of its kind by up to 0.4. Widths are snapped to the multiple of
    their curve, except at full size. Low-rank options stay one matrix.

    Args:
        structure: structure of the model.
        table: table with the multiple of each group.
        generator: source of the random shares.
        shares: kind -> common share; ``None`` draws one for all kinds from [0.1, 0.9].

    Returns:
        Group name -> kept units.
    """
    common = generator.uniform(0.1, 0.9)
    counts = {}
    for group in structure.without_low_rank_options():
        own = common if shares is None else shares[group.kind]
        part = min(1.0, max(0.0, own + generator.uniform(-0.4, 0.4)))
        step = 1 if group.kind is Kind.HEAD else table.curve(group.name).multiple
        snapped = round(group.size * part / step) * step
        counts[group.name] = group.size if part == 1 else min(group.size, snapped)
    return counts


def spread_counts(structure: Structure, table: LatencyTable, number: int, seed: int) -> list[dict[str, int]]:
    """Kept counts of pruned models of all sizes. The common shares of each kind are evenly spread, in an order of their own.

    The kinds vary independently, so that timings tell them apart (a Latin hypercube).

    Args:
        structure: structure of the model.
        table: table with the multiple of each group.
        number: number of models.
        seed: seed of the random shares.
    """
    generator = random.Random(seed)
    shares = [0.1 + 0.8 * (index + 0.5) / number for index in range(number)]
    columns = {kind: generator.sample(shares, number) for kind in dict.fromkeys(group.kind for group in structure)}
    return [
        random_counts(structure, table, generator, {kind: column[index] for kind, column in columns.items()})
        for index in range(number)
    ]


def model_run(
    model: nn.Module,
    structure: Structure,
    environment: Environment,
    workload: Workload,
    counts: Mapping[str, int],
) -> Run:
    """Run of a model that is pruned to some kept counts; the model stays unchanged.

    Args:
        model: model with nothing removed.
        structure: structure of the model.
        environment: environment of the run.
        workload: what is run.
        counts: group name -> kept units; groups that are not named keep all.
    """
    mask = Mask.from_units(structure, {name: torch.arange(kept) for name, kept in counts.items()})
    pruned = shrink(shared_copy(model), structure, mask, values=False)
    borrow_memory(pruned, model)
    return workload.of_model(runtime(environment.runtime).prepare(pruned, environment, workload.inputs))


def borrow_memory(pruned: nn.Module, model: nn.Module) -> None:
    """Put the parameters of a pruned model into the memory of the full-size ones, so that many models fit into memory.

    The values become others, which no timing depends on. Models run in turns, and whole models are larger than the caches of
    a processor, so that no model finds its weights there.

    Args:
        pruned: pruned model, changed in place.
        model: model with nothing removed, in the same dtype.
    """
    full = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in pruned.named_parameters():
        lender = full.get(name)
        if lender is not None and lender.is_contiguous() and lender.numel() >= parameter.numel():
            parameter.data = lender.data.flatten()[: parameter.numel()].view(parameter.shape)
