"""The command line: ``secateurs prune | inspect | measure | export | report | demo``, one file per command.

Every call, also one for help, imports all commands. Command files therefore import torch and transformers inside functions
only.
"""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from secateurs.cli import demo, export, inspect, measure, prune, report
from secateurs.cli.options import with_home_folder
from secateurs.distributed import is_first
from secateurs.errors import FailedElsewhere, SecateursError, TargetUnreachable

__all__ = ["app", "main"]

app = typer.Typer(
    name="secateurs",
    help="Structured pruning of transformers to a measured speed-up.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from secateurs import __version__

        typer.echo(f"secateurs {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Structured pruning of transformers to a measured speed-up."""


for _command in (prune.prune, inspect.inspect, measure.measure, export.export, report.report, demo.demo):
    app.command()(with_home_folder(_command))


def main() -> None:
    """Run the command line. A deliberate error prints one line on standard error and exits with status 2."""
    try:
        app()
    except FailedElsewhere:
        sys.exit(2)  # the process that failed prints the message
    except SecateursError as error:
        if isinstance(error, TargetUnreachable) and not is_first():
            sys.exit(2)  # every process refuses the target, and the first one prints the message
        _fail(str(error))
    except OSError as error:  # a path that cannot be read or written
        _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str) -> NoReturn:
    from secateurs.cli.console import error_console

    error_console.print(f"secateurs: {message}", style="bold red", soft_wrap=True, markup=False, highlight=False)
    sys.exit(2)
