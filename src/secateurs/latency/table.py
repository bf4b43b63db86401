"""``LatencyTable``: milliseconds of a model as a function of its kept counts, measured in one environment."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from secateurs.errors import CheckpointError
from secateurs.latency.curve import LatencyCurve
from secateurs.latency.environment import Environment
from secateurs.structure.cost import Count

__all__ = ["LatencyTable"]


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of a model as ``overhead + sum of curves``, measured in one environment.

    The curves together are the latency profile of the model. After a correction by whole models (``correct_table``) the sum
    at full size may differ from ``dense_ms`` by a few per cent.

    Args:
        environment: environment of the measurement.
        dense_ms: milliseconds of the dense model, end to end (embeddings and head included).
        overhead_ms: milliseconds that no cut can remove.
        curves: curve name -> curve; groups of the same shape share a curve.
        groups: group name -> curve name.
        machine: processor, system and versions of the machine that was measured.
        noise: largest relative noise of the repeated timings of the full-size model and its full-size layers.
        low_rank_options: names of the rank groups whose matrix is still one matrix. The time of that matrix is part of
            the curve of another group, so only the time that a lower rank saves is counted.
        correction: factors of the overhead and of the curves of each kind that whole models gave, with the number of these
            models and the mean relative error before and after; empty if the table was not corrected.
        output_head_ms: milliseconds of the output head, a part of the overhead; ``None`` if it was not timed.
        parts: in the regime ``"generation"``, the tables of the pass over the prompt and of a step, of which this one is the
            sum: once the first, and ``new_tokens`` times the second.
    """

    environment: Environment
    dense_ms: float
    overhead_ms: float
    curves: Mapping[str, LatencyCurve]
    groups: Mapping[str, str]
    machine: Mapping[str, Any] = field(default_factory=dict)
    noise: float = 0.0
    low_rank_options: tuple[str, ...] = ()
    correction: Mapping[str, float] = field(default_factory=dict)
    output_head_ms: float | None = None
    parts: Mapping[str, LatencyTable] = field(default_factory=dict)

    unit: ClassVar[str] = "ms"

    @property
    def fixed(self) -> float:
        """Milliseconds that no cut can remove."""
        return self.overhead_ms

    def curve(self, group: str) -> LatencyCurve:
        """The curve of the group with the given name."""
        return self.curves[self.groups[group]]

    def multiple(self, name: str) -> int:
        """Multiple to which the widths of a group should be rounded; 1 for a group without a curve.

        Args:
            name: group name.
        """
        return self.curve(name).multiple if name in self.groups else 1

    def group_cost(self, name: str, kept: int) -> float:
        """Milliseconds of one group at ``kept`` units.

        Args:
            name: group name.
            kept: number of kept units.
        """
        return float(self.curve(name)(kept))

    def __call__(self, counts: Mapping[str, Count]) -> Count:
        """Predicted milliseconds of the model, end to end.

        Args:
            counts: group name -> kept units. A group that is not named counts as emptied. A name without a curve
                (the hidden size) does not change the prediction.
        """
        total: Count = self.overhead_ms
        for name, kept in counts.items():
            if name in self.groups:
                total = total + self.curve(name)(kept)
            if name in self.low_rank_options:
                total = total - self.curve(name).ms[-1]
        return total

    def expected(self, present: Mapping[str, Count], counts: Mapping[str, Count]) -> Count:
        """Expected milliseconds of the model if groups are present at random.

        The expectation is ``overhead + sum of present * curve(counts)``. An absent group costs nothing, so the fixed cost
        of the first unit is weighted with ``present`` too. The curve at the expected count replaces the expectation of
        the curve, which is exact where the curve is linear.

        Args:
            present: group name -> probability that the group is present.
            counts: group name -> expected kept units of the group if it is present.
        """
        total: Count = self.overhead_ms
        for name, count in counts.items():
            if name in self.groups:
                total = total + present[name] * self.curve(name).as_factors(count)
        return total

    def speedup(self, counts: Mapping[str, Count]) -> float:
        """Predicted speed-up: dense milliseconds / pruned milliseconds.

        Args:
            counts: group name -> kept units.
        """
        return self.dense_ms / float(self(counts))

    @property
    def largest_speedup(self) -> float:
        """Predicted speed-up with every unit removed."""
        return self.dense_ms / self.overhead_ms if self.overhead_ms > 0 else math.inf

    def corrected(self, extra_ms: float) -> LatencyTable:
        """The same table with more overhead, to correct a prediction by the measurement of a shrunk model.

        Args:
            extra_ms: milliseconds that are added to the overhead.
        """
        return replace(self, overhead_ms=self.overhead_ms + extra_ms)

    def check_groups(self, names: Iterable[str]) -> None:
        """Check that the table covers the groups of a model.

        Args:
            names: group names of the model.

        Raises:
            CheckpointError: a group is missing, because the table was measured on another model.
        """
        missing = [name for name in names if name not in self.groups]
        if missing:
            raise CheckpointError(
                f"the latency table does not cover {missing[0]} ({len(missing)} groups in all): it was measured on "
                "another model; measure again with `secateurs measure MODEL --table FILE`"
            )

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return {
            "format": 1,
            "environment": self.environment.to_dict(),
            "machine": dict(self.machine),
            "dense_ms": self.dense_ms,
            "overhead_ms": self.overhead_ms,
            "noise": self.noise,
            "groups": dict(self.groups),
            "curves": {name: curve.to_dict() for name, curve in self.curves.items()},
            **({"correction": dict(self.correction)} if self.correction else {}),
            **({"alternatives": list(self.low_rank_options)} if self.low_rank_options else {}),
            **({} if self.output_head_ms is None else {"output_head_ms": self.output_head_ms}),
            **({"parts": {name: part.to_dict() for name, part in self.parts.items()}} if self.parts else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LatencyTable:
        """Inverse of ``to_dict``."""
        return cls(
            environment=Environment.from_dict(values["environment"]),
            dense_ms=float(values["dense_ms"]),
            overhead_ms=float(values["overhead_ms"]),
            curves={name: LatencyCurve.from_dict(curve) for name, curve in values["curves"].items()},
            groups=dict(values["groups"]),
            machine=dict(values.get("machine", {})),
            noise=float(values.get("noise", 0.0)),
            low_rank_options=tuple(values.get("alternatives", ())),
            correction=dict(values.get("correction", {})),
            output_head_ms=values.get("output_head_ms"),
            parts={name: cls.from_dict(part) for name, part in values.get("parts", {}).items()},
        )

    def save(self, path: Path) -> None:
        """Write the table to a JSON file.

        Args:
            path: path of the file.
        """
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read a table that ``save`` wrote.

        Args:
            path: path of the JSON file.

        Raises:
            CheckpointError: the file is missing, cannot be read, or is not a latency table.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text()))
        except FileNotFoundError:
            raise CheckpointError(
                f"no latency table at {path}; write one with `secateurs measure MODEL --table {path}`"
            ) from None
        except OSError as error:
            raise CheckpointError(f"cannot read the latency table {path}: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is not a latency table of Secateurs ({error!r})") from None
