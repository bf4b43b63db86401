"""Command-line parameters that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["TrustRemoteCode", "Verbose"]

TrustRemoteCode = Annotated[bool, typer.Option(help="Run Python code from the folder or hub repository of the model.")]

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log one line per stage.")]
