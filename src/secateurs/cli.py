"""``secateurs prune | inspect | measure | report | demo``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from secateurs.errors import FailedElsewhere, RecipeError, SecateursError

__all__ = ["main"]

app = typer.Typer(
    name="secateurs",
    help="Structured pruning of transformers to a measured speed-up.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

TASKS = "text-classification, token-classification, question-answering, embedding or causal-lm."

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="One line a stage.")]


@app.command()
def prune(
    model: Annotated[str | None, typer.Argument(help="A Hugging Face folder or hub id.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the models and the report.")] = None,
    task: Annotated[str | None, typer.Option(help=TASKS)] = None,
    data: Annotated[str | None, typer.Option(help="Folder, file or hub id.")] = None,
    speedup: Annotated[list[float] | None, typer.Option(help="Target; may be given several times.")] = None,
    sparsity: Annotated[
        list[float] | None,
        typer.Option(help="Target in place of a speed-up, for methods that train: part of the weights to remove."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="ziplm (default), cofi, flop; baselines: uniform, magnitude, random, agp, agp-unstructured, fac, np."
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Of the method; ziplm: paper; cofi: quick, paper-small, ...; flop: quick, paper")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A recipe in YAML; options win over it.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Hyper-parameter of the method, name=value.")] = None,
    allow: Annotated[
        str | None,
        typer.Option(help="For ziplm: units (default), or rank: matrices may be split into small pairs instead."),
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="Column with the text, words or question.")] = None,
    text_pair_column: Annotated[str | None, typer.Option(help="Column with the second text or context.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column with the label, score, tags or answers.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences a forward pass. Default 32.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens a sequence. Default 128.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu (default), cuda or cuda:N.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 (default), bfloat16 or float16.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: all.")] = None,
    clock: Annotated[str | None, typer.Option(help="wall (default), or cpu for busy machines.")] = None,
    latency_table: Annotated[Path | None, typer.Option(help="A table from `secateurs measure --table`.")] = None,
    calibration_samples: Annotated[int | None, typer.Option(help="Texts to calibrate on. Default 1024.")] = None,
    evaluation_samples: Annotated[int | None, typer.Option(help="Evaluate on at most so many.")] = None,
    recover_epochs: Annotated[
        float | None, typer.Option(help="Epochs of distillation. Default: the method's; ziplm: 0.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of recovery. Default: the method's; ziplm: 5e-5.")
    ] = None,
    train_batch_size: Annotated[int | None, typer.Option(help="Rows a process trains on at once. Default 32.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches to one step of training. Default 1.")] = None,
    tracker: Annotated[
        list[str] | None, typer.Option(help="Follows the training: tensorboard, wandb, mlflow, ...; several times.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Default 0.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that lies beside the weights.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be done, how long and how much memory.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on with the run in --out.")] = False,
    verbose: Verbose = False,
) -> None:
    """Make a model smaller until it is measured to be as fast as asked."""
    from secateurs.console import console, logs, tracking
    from secateurs.recipe import assignments

    logs(verbose)
    given = {
        "model": model,
        "task": task,
        "data": data,
        "speedup": speedup or None,
        "sparsity": sparsity or None,
        "method": method,
        "preset": preset,
        "batch_size": batch_size,
        "sequence_length": sequence_length,
        "device": device,
        "dtype": dtype,
        "threads": threads,
        "clock": clock,
        "latency_table": str(latency_table) if latency_table else None,
        "calibration_samples": calibration_samples,
        "evaluation_samples": evaluation_samples,
        "recover_epochs": recover_epochs,
        "learning_rate": learning_rate,
        "train_batch_size": train_batch_size,
        "accumulate": accumulate,
        "trackers": tracker or None,
        "seed": seed,
        "trust_remote_code": trust_remote_code or None,
        "columns": _named({"text": text_column, "text_pair": text_pair_column, "label": label_column}) or None,
        "hyperparameters": assignments(set_ or []) | _named({"allow": allow}) or None,
    }
    recipe = _recipe(_named(given), config, out if resume else None)
    if dry_run:
        from secateurs.plan import plan

        console.print(plan(recipe, out, resume=resume))
        return
    if out is None:
        raise RecipeError("--out is missing: name a folder for the models and the report")
    from secateurs import pipeline
    from secateurs.report.terminal import table

    with tracking() as track:
        report = pipeline.run(recipe, out, resume=resume, track=track, command=_command())
    console.print(table(report))
    console.print(f"report: {out / 'report.html'}", soft_wrap=True, highlight=False)


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="A Hugging Face folder or hub id.")],
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that lies beside the weights.")] = False,
) -> None:
    """Show what can be cut from a model, and what was cut already."""
    from secateurs.console import console, logs
    from secateurs.inspection import tables

    logs(False)
    for part in tables(model, trust_remote_code=trust_remote_code):
        console.print(part)


@app.command()
def measure(
    models: Annotated[list[str], typer.Argument(help="Folders or hub ids; the first is the baseline.")],
    table: Annotated[Path | None, typer.Option(help="Write a latency table of the (only) model here.")] = None,
    batch_size: Annotated[int, typer.Option(help="Sequences a forward pass.")] = 32,
    sequence_length: Annotated[int, typer.Option(help="Tokens a sequence.")] = 128,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 = all.")] = 0,
    clock: Annotated[str, typer.Option(help="wall, or cpu for busy machines.")] = "wall",
    seconds: Annotated[
        float, typer.Option(help="Time to spend; for a table up to twice that, where timings scatter.")
    ] = 30.0,
    probe: Annotated[
        bool, typer.Option(help="With --table: measure which widths are free, do not take 8 (GPU: 64).")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the random tokens.")] = 0,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that lies beside the weights.")] = False,
    verbose: Verbose = False,
) -> None:
    """Time models against each other, interleaved; or write the latency table of one."""
    from secateurs.console import console, logs, tracking
    from secateurs.timings import compare_models, environment_of, write_table

    logs(verbose)
    environment = environment_of(
        batch_size=batch_size,
        sequence_length=sequence_length,
        device=device,
        dtype=dtype,
        threads=threads,
        clock=clock,
    )
    with tracking() as track:
        if table is not None:
            if len(models) != 1:
                raise RecipeError(f"--table is written for one model, {len(models)} were given")
            drawn = write_table(
                models[0],
                environment,
                table,
                seconds=seconds,
                probe=probe,
                seed=seed,
                trust=trust_remote_code,
                track=track,
            )
        else:
            drawn = compare_models(
                models, environment, seconds=seconds, seed=seed, trust=trust_remote_code, track=track
            )
    console.print(drawn)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    out: Annotated[Path | None, typer.Option(help="Write one page over all of them here.")] = None,
) -> None:
    """Print the results of runs, and draw several on one page."""
    from secateurs.artefact import write
    from secateurs.console import console, logs
    from secateurs.report import Report, render
    from secateurs.report.terminal import table

    logs(False)
    reports = [Report.load(folder) for folder in folders]
    for one in reports:
        console.print(table(one))
    page = out or (folders[0] / "report.html" if len(folders) == 1 and folders[0].is_dir() else None)
    if page is None:
        raise RecipeError("several runs were given: name the page with --out FILE.html")
    write(page, lambda partial: partial.write_text(render(reports)))
    console.print(f"report: {page}", soft_wrap=True, highlight=False)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("secateurs-demo"),
    threads: Annotated[int | None, typer.Option(help="CPU threads of the timings. Default: 1.")] = None,
    clock: Annotated[str | None, typer.Option(help="cpu (default), or wall.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the demo in --out.")] = False,
    verbose: Verbose = False,
) -> None:
    """Prune a real sentence encoder to 1.5x and 2x on the documentation of Python itself."""
    from secateurs import demo as demonstration
    from secateurs import pipeline
    from secateurs.console import console, logs, tracking
    from secateurs.demo_corpus import build
    from secateurs.report.terminal import table

    logs(verbose)
    with tracking() as track:
        model = demonstration.find_model(out)
        corpus = out / "corpus"
        if not (corpus / "qrels.parquet").is_file():
            build(corpus, num_documents=200, num_queries=50)
        recipe = demonstration.recipe(model, corpus, **_named({"threads": threads, "clock": clock}))
        result = pipeline.run(recipe, out / "run", resume=resume, track=track, command=_command())
    console.print(table(result))
    console.print(f"report: {out / 'run' / 'report.html'}", soft_wrap=True, highlight=False)


def main() -> None:
    """Run the command line: a deliberate error is one line on standard error, and status 2."""
    try:
        app()
    except FailedElsewhere:
        sys.exit(2)
    except SecateursError as error:
        _fail(str(error))
    except OSError as error:  # a path that cannot be read or written
        _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(told: str) -> NoReturn:
    from secateurs.console import errors

    errors.print(f"secateurs: {told}", style="bold red", soft_wrap=True, markup=False, highlight=False)
    sys.exit(2)


def _recipe(given: dict[str, Any], config: Path | None, resumed: Path | None) -> Any:
    """The recipe of the options, over that of the file, over that of the run to resume."""
    from secateurs.recipe import Recipe

    if config is not None:
        return Recipe.load(config, **given)
    if resumed is not None and (resumed / "recipe.yaml").is_file():
        return Recipe.load(resumed / "recipe.yaml", **given)
    return Recipe.of(given)


def _named(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _command() -> str:
    return shlex.join(["secateurs", *sys.argv[1:]])


if __name__ == "__main__":
    main()
