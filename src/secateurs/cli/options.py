"""Command-line parameters that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from secateurs.artifacts import expanded

__all__ = ["AsJson", "Quiet", "TrustRemoteCode", "Verbose", "with_home_folder"]

TrustRemoteCode = Annotated[bool, typer.Option(help="Run Python code from the folder or hub repository of the model.")]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log one line per stage.")]


def with_home_folder(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose paths may begin with ``~``, which shells leave as it is in ``--out=~/folder``.

    Args:
        command: function of a command. Its parameters of type ``Path`` (or lists of them) are expanded; models and data are
            texts, because they may be hub ids, and are expanded where they are read.
    """

    def expand(value: Any) -> Any:
        if isinstance(value, list):
            return [expand(part) for part in value]
        return expanded(value) if isinstance(value, Path) else value

    @functools.wraps(command)
    def call(*args: Any, **options: Any) -> None:
        command(*args, **{name: expand(value) for name, value in options.items()})

    return call
