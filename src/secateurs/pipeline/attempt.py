"""``Attempt``: one allocation of the speed-up contract with its timings, and its file on disk."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from secateurs.artifacts import read_json, write_json
from secateurs.distributed import first
from secateurs.latency.compare import GenerationTiming, Speed
from secateurs.structure.allocation import Allocation

__all__ = ["Attempt", "read_attempts", "write_attempt"]


@dataclass(frozen=True)
class Attempt:
    """One allocation and its speed.

    Args:
        number: 1 for the first attempt.
        allocation: kept units of every group.
        predicted: speed-up by the latency table, before any correction.
        steering: measured speed-up of these shapes, before the model was built; ``None`` if nothing was steered.
        confirmed: measured speed-up of the saved model in fresh processes; ``None`` if it was not built.
        latency_ms: time of the saved model in those processes.
        dense_latency_ms: time of the dense model in those processes.
        met: whether the confirmation keeps the contract; ``None`` without confirmation, or if timings here cannot tell.
        generation: what the generations of the saved model were made of; ``None`` in the regime ``"throughput"``.
        dense_generation: the same of the dense model.
    """

    number: int
    allocation: Allocation
    predicted: float
    steering: Speed | None = None
    confirmed: Speed | None = None
    latency_ms: float | None = None
    dense_latency_ms: float | None = None
    met: bool | None = None
    generation: GenerationTiming | None = None
    dense_generation: GenerationTiming | None = None

    @property
    def speed(self) -> Speed | None:
        """What is known best about the speed-up of these shapes."""
        return self.confirmed or self.steering


def _place(folder: Path, number: int) -> Path:
    return folder / f"attempt-{number}" / "measured.json"


def write_attempt(folder: Path, attempt: Attempt) -> None:
    """Write an attempt into the folder of its target."""
    first(lambda: write_json(_place(folder, attempt.number), dataclasses.asdict(attempt)))


def read_attempts(folder: Path) -> list[Attempt]:
    """The attempts that earlier runs left in the folder of a target, in order."""
    found: list[Attempt] = []
    while (path := _place(folder, len(found) + 1)).is_file():
        values = read_json(path)
        timed = ("steering", "confirmed")
        speeds = {name: None if values[name] is None else Speed.from_dict(values[name]) for name in timed}
        parts = ("generation", "dense_generation")
        generations = {name: GenerationTiming(**values[name]) if values.get(name) else None for name in parts}
        found.append(Attempt(**{**values, **speeds, **generations}))
    return found
