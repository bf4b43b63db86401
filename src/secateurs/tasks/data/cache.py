"""Where ``datasets`` keeps what it makes of files: its cache, or a temporary folder where the cache cannot be written."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from pathlib import Path

from secateurs.errors import DataError

__all__ = ["cache_folder", "can_write"]


def cache_folder() -> str | None:
    """Folder for local files; ``None`` for the cache of ``datasets``.

    Raises:
        DataError: neither the cache nor a temporary folder can be written.
    """
    from datasets import config

    return None if can_write(Path(config.HF_DATASETS_CACHE)) else _temporary()


def can_write(folder: Path) -> bool:
    """Whether a folder can be written, or made if it does not exist."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return os.access(nearest, os.W_OK | os.X_OK)


@functools.cache
def _temporary() -> str:
    """A folder that lasts as long as this process: ``datasets`` maps its files into memory."""
    import atexit

    try:
        folder = tempfile.mkdtemp(prefix="secateurs-")
    except OSError as error:
        raise DataError(
            f"no folder for temporary files can be written ({error.strerror}); set HF_HOME or TMPDIR to one that can"
        ) from None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
