"""Speed-up of the blocked elimination over the one-at-a-time recursion, and whether both give the same order.

    python benchmarks/obs.py --json benchmarks/results/obs.json
    python benchmarks/obs.py --json /tmp/obs.json --quick          # a smoke test of seconds on small sizes

Two recursions are compared with the blocked elimination, in one process, alternating, in float64. ``reference`` follows
published code: every step computes the outer products as new tensors and subtracts them from the full inverse and the full
weight. ``in_place`` is the same recursion with the subtraction fused into the product, which is the fastest form of the
recursion. A step of either recursion takes the same time from the first to the last, so their totals are extrapolated from
some hundred steps; the JSON names the number of steps. It also names the kernels that NumPy's BLAS chose: an
OPENBLAS_CORETYPE in the environment for another processor may cost a factor of two.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor

from secateurs.numerics.hessian import Moments, damped
from secateurs.numerics.level_factor import LevelFactor
from secateurs.numerics.obs import elimination_order
from secateurs.numerics.parallel_map import parallel_map
from secateurs.pipeline.provenance import commit, versions

SEED = 0


def made_hessian(cols: int, generator: torch.Generator) -> Tensor:
    """Damped second moments of rectified, correlated activations, like the inputs of a feed-forward output projection.

    Args:
        cols: number of activations.
        generator: source of the random activations.
    """
    mixing = torch.randn(cols // 8, cols, generator=generator) / (cols // 8) ** 0.5
    moments = Moments(cols)
    for _ in range(4):
        hidden = torch.randn(cols // 2, cols // 8, generator=generator) @ mixing
        moments.update(torch.relu(hidden + torch.randn(hidden.shape, generator=generator)))
    return damped(moments.gram)


def made_layer(hessian: Tensor, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A new layer: a random weight, and the Hessian with its inputs permuted and rescaled at random."""
    cols = len(hessian)
    places = torch.randperm(cols, generator=generator)
    scale = torch.randn(cols, generator=generator, dtype=torch.float64).mul(0.3).exp()
    weight = torch.randn(rows, cols, generator=generator, dtype=torch.float64) * 0.05
    return weight, hessian[places][:, places] * scale * scale[:, None]


class Recursion:
    """The one-at-a-time recursion, which updates the full inverse and the full weight after every removal."""

    def __init__(self, weight: Tensor, hessian: Tensor) -> None:
        self.weight = weight.clone()
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
        self.removed = torch.zeros(weight.shape[1], dtype=torch.bool)
        self.order: list[int] = []

    def step(self, in_place: bool) -> None:
        """Remove the column with the smallest score.

        Args:
            in_place: fuse the subtraction into the outer product.
        """
        diagonal = self.inverse.diagonal()
        scores = self.weight.square().sum(0) / diagonal
        scores[self.removed] = float("inf")
        column = int(scores.argmin())
        ratio = self.inverse[column] / diagonal[column]
        weight_column, inverse_column = self.weight[:, column].clone(), self.inverse[:, column].clone()
        if in_place:
            self.weight.addr_(weight_column, ratio, alpha=-1)
            self.inverse.addr_(inverse_column, ratio, alpha=-1)
        else:
            self.weight -= weight_column.unsqueeze(1) @ ratio.unsqueeze(0)
            self.inverse -= inverse_column.unsqueeze(1) @ ratio.unsqueeze(0)
        self.weight[:, column] = 0.0
        self.inverse[column, :] = 0.0
        self.inverse[:, column] = 0.0
        self.inverse[column, column] = 1.0
        self.removed[column] = True
        self.order.append(column)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock seconds and processor seconds (summed over threads) of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def compare_speed(rows: int, cols: int, hessian: Tensor, rounds: int, reference: int, in_place: int) -> dict[str, Any]:
    """Time the blocked elimination and both recursions on one layer, alternating.

    Args:
        rows: outputs of the layer.
        cols: inputs of the layer.
        hessian: Hessian to derive the layer from.
        rounds: timings of the blocked elimination.
        reference: timed steps of the ``reference`` recursion.
        in_place: timed steps of the ``in_place`` recursion.
    """
    weight, hessian = made_layer(hessian, rows, torch.Generator().manual_seed(SEED + 1))
    recursion: list[Recursion] = []
    inverse = timed(lambda: recursion.append(Recursion(weight, hessian)))
    ours, reference_steps, in_place_steps, found = [], [], [], []
    for _ in range(rounds):
        ours.append(timed(lambda: found.append(elimination_order(weight, hessian))))
        reference_steps += [timed(lambda: recursion[0].step(in_place=False)) for _ in range(reference // rounds)]
        in_place_steps += [timed(lambda: recursion[0].step(in_place=True)) for _ in range(in_place // rounds)]

    def median(measured: list[tuple[float, float]], clock: int) -> float:
        return statistics.median(pair[clock] for pair in measured)

    steps = len(recursion[0].order)
    summary: dict[str, Any] = {
        "rows": rows,
        "cols": cols,
        "steps_compared": steps,
        "same_order": found[0].order[:steps].tolist() == recursion[0].order,
        "runs_of_ours": rounds,
        "steps_timed": {"reference": len(reference_steps), "in_place": len(in_place_steps)},
    }
    for clock, name in enumerate(("wall", "processor")):
        blocked = median(ours, clock)
        totals = {
            "reference": inverse[clock] + cols * median(reference_steps, clock),
            "in_place": inverse[clock] + cols * median(in_place_steps, clock),
        }
        summary[name] = {
            "ours_seconds": blocked,
            "ours_seconds_spread": [min(pair[clock] for pair in ours), max(pair[clock] for pair in ours)],
            "inverse_seconds": inverse[clock],
            **{f"{kind}_seconds_extrapolated": total for kind, total in totals.items()},
            **{f"{kind}_ratio": total / blocked for kind, total in totals.items()},
        }
    return summary


def compare_full_order(rows: int, cols: int) -> dict[str, Any]:
    """Compare the orders of the blocked elimination and of the recursion, from the first removal to the last."""
    generator = torch.Generator().manual_seed(SEED + 2)
    weight, hessian = made_layer(made_hessian(cols, generator), rows, generator)
    recursion = Recursion(weight, hessian)
    for _ in range(cols):
        recursion.step(in_place=True)
    same = elimination_order(weight, hessian).order.tolist() == recursion.order
    return {"rows": rows, "cols": cols, "steps_compared": cols, "same_order": same}


def full_model(layers: int, rows: int, hessian: Tensor, head: int) -> dict[str, Any]:
    """Time order and level factor of every output projection of a model, with one layer per thread.

    Args:
        layers: layers of the model.
        rows: hidden size.
        hessian: Hessian to derive the feed-forward layers from.
        head: head size.
    """
    generator = torch.Generator().manual_seed(SEED + 3)
    attention = made_hessian(rows, generator)

    def work(problem: tuple[Tensor, Tensor, int]) -> None:
        weight, damped_moments, width = problem
        order = elimination_order(weight, damped_moments, width=width).order
        LevelFactor(weight, damped_moments, order, width=width)

    parts: dict[str, tuple[float, float]] = {}
    for kind, base, width in (("intermediate", hessian, 1), ("heads", attention, head)):
        problems = [(*made_layer(base, rows, generator), width) for _ in range(layers)]
        parts[kind] = timed(lambda problems=problems: list(parallel_map(work, problems)))
    return {
        "layers": layers,
        "wall_seconds": sum(part[0] for part in parts.values()),
        "processor_seconds": sum(part[1] for part in parts.values()),
        "wall_seconds_by_kind": {kind: part[0] for kind, part in parts.items()},
    }


def choices(rows: int, hessian: Tensor, blocks: list[int]) -> list[dict[str, Any]]:
    """Time of one elimination for every block size and dtype of the downdates, and whether the order stays the same."""
    weight, hessian = made_layer(hessian, rows, torch.Generator().manual_seed(SEED + 1))
    expected = elimination_order(weight, hessian).order
    rows_of_table: list[dict[str, Any]] = []
    for block in blocks:
        for dtype in (torch.float64, torch.float32):
            orders: list[Tensor] = []
            wall, processor = timed(
                lambda block=block, dtype=dtype, orders=orders: orders.append(
                    elimination_order(weight, hessian, block=block, dtype=dtype).order
                )
            )
            rows_of_table.append(
                {
                    "block": block,
                    "dtype": str(dtype).removeprefix("torch."),
                    "wall_seconds": wall,
                    "processor_seconds": processor,
                    "same_order": torch.equal(orders[0], expected),
                }
            )
    return rows_of_table


def processor_name() -> str:
    """The name of the processor that the system reports."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    """Measure, write the JSON and print the main results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="where to write the measurements")
    parser.add_argument("--threads", type=int, default=2, help="number of threads of every library")
    parser.add_argument("--quick", action="store_true", help="small sizes: a smoke test, no measurement")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, cols, layers, head = (48, 192, 2, 12) if arguments.quick else (768, 3072, 12, 64)
    steps = {"rounds": 2, "reference": 20, "in_place": 20} if arguments.quick else {}
    with threadpool_limits(arguments.threads):
        hessian = made_hessian(cols, torch.Generator().manual_seed(SEED))
        speed = compare_speed(rows, cols, hessian, **({"rounds": 3, "reference": 30, "in_place": 300} | steps))
        order = compare_full_order(24, 96) if arguments.quick else compare_full_order(192, 768)
        model = full_model(layers, rows, hessian, head)
        table = choices(rows, hessian, [16, 64] if arguments.quick else [32, 64, 128])
    result = {
        "same_order": bool(speed["same_order"] and order["same_order"]),
        "ratio": speed["wall"]["reference_ratio"],
        "ratio_in_place": speed["wall"]["in_place_ratio"],
        "bert_base_seconds": model["wall_seconds"],
        "quick": arguments.quick,
        "extrapolated": "only the totals of both recursions: inverse time plus number of columns times median step time",
        "speed": speed,
        "whole_order": order,
        "whole_model": model,
        "choices": table,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "seed": SEED,
        "threads": arguments.threads,
        "versions": {**versions(), "numpy": np.__version__},
        "machine": {
            "processor": processor_name(),
            "system": platform.platform(),
            "blas": [f"{pool['internal_api']} {pool.get('architecture', '')}".strip() for pool in threadpool_info()],
        },
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"same order: {result['same_order']}, {result['ratio']:.1f} times as fast as the reference recursion, "
        f"{result['ratio_in_place']:.1f} times the in-place recursion, full model {result['bert_base_seconds']:.1f} s"
    )


if __name__ == "__main__":
    main()
