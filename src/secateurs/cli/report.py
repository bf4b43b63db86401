"""``secateurs report``: print the results of finished runs, and draw them on one page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from secateurs.cli.options import AsJson
from secateurs.errors import RecipeError

__all__ = ["report"]


def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="HTML file for one page with all runs. Required for several runs; for one run it is report.html in the "
            "folder of the run."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the results of finished runs, and draw them on one page."""
    from secateurs.artifacts import write
    from secateurs.cli.console import configure_logging, console, print_report_path
    from secateurs.report.page import render
    from secateurs.report.report import Report
    from secateurs.report.terminal import table

    configure_logging()
    reports = [Report.load(folder) for folder in folders]
    if as_json:
        typer.echo(json.dumps([loaded.to_dict() for loaded in reports], indent=1))
    else:
        for loaded in reports:
            console.print(table(loaded))
    page = out or (folders[0] / "report.html" if len(folders) == 1 and folders[0].is_dir() else None)
    if page is None:
        if as_json:
            return
        raise RecipeError("several runs were given: name the page with --out FILE.html")
    write(page, lambda partial: partial.write_text(render(reports)))
    if not as_json:
        print_report_path(page)
