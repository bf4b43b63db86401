"""``secateurs measure``: compare the latency of models, or measure the latency table of one model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateurs.cli.options import AsJson, Quiet, TrustRemoteCode, Verbose
from secateurs.errors import CheckpointError, RecipeError
from secateurs.pipeline.recipe import LARGEST_SEED

if TYPE_CHECKING:
    from rich.table import Table

    from secateurs.latency.compare import Measurement
    from secateurs.latency.environment import Environment
    from secateurs.latency.table import LatencyTable
    from secateurs.progress import Track

Places = Mapping[str, tuple[str, str]]
"""Name of a timing -> the model and its runtime."""

__all__ = ["measure"]


def measure(
    models: Annotated[
        list[str], typer.Argument(help="Folders in Hugging Face format, or hub ids. The first is the baseline.")
    ],
    table: Annotated[
        Path | None, typer.Option(help="Measure the latency table of the only model, and write it to this file.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences per forward pass.")] = 32,
    sequence_length: Annotated[int, typer.Option(min=1, help="Tokens per sequence.")] = 128,
    device: Annotated[str, typer.Option(help="Device: cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Data type: float32, bfloat16 or float16.")] = "float32",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 uses as many as torch does.")] = 0,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            help="Runtime: torch (the default), compiled, onnx, openvino or torch-export. May be given several times: every "
            "model is then timed in each, in turns."
        ),
    ] = None,
    clock: Annotated[
        str,
        typer.Option(
            help="Clock: wall (elapsed time), or cpu (CPU time of the process, accurate on a busy machine; needs the "
            "device cpu and 1 thread)."
        ),
    ] = "wall",
    seconds: Annotated[
        float,
        typer.Option(
            min=0, help="Duration of the timings in seconds. A table takes up to twice as long if timings scatter."
        ),
    ] = 30.0,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Fresh processes that time the models, one after the other; the interval is over them. 1 times in this "
            "process, where the interval does not show how processes differ.",
        ),
    ] = 5,
    probe: Annotated[
        bool,
        typer.Option(
            help="With --table: find by timings the multiple to which numbers of neurons are rounded, instead of taking 8 "
            "(GPU: 64)."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the random tokens.")] = 0,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare the latency of models, timed in turns; or measure the latency table of one model."""
    from secateurs.cli.console import configure_logging, console, progress_bars

    configure_logging(verbose, quiet=quiet)
    runtimes = list(dict.fromkeys(runtime or ["torch"]))
    environment = _environment(batch_size, sequence_length, device, dtype, threads, clock, runtimes)
    with progress_bars() as track:
        if table is None:
            timed, places = _compare(models, environment, runtimes, seconds, processes, seed, trust_remote_code, track)
            printed, values = _comparison_table(timed, places), timed.to_dict() | _in_own_runtime(timed, places)
        elif len(runtimes) > 1:
            raise RecipeError(f"--table is measured in one runtime, {len(runtimes)} were given")
        elif len(models) == 1:
            measured = _write_table(models[0], environment, table, seconds, probe, seed, trust_remote_code, track)
            printed, values = _curves_table(measured, table), measured.to_dict()
        else:
            raise RecipeError(f"--table is written for one model, {len(models)} were given")
    if as_json:
        typer.echo(json.dumps(values, indent=1))
    else:
        console.print(printed)


def _environment(
    batch_size: int,
    sequence_length: int,
    device: str,
    dtype: str,
    threads: int,
    clock: str,
    runtimes: Sequence[str],
) -> Environment:
    """Environment of the timings, in the first runtime; 0 threads means as many as torch uses.

    Raises:
        RecipeError: there is no such clock, device, dtype or runtime here.
    """
    from dataclasses import replace

    import torch

    from secateurs.latency.environment import Environment
    from secateurs.latency.workload import check

    if clock not in ("wall", "cpu"):
        raise RecipeError(f"there is no clock {clock!r}; the clocks are wall and cpu")
    environment = Environment(
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        sequence_length=sequence_length,
        threads=threads or torch.get_num_threads(),
        clock=clock,
        runtime=runtimes[0],
    )
    for runtime in runtimes:
        check(replace(environment, runtime=runtime))
    return environment


def _compare(
    models: Sequence[str],
    environment: Environment,
    runtimes: Sequence[str],
    seconds: float,
    processes: int,
    seed: int,
    trust_remote_code: bool,
    track: Track,
) -> tuple[Measurement, Places]:
    """Time models in turns, in fresh processes, or in this one if one process is asked for.

    Returns:
        The timings, and for each name in them the model and its runtime. With one runtime the name is that of the model.

    Raises:
        RecipeError: a model was given twice.
        SecateursError: a model cannot be loaded, or the models cannot run on the same token ids.
    """
    from secateurs.latency.fresh_processes import ROUNDS, time_saved
    from secateurs.latency.timing_process import Request, SavedModel, answer

    if len(set(models)) < len(models):
        raise RecipeError("the same model was given twice")
    several = len(runtimes) > 1
    places = {
        f"{model} in {runtime}" if several else model: (model, runtime) for runtime in runtimes for model in models
    }
    saved = {
        name: SavedModel(model, trust_remote_code=trust_remote_code, runtime=runtime)
        for name, (model, runtime) in places.items()
    }
    baseline = next(iter(places))
    if processes == 1:
        return answer(Request(saved, baseline, environment, seed, seconds, ROUNDS)), places
    measured = time_saved(
        saved,
        environment,
        processes=processes,
        baseline=baseline,
        seed=seed,
        seconds=seconds / processes,
        track=track,
    )
    return measured, places


def _in_own_runtime(measured: Measurement, places: Places) -> dict[str, Any]:
    """Where several runtimes were timed: the runtime of each name, and its speed-up over the first model in that runtime."""
    if len({runtime for _, runtime in places.values()}) < 2:
        return {}
    firsts: dict[str, str] = {}
    for name, (_, runtime) in places.items():
        firsts.setdefault(runtime, name)
    speeds = measured.speedups
    return {
        "runtimes": {name: runtime for name, (_, runtime) in places.items()},
        "in_own_runtime": {name: speeds[name].over(speeds[firsts[runtime]]) for name, (_, runtime) in places.items()},
    }


def _comparison_table(measured: Measurement, places: Places) -> Table:
    """One row per model and runtime: latency, throughput, and speed-up over the first row."""
    from dataclasses import replace

    from rich.table import Table

    count = max(len(speed.processes) for speed in measured.speedups.values())
    own = _in_own_runtime(measured, places).get("in_own_runtime", {})
    runtimes = ", ".join(dict.fromkeys(runtime for _, runtime in places.values()))
    table = Table(
        "model",
        *(["runtime", "there"] if own else []),
        *("latency", "quartiles", "per second", "speed-up", "95 % interval"),
        title=str(replace(measured.environment, runtime=runtimes)),
    )
    table.caption = f"intervals over {count} processes" if count else "intervals over the rounds of one process"
    if own:
        table.caption += "; there: speed-up over the first model in the same runtime"
    for name, timing in measured.timings.items():
        speed, (model, runtime) = measured.speedups[name], places[name]
        table.add_row(
            model,
            *([runtime, f"{own[name]:.3f}x"] if own else []),
            f"{timing.latency_ms:.2f} ms",
            f"{timing.latency_low:.2f} to {timing.latency_high:.2f}",
            f"{timing.throughput_per_second:.1f}",
            f"{speed.median:.3f}x",
            f"{speed.low:.3f} to {speed.high:.3f}",
        )
    return table


def _write_table(
    model: str,
    environment: Environment,
    path: Path,
    seconds: float,
    probe: bool,
    seed: int,
    trust_remote_code: bool,
    track: Track,
) -> LatencyTable:
    """Measure the latency table of one model and write it to a file.

    Raises:
        CheckpointError: the file cannot be written.
    """
    from secateurs.checkpoint.saved_model import load_saved_model
    from secateurs.latency.profile import measure_table
    from secateurs.structure.families import discover

    loaded = load_saved_model(model, trust_remote_code=trust_remote_code)
    measured = measure_table(
        loaded, discover(loaded), environment, seconds=seconds, seed=seed, probe=probe, track=track
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        measured.save(path)
    except OSError as error:
        raise CheckpointError(f"cannot write the latency table {path}: {error.strerror}") from None
    return measured


def _curves_table(measured: LatencyTable, path: Path) -> Table:
    """One row per latency curve, and the time that no pruning removes."""
    from rich.table import Table

    title = f"{measured.environment}: dense {measured.dense_ms:.2f} ms, noise {measured.noise:.1%}"
    table = Table("curve", "kept units: ms", title=title)
    for name, curve in measured.curves.items():
        table.add_row(
            f"{name} (by {curve.multiple})",
            "  ".join(f"{kept}: {ms:.2f}" for kept, ms in zip(curve.units, curve.ms, strict=True)),
        )
    table.add_row("overhead (not prunable)", f"{measured.overhead_ms:.2f}")
    table.caption = f"largest speed-up {measured.largest_speedup:.1f}x; written to {path}"
    return table
