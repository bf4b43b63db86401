"""``return_memory``: give freed memory back to the system, which the next stage, or another process, may need.

glibc keeps freed blocks that lie between used ones, and a model, its levels and the hidden states of many texts leave many of
them: memory then grows from stage to stage.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from functools import cache
from typing import Any

__all__ = ["return_memory", "trim_heap"]


def return_memory() -> None:
    """Free what only circles of references hold, and return free pages of the heap: between stages."""
    gc.collect()
    trim_heap()


def trim_heap() -> None:
    """Return free pages of the heap, within a stage: a few milliseconds. Nothing happens without glibc."""
    if sys.platform == "linux" and (trim := getattr(_libc(), "malloc_trim", None)) is not None:
        trim(0)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)
