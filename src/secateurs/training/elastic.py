"""``ElasticSteps``: a training that has to end at a time, and corrects its number of steps while it runs.

    virtual step = position in the schedule of the planned steps

When the end is moved, the rest of the schedule is stretched or compressed over the steps that are left. The learning rate
therefore ends where it would have ended. A training whose steps take as long as planned is not changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

__all__ = ["ElasticSteps"]

SORTED_STEPS = 50
"""Steps over which batches are sorted by length (``group_by_length``): the pace is compared after a multiple of them."""

CHECKS = 20
"""How often the pace is compared, about."""

TOLERANCE = 0.1
"""Error of the predicted end, relative to the time of the training, from which the number of steps is corrected."""

LEAST_REST = 0.02
"""Steps after a correction, at least, as a fraction of those planned, so that the learning rate does not jump to its end."""


class ElasticSteps:
    """The number of steps of one training.

    Args:
        ends: ``(0, planned steps)``, and ``(step, new end)`` of every correction in the part before a resumption.
        most: largest number of steps.
        seconds: time in which all steps should be done, from now on; of a resumed training, that of all of its parts.
        note: is given ``ends`` after every correction.
        clock: seconds, as ``time.perf_counter``.
    """

    def __init__(
        self,
        ends: Sequence[tuple[int, int]],
        most: int,
        seconds: float,
        note: Callable[[list[tuple[int, int]]], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.ends, self.most, self.seconds, self.note, self.clock = list(ends), most, seconds, note, clock
        self.interval = SORTED_STEPS * max(1, round(self.planned / (CHECKS * SORTED_STEPS)))
        self._began = clock()
        self._since: tuple[int, float] | None = None
        self._pace: float | None = None

    @property
    def planned(self) -> int:
        """Steps of the schedule."""
        return self.ends[0][1]

    @property
    def end(self) -> int:
        """Steps of the training, as far as is known."""
        return self.ends[-1][1]

    def virtual(self, step: int) -> float:
        """Position in the schedule of the planned steps.

        Args:
            step: optimiser steps done.
        """
        position = 0.0
        for (begin, end), (until, _) in zip(self.ends, [*self.ends[1:], (step, step)], strict=True):
            position += max(0, min(step, until) - begin) * (self.planned - position) / max(1, end - begin)
        return position

    def begin(self, step: int) -> None:
        """The training begins, or goes on.

        Args:
            step: optimiser steps done, in parts before a resumption.
        """
        self._since = (step, self.clock())
        self._began -= self.seconds * step / max(1, self.end)  # what earlier parts have used

    def after_step(self, step: int) -> bool:
        """Correct the number of steps if they take longer or less long than planned.

        Args:
            step: optimiser steps done.

        Returns:
            Whether the training ends.
        """
        assert self._since is not None
        if step % self.interval == 0 and self._since[0] < step < self.end:
            now = self.clock()
            pace = (now - self._since[1]) / (step - self._since[0])
            # Half of the last steps, half of those before: the machine may have changed.
            pace = self._pace = pace if self._pace is None else (self._pace + pace) / 2
            self._since = (step, now)
            left = self.seconds - (now - self._began)
            if abs((self.end - step) * pace - left) > TOLERANCE * self.seconds:
                rest = max(round(LEAST_REST * self.planned), int(left / pace) if pace > 0 else self.most)
                end = min(self.most, step + max(1, rest))
                if end != self.end:
                    self.ends.append((step, end))
                    self.note(list(self.ends))
        return step >= self.end
