"""``Laps``: seconds by stage for the report; seconds and peak memory in the log."""

from __future__ import annotations

import logging
import sys
import time

import torch

__all__ = ["Laps"]

logger = logging.getLogger(__name__)


class Laps:
    """A stop-watch that is told when a stage ends."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        """The stage ``name`` ends here."""
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now
        logger.info("%s: %.1f s; peak memory so far %s", name, self.laps[name], _peak())


def _peak() -> str:
    """Of this process, and of the GPU where one is used."""
    parts = []
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        parts.append(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.1f} GB")
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        parts.append(f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB on the GPU")
    return ", ".join(parts) or "unknown"
