"""Files that are whole or not there: what a killed run finds again when it is taken up."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from secateurs.errors import CheckpointError
from secateurs.processes import is_first

__all__ = ["read_json", "write", "write_json"]


def write(path: Path, save: Callable[[Path], Any]) -> None:
    """Let ``save`` write a sibling file, then give it its name. Of several processes, the first alone does so.

    Raises:
        CheckpointError: the file cannot be written (a full disk, no permission); what was there before stays.
    """
    if not is_first():
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(partial)
        partial.replace(path)
    except Exception as error:
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            reason = getattr(error, "strerror", None) or str(error)
            raise CheckpointError(
                f"cannot write {path}: {reason}; free some space or name another folder, then use --resume"
            ) from None
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Write plain values."""
    write(path, lambda partial: partial.write_text(json.dumps(values, default=str)))


def read_json(path: Path) -> Any:
    """Read what ``write_json`` wrote.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); delete it and use --resume") from None
