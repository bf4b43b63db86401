"""``StageTimer``: seconds per stage for the report; seconds and peak memory in the log."""

from __future__ import annotations

import logging
import sys
import time

import torch

from secateurs.pipeline.run_progress import RunProgress, duration
from secateurs.return_memory import return_memory

__all__ = ["StageTimer"]

logger = logging.getLogger(__name__)


class StageTimer:
    """Measures stages that follow one another; the first begins when the timer is made.

    Args:
        progress: progress of the run; it is told when a stage ends, and predicts the time left.

    Attributes:
        seconds: stage -> seconds.
    """

    def __init__(self, progress: RunProgress | None = None) -> None:
        self.progress = progress or RunProgress()
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def end(self, stage: str) -> None:
        """The stage ends here, and the next one begins. A stage that is repeated adds up. Freed memory is returned."""
        return_memory()
        now = time.perf_counter()
        took, self._last = now - self._last, now
        self.seconds[stage] = self.seconds.get(stage, 0.0) + took
        self.progress.end(stage)
        left = self.progress.seconds_left()
        told = "" if left is None else f"; about {duration(left)} left for the run"
        logger.info("%s: %.1f s%s; peak memory so far %s", stage, took, told, _peak_memory())


def _peak_memory() -> str:
    """Peak memory of this process, and of the GPU if one is used."""
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
