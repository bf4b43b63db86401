"""``return_memory``: give freed memory back to the system, which the next stage, or another process, may need.

glibc keeps freed blocks that lie between used ones, and a model, its levels and the hidden states of many texts leave many of
them: memory then grows from stage to stage.
"""

from __future__ import annotations

import ctypes
import gc
import sys

__all__ = ["return_memory"]


def return_memory() -> None:
    """Free what only circles of references hold, and return free pages of the heap. Without glibc only the first."""
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
