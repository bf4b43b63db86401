"""Terminal output of all commands: results, progress bars, log lines and error messages."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from secateurs.distributed import is_first
from secateurs.pipeline.run_progress import RunProgress, duration
from secateurs.progress import Track

__all__ = [
    "command_line",
    "configure_logging",
    "console",
    "error_console",
    "print_data",
    "print_report_path",
    "progress_bars",
    "run_lines",
]

T = TypeVar("T")

FILE_WIDTH = 160
"""Columns of text that is redirected to a file: wide enough for the table of results."""

console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH, quiet=not is_first())
error_console = Console(stderr=True)


def configure_logging(verbose: bool = False, *, quiet: bool = False) -> None:
    """Print log lines above the progress bars, and silence the output of other libraries.

    Args:
        verbose: print one line per stage; otherwise print warnings only. Processes of rank > 0 print errors only.
        quiet: print errors only, and neither results nor progress bars.
    """
    handler = RichHandler(console=error_console, show_path=False, show_time=verbose, markup=False)
    root = logging.getLogger("secateurs")
    root.handlers = [handler]
    console.quiet = quiet or not is_first()
    root.setLevel(logging.ERROR if console.quiet else logging.INFO if verbose else logging.WARNING)
    chosen = bool(os.environ.get("TRANSFORMERS_VERBOSITY"))  # the user's choice, which transformers reads by itself
    for library in (*(() if chosen else ("transformers",)), "datasets", "httpx", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)
    from datasets.utils.logging import disable_progress_bar
    from transformers.utils import logging as transformers_logging

    disable_progress_bar()
    transformers_logging.disable_progress_bar()
    if not chosen:
        transformers_logging.set_verbosity_error()


class RunBars(Progress):
    """The bars of all stages, and below them the time left for the run and the best figures of every target so far.

    Args:
        columns: columns of the bars.
        run: progress of the run; ``None`` draws the bars only.
        console: where they are drawn.
    """

    def __init__(self, *columns: ProgressColumn, run: RunProgress | None, console: Console) -> None:
        self.run = run  # first, since the base class draws at once
        super().__init__(*columns, console=console)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.run is not None:
            yield from map(Text, run_lines(self.run))


def run_lines(run: RunProgress) -> list[str]:
    """The time left for a run, and the best figures of every target so far.

    Args:
        run: progress of the run.
    """
    left, took = run.seconds_left(), run.elapsed
    expected = "" if left is None else f", about {duration(left)} left ({took / max(took + left, 1e-9):.0%} done)"
    return [f"the run: {duration(took)}{expected}", *(f"  {target}: {best}" for target, best in run.best.items())]


@contextmanager
def progress_bars(run: RunProgress | None = None) -> Iterator[Track]:
    """Show one progress bar per stage; the bars of finished stages stay on the screen.

    Args:
        run: progress of a run, shown below the bars.

    Yields:
        ``track(items, title, total)``, which yields the items and moves the bar of this title.
    """
    progress = RunBars(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        run=run,
        console=error_console,
    )

    def track(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
        bar = progress.add_task(title, total=total)
        try:
            yield from progress.track(items, total=total, task_id=bar)
        finally:  # a stage may stop before its last item: mark the bar as complete
            progress.update(bar, total=next(task.completed for task in progress.tasks if task.id == bar))

    with nullcontext() if console.quiet else progress:
        yield track


def print_data(summary: str) -> None:
    """Print what was understood about the data, before the work."""
    console.print(summary, soft_wrap=True, highlight=False, markup=False)


def print_report_path(page: Path) -> None:
    """Print where the HTML report is, in one line."""
    console.print(f"report: {page}", soft_wrap=True, highlight=False)


def command_line() -> str:
    """The command as the user typed it; the report states it."""
    return shlex.join(["secateurs", *sys.argv[1:]])
