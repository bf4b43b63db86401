"""The versions of transformers that Secateurs works with."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from secateurs.errors import SecateursError

__all__ = ["OLDEST", "TOO_NEW", "check_version"]

OLDEST, TOO_NEW = (5, 20), (6, 0)
"""The hooks fit versions of transformers from ``OLDEST`` on and below ``TOO_NEW``, as in ``pyproject.toml``."""


def check_version() -> None:
    """Refuse a version of transformers that the hooks do not fit. An unknown version is accepted.

    Raises:
        SecateursError: another version is installed; the line names it and the versions that fit.
    """
    try:
        found = getattr(sys.modules.get("transformers"), "__version__", None) or version("transformers")
        numbers = tuple(int(part) for part in found.split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return
    if not OLDEST <= numbers < TOO_NEW:
        wanted = f"transformers>={OLDEST[0]}.{OLDEST[1]},<{TOO_NEW[0]}"
        raise SecateursError(f"secateurs needs {wanted}, but {found} is installed; run pip install '{wanted}'")
