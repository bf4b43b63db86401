"""The errors that Secateurs raises on purpose.

    SecateursError
    ├── UnsupportedModelError   the type or the state of the model cannot be pruned
    ├── DataError               a file, split, column or label is missing or does not fit the task
    ├── RecipeError             the settings are out of range, contradict each other or do not fit the model
    ├── CalibrationError        the activations cannot be used (none, NaN, not positive definite)
    ├── TargetUnreachable       no mask reaches the target; carries the largest value that can be reached
    ├── CheckpointError         a folder on disk cannot be read or written
    ├── TimingError             a process that times saved models failed
    └── FailedElsewhere         another process of the same run failed, and prints why

A message states in one line what failed, what was given, what is allowed and what to do. The command line prints
that line and exits with status 2. Any other exception that reaches the user is a bug in Secateurs.
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
    "TimingError",
    "UnsupportedModelError",
]


class SecateursError(Exception):
    """The base class: catch it to catch every error that Secateurs raises on purpose."""


class UnsupportedModelError(SecateursError):
    """The type or the state of the model cannot be pruned."""


class DataError(SecateursError):
    """A file, split, column or label is missing or does not fit the task."""


class RecipeError(SecateursError):
    """The settings of the run are out of range, contradict each other or do not fit the model."""


class CalibrationError(SecateursError):
    """The activations collected on the calibration data cannot be used (none, NaN, not positive definite)."""


class TargetUnreachable(SecateursError):
    """No mask reaches the target.

    Attributes:
        largest: largest value of this target that can be reached (a speed-up or a sparsity); ``None`` if unknown.
    """

    def __init__(self, message: str, largest: float | None = None) -> None:
        super().__init__(message)
        self.largest = largest


class CheckpointError(SecateursError):
    """A folder on disk cannot be read or written."""


class TimingError(SecateursError):
    """A process that times saved models could not load or run them."""


class FailedElsewhere(SecateursError):
    """Another process of the same run failed; the message of that process says why."""

    def __init__(self) -> None:
        super().__init__("another process of this run failed; its message says why")
