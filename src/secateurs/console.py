"""What a person sees in the terminal: progress bars, one line a stage, errors in one line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from secateurs.processes import is_first

__all__ = ["console", "errors", "logs", "tracking"]

T = TypeVar("T")

WIDTH = None if sys.stdout.isatty() else 160
"""Of text that goes to a file: wide enough for the table of results."""

console = Console(width=WIDTH, quiet=not is_first())
errors = Console(stderr=True)


def logs(verbose: bool) -> None:
    """Warnings, or with ``verbose`` one line a stage, above the progress bars."""
    handler = RichHandler(console=errors, show_path=False, show_time=verbose, markup=False)
    root = logging.getLogger("secateurs")
    root.handlers = [handler]
    root.setLevel(logging.ERROR if not is_first() else logging.INFO if verbose else logging.WARNING)
    for noisy in ("transformers", "datasets", "httpx", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    from datasets.utils.logging import disable_progress_bar
    from transformers.utils import logging as transformers_logging

    disable_progress_bar()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


@contextmanager
def tracking() -> Iterator[Any]:
    """A ``Track``: every stage gets a bar that stays when it is done."""
    progress = Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=errors,
    )

    def track(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
        bar = progress.add_task(title, total=total)
        try:
            yield from progress.track(items, total=total, task_id=bar)
        finally:  # work that knows enough may end early: it is done then
            progress.update(bar, total=next(task.completed for task in progress.tasks if task.id == bar))

    with progress if is_first() else nullcontext():
        yield track
