"""Command-line parameters that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["AsJson", "Quiet", "TrustRemoteCode", "Verbose"]

TrustRemoteCode = Annotated[bool, typer.Option(help="Run Python code from the folder or hub repository of the model.")]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log one line per stage.")]
