"""``Report``: the result of one run, saved as ``report.json`` and ``report.html``."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from secateurs.artifacts import write
from secateurs.errors import CheckpointError
from secateurs.latency.table import LatencyTable
from secateurs.report.page import render
from secateurs.report.values import CONFIG, FORMAT, RunResult

__all__ = ["Report"]


@dataclass(frozen=True, config=CONFIG)
class Report(RunResult):
    """The result of one run; ``RunResult`` describes the fields."""

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, ready for JSON or YAML."""
        return _adapter().dump_python(self, mode="json")

    def save(self, folder: Path) -> Path:
        """Write ``report.json`` and ``report.html``; each file appears complete or not at all.

        Args:
            folder: where to write; it is created if it is missing.

        Returns:
            The path of the page.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        folder = Path(folder)
        page = folder / "report.html"
        values = _adapter().dump_json(self, indent=1) + b"\n"
        write(folder / "report.json", lambda partial: partial.write_bytes(values))
        write(page, lambda partial: partial.write_text(render([self]), encoding="utf-8"))
        return page

    @classmethod
    def load(cls, path: Path) -> Report:
        """Read a report.

        Args:
            path: the file ``report.json``, or its folder.

        Returns:
            The report, equal to the one that was saved.

        Raises:
            CheckpointError: the file is missing, has another format, or is not a report.
        """
        file = Path(path) / "report.json" if Path(path).is_dir() else Path(path)
        try:
            values = json.loads(file.read_bytes())
        except FileNotFoundError:
            raise CheckpointError(f"no report at {file}; give the folder of a finished run") from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read as JSON ({error})") from None
        if not isinstance(values, dict) or "format" not in values:
            raise CheckpointError(f"{file} is not a report of Secateurs: it has no entry 'format'")
        if values["format"] != FORMAT:
            raise CheckpointError(
                f"{file} has report format {values['format']!r}, this version reads {FORMAT}; "
                "read it with the version of Secateurs that wrote it"
            )
        try:
            report = _adapter().validate_python(values)
            if report.latency_table is not None:
                LatencyTable.from_dict(report.latency_table)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise CheckpointError(f"{file} is not a report of Secateurs: {where}: {first['msg'].lower()}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{file} holds a latency table that cannot be read ({error!r})") from None
        return report


@cache
def _adapter() -> TypeAdapter[Report]:
    return TypeAdapter(Report)
