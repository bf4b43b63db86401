"""Atomic files: a file is written completely or not at all, so that a killed run finds only complete files on resume."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from secateurs.distributed import is_first
from secateurs.errors import CheckpointError

__all__ = [
    "OLDER",
    "apply_umask",
    "expanded",
    "is_path",
    "older_name",
    "read_json",
    "restore_older",
    "write",
    "write_json",
]

OLDER = ".older"
"""Ending of the hidden name of a folder while a new one takes its place."""


def write(path: Path, save: Callable[[Path], Any]) -> None:
    """Write a file atomically: ``save`` writes a temporary file in the same folder, which is then renamed.

    In a run of several processes only the first process writes; the others return at once.

    Args:
        path: the final path; missing parent folders are made.
        save: writes the content to the path it is given.

    Raises:
        CheckpointError: the file cannot be written (a full disk, no permission); an older file at ``path`` is kept.
    """
    if not is_first():
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(partial)
        apply_umask(partial)
        partial.replace(path)
    except Exception as error:
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            reason = getattr(error, "strerror", None) or str(error)
            raise CheckpointError(
                f"cannot write {path}: {reason}; free some space or name another folder, then use --resume"
            ) from None
        raise
    finally:
        with suppress(OSError):  # such as a parent that is a file: the first error says so
            partial.unlink(missing_ok=True)


def apply_umask(*paths: Path) -> None:
    """Give files the permissions that the umask gives to new files.

    safetensors makes its files readable for their owner alone, whatever the umask.

    Args:
        paths: files in one folder. A new file there shows the permissions, because reading the umask would change it for a
            moment for all threads.
    """
    for folder in {path.parent for path in paths}:
        probe = folder / f".{os.getpid()}.mode"
        probe.touch()
        mode = probe.stat().st_mode & 0o777
        probe.unlink()
        for path in paths:
            if path.parent == folder:
                path.chmod(mode)


def write_json(path: Path, values: Any) -> None:
    """Write values as JSON, atomically; a value that JSON does not know is written as its ``str``.

    Args:
        path: the final path.
        values: numbers, strings, lists and dictionaries of them.

    Raises:
        CheckpointError: see ``write``.
    """
    write(path, lambda partial: partial.write_text(json.dumps(values, default=str)))


def read_json(path: Path) -> Any:
    """Read what ``write_json`` wrote.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); delete it and use --resume") from None


def expanded(source: str | os.PathLike[str]) -> Path:
    """The path that a user gave, with ``~`` at its start as the home folder; ``~name`` stays if there is no such user.

    Args:
        source: what the user gave.
    """
    return Path(os.path.expanduser(source))


def is_path(source: str) -> bool:
    """Whether a source of a model or of data names a local path and not a hub id.

    Args:
        source: what the user gave.
    """
    return expanded(source).exists() or source[:1] in ("/", ".", "~", "\\") or source.count("/") > 1


def older_name(folder: Path) -> Path:
    """Where a folder waits while a new one takes its place.

    Args:
        folder: the folder that is replaced.
    """
    return folder.with_name(f".{folder.name}.{os.getpid()}{OLDER}")


def restore_older(folder: Path) -> None:
    """Finish a replacement that was killed halfway: if ``folder`` is missing, the newest older one takes its name again.

    Older ones that are left over beside a complete ``folder`` are deleted.

    Args:
        folder: a folder that may have been replaced.
    """
    waiting = [path for path in folder.parent.glob(f".{folder.name}.*{OLDER}") if path.is_dir()]
    waiting.sort(key=lambda path: path.stat().st_ctime)
    if waiting and not folder.exists():
        waiting.pop().rename(folder)
    for path in waiting:
        shutil.rmtree(path, ignore_errors=True)
