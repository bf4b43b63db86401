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
    from secateurs.cli.measure_tables import Places
    from secateurs.latency.compare import Measurement
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
    from secateurs.cli.measure_tables import comparison_table, curves_table, in_own_runtime

    configure_logging(verbose, quiet=quiet)
    runtimes = list(dict.fromkeys(runtime or ["torch"]))
    environment = _environment(
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        threads=threads,
        clock=clock,
        runtimes=runtimes,
        **lengths(_known_regime(regime), sequence_length, prompt_length, new_tokens),
    )
    with progress_bars() as track:
        if table is None:
            timed, places = _compare(models, environment, runtimes, seconds, processes, seed, trust_remote_code, track)
            printed, values = comparison_table(timed, places), timed.to_dict() | in_own_runtime(timed, places)
        elif len(runtimes) > 1:
            raise RecipeError(f"--table is measured in one runtime, {len(runtimes)} were given")
        elif len(models) == 1:
            measured = _write_table(models[0], environment, table, seconds, probe, seed, trust_remote_code, track)
            printed, values = curves_table(measured, table), measured.to_dict()
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


def _environment(*, threads: int, clock: str, runtimes: Sequence[str], **fields: Any) -> Environment:
    """Environment of the timings, in the first runtime; 0 threads means as many as torch uses.

    Raises:
        RecipeError: there is no such clock, device, dtype or runtime here.
    """
    from dataclasses import replace

    import torch

    from secateurs.latency.workload import check

    if clock not in ("wall", "cpu"):
        raise RecipeError(f"there is no clock {clock!r}; the clocks are wall and cpu")
    threads = threads or torch.get_num_threads()
    environment = Environment(threads=threads, clock=clock, runtime=runtimes[0], **fields)
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
