"""``secateurs measure``: compare the latency of models, or measure the latency table of one model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateurs.cli.options import AsJson, Quiet, TrustRemoteCode, Verbose
from secateurs.errors import CheckpointError, RecipeError
from secateurs.latency.environment import GENERATION, THROUGHPUT, Environment, Regime, lengths
from secateurs.pipeline.recipe import LARGEST_SEED

if TYPE_CHECKING:
    from rich.table import Table

    from secateurs.latency.compare import GenerationTiming, Measurement
    from secateurs.latency.table import LatencyTable
    from secateurs.progress import Track

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
    regime: Annotated[
        str,
        typer.Option(
            help="What is timed: throughput (a forward pass), or generation (a pass over a prompt, then steps of one token "
            "with the key-value cache; decoders only)."
        ),
    ] = "throughput",
    prompt_length: Annotated[int, typer.Option(min=1, help="Generation: tokens of the prompt.")] = 128,
    new_tokens: Annotated[
        int, typer.Option(min=1, help="Generation: steps, tokens after the first, which the prompt gives.")
    ] = 128,
    device: Annotated[str, typer.Option(help="Device: cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Data type: float32, bfloat16 or float16.")] = "float32",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 uses as many as torch does.")] = 0,
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
    environment = _environment(
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        threads=threads,
        clock=clock,
        **lengths(_known_regime(regime), sequence_length, prompt_length, new_tokens),
    )
    with progress_bars() as track:
        if table is None:
            timed = _compare(models, environment, seconds, processes, seed, trust_remote_code, track)
            printed, values = _comparison_table(timed), timed.to_dict()
        elif len(models) == 1:
            measured = _write_table(models[0], environment, table, seconds, probe, seed, trust_remote_code, track)
            printed, values = _curves_table(measured, table), measured.to_dict()
        else:
            raise RecipeError(f"--table is written for one model, {len(models)} were given")
    if as_json:
        typer.echo(json.dumps(values, indent=1))
    else:
        console.print(printed)


def _known_regime(regime: str) -> Regime:
    if regime == GENERATION:
        return GENERATION
    if regime == THROUGHPUT:
        return THROUGHPUT
    raise RecipeError(f"there is no regime {regime!r}; the regimes are {THROUGHPUT} and {GENERATION}")


def _environment(*, threads: int, clock: str, **fields: Any) -> Environment:
    """Environment of the timings; 0 threads means as many as torch uses.

    Raises:
        RecipeError: there is no such clock, device or dtype here.
    """
    import torch

    from secateurs.latency.workload import check

    if clock not in ("wall", "cpu"):
        raise RecipeError(f"there is no clock {clock!r}; the clocks are wall and cpu")
    environment = Environment(threads=threads or torch.get_num_threads(), clock=clock, **fields)
    check(environment)
    return environment


def _compare(
    models: Sequence[str],
    environment: Environment,
    seconds: float,
    processes: int,
    seed: int,
    trust_remote_code: bool,
    track: Track,
) -> Measurement:
    """Time models in turns, in fresh processes, or in this one if one process is asked for.

    Raises:
        RecipeError: a model was given twice.
        SecateursError: a model cannot be loaded, or the models cannot run on the same token ids.
    """
    from secateurs.latency.fresh_processes import ROUNDS, time_saved
    from secateurs.latency.timing_process import Request, SavedModel, answer

    if len(set(models)) < len(models):
        raise RecipeError("the same model was given twice")
    saved = {name: SavedModel(name, trust_remote_code=trust_remote_code) for name in models}
    if processes == 1:
        return answer(Request(saved, models[0], environment, seed, seconds, ROUNDS))
    return time_saved(
        saved,
        environment,
        processes=processes,
        baseline=models[0],
        seed=seed,
        seconds=seconds / processes,
        track=track,
    )


def _comparison_table(measured: Measurement) -> Table:
    """One row per model: latency, throughput, and speed-up over the first model."""
    from rich.table import Table

    count = max(len(speed.processes) for speed in measured.speedups.values())
    table = Table(
        "model", "latency", "quartiles", "per second", "speed-up", "95 % interval", title=str(measured.environment)
    )
    table.caption = f"intervals over {count} processes" if count else "intervals over the rounds of one process"
    if measured.environment.generates:
        for heading in ("first token", "per token", "cache"):
            table.add_column(heading)
    for name, timing in measured.timings.items():
        speed = measured.speedups[name]
        table.add_row(
            name,
            f"{timing.latency_ms:.2f} ms",
            f"{timing.latency_low:.2f} to {timing.latency_high:.2f}",
            f"{timing.throughput_per_second:.1f}",
            f"{speed.median:.3f}x",
            f"{speed.low:.3f} to {speed.high:.3f}",
            *_generation_cells(timing.generation),
        )
    return table


def _generation_cells(generation: GenerationTiming | None) -> list[str]:
    """Time to first token, time per token, and size of the cache, where they were timed."""
    from secateurs.report.formatting import size

    if generation is None:
        return []
    return [f"{generation.first_token_ms:.2f} ms", f"{generation.per_token_ms:.3f} ms", size(generation.cache_bytes)]


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
    # A step takes about a millisecond, so the parts of a generation have a digit more.
    decimals = 3 if measured.parts else 2
    shown = {f"{name.replace('_', ' ')}: ": part for name, part in measured.parts.items()} or {"": measured}
    for part, one in shown.items():
        for name, curve in one.curves.items():
            table.add_row(
                f"{part}{name} (by {curve.multiple})",
                "  ".join(f"{kept}: {ms:.{decimals}f}" for kept, ms in zip(curve.units, curve.ms, strict=True)),
            )
        head = "" if one.output_head_ms is None else f", of which the output head {one.output_head_ms:.{decimals}f}"
        table.add_row(f"{part}overhead (not prunable)", f"{one.overhead_ms:.{decimals}f}{head}")
    table.caption = f"largest speed-up {measured.largest_speedup:.1f}x; written to {path}"
    return table
