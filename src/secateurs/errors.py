"""Every way Secateurs can fail on purpose.

    SecateursError
    ├── UnsupportedModelError   the model is of a kind, or in a state, that cannot be pruned
    ├── DataError               a file, split, column or label is missing or does not fit
    ├── RecipeError             the run as described makes no sense
    ├── CalibrationError        the activations cannot be used (none, NaN, not positive definite)
    ├── TargetUnreachable       no set of cuts reaches the target; carries the largest reachable one
    ├── CheckpointError         a folder on disk cannot be read or written
    └── FailedElsewhere         another process of the same run failed, and says why

A message says what failed, what was given, what is allowed and what to do, in one line. The command line prints
that line and exits with status 2. Anything else that surfaces is a defect of Secateurs.
"""

from __future__ import annotations

__all__ = [
    "CalibrationError",
    "CheckpointError",
    "DataError",
    "FailedElsewhere",
    "RecipeError",
    "SecateursError",
    "TargetUnreachable",
    "UnsupportedModelError",
]


class SecateursError(Exception):
    """The root of the tree: catch this to catch every deliberate failure."""


class UnsupportedModelError(SecateursError):
    """The model is of a kind, or in a state, that cannot be pruned."""


class DataError(SecateursError):
    """A file, split, column or label is missing or does not fit the task."""


class RecipeError(SecateursError):
    """The run as described makes no sense."""


class CalibrationError(SecateursError):
    """The activations gathered on the calibration data cannot be used."""


class TargetUnreachable(SecateursError):
    """No set of cuts reaches the target.

    Attributes:
        largest: the largest value of the same target that can be reached, or ``None`` when unknown.
    """

    def __init__(self, message: str, largest: float | None = None) -> None:
        super().__init__(message)
        self.largest = largest


class CheckpointError(SecateursError):
    """A folder on disk cannot be read or written."""


class FailedElsewhere(SecateursError):
    """Another process of the same run failed, and says why."""

    def __init__(self) -> None:
        super().__init__("another process of this run failed; its message says why")
