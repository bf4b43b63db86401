"""The report of a run: ``report.json``, the HTML page, the model card."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from secateurs.errors import CheckpointError
from secateurs.latency_table import LatencyTable
from secateurs.report.card import card
from secateurs.report.page import render
from secateurs.report.values import CONFIG, FORMAT, Divergence, Facts, Interval, Kept, Metric, ModelResult

__all__ = ["Divergence", "Interval", "Kept", "Metric", "ModelResult", "Report", "card", "render"]


@dataclass(frozen=True, config=CONFIG)
class Report(Facts):
    """What one run did: its fields are those of ``values.Facts``."""

    def to_dict(self) -> dict[str, Any]:
        """As plain data, ready for JSON or YAML."""
        return _adapter().dump_python(self, mode="json")

    def save(self, folder: Path) -> Path:
        """Write ``report.json`` and ``report.html``, each whole or not at all.

        Returns:
            The path of the page.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        folder = Path(folder)
        page = folder / "report.html"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _replace(folder / "report.json", _adapter().dump_json(self, indent=1) + b"\n")
            _replace(page, render([self]).encode())
        except OSError as error:
            raise CheckpointError(f"the report cannot be written to {folder}: {error.strerror}") from None
        return page

    @classmethod
    def load(cls, path: Path) -> Report:
        """Read ``report.json``, given the file or its folder.

        Raises:
            CheckpointError: the file is missing, of another format, or no report.
        """
        file = Path(path) / "report.json" if Path(path).is_dir() else Path(path)
        try:
            values = json.loads(file.read_bytes())
        except FileNotFoundError:
            raise CheckpointError(f"no report at {file}; give the folder of a finished run") from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read as JSON ({error})") from None
        if not isinstance(values, dict) or "format" not in values:
            raise CheckpointError(f"{file} is not a report of Secateurs: it names no format")
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


def _replace(path: Path, content: bytes) -> None:
    """Write beside, then rename: a reader never sees half a file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
