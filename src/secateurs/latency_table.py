"""``LatencyTable``: milliseconds of a whole model as a function of its kept counts, measured in one environment."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from secateurs.environment import Environment
from secateurs.errors import CheckpointError
from secateurs.latency_curve import Count, LatencyCurve

__all__ = ["LatencyTable"]


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of a whole model as ``overhead + sum of curves``, measured in one environment.

    Args:
        environment: where it was measured.
        dense_ms: the whole dense model, end to end (embeddings and head included).
        overhead_ms: what no cut can remove: ``dense_ms - sum of the curves at full size``.
        curves: curve name -> curve; groups of one shape share a curve.
        groups: group name -> curve name.
        machine: processor and versions.
        noise: relative spread seen on repeated timings of the dense model.
        alternatives: groups of ranks whose matrix is in the curve of another group already: of theirs, only what a lower
            rank saves counts.
    """

    environment: Environment
    dense_ms: float
    overhead_ms: float
    curves: Mapping[str, LatencyCurve]
    groups: Mapping[str, str]
    machine: Mapping[str, Any] = field(default_factory=dict)
    noise: float = 0.0
    alternatives: tuple[str, ...] = ()

    @property
    def fixed(self) -> float:
        """The part no cut can remove, in ms."""
        return self.overhead_ms

    def curve(self, group: str) -> LatencyCurve:
        return self.curves[self.groups[group]]

    def multiple(self, name: str) -> int:
        """What widths of one group are best rounded to; 1 for what is not timed."""
        return self.curve(name).multiple if name in self.groups else 1

    def group_cost(self, name: str, kept: int) -> float:
        """Milliseconds of one group at ``kept`` units."""
        return float(self.curve(name)(kept))

    def __call__(self, counts: Mapping[str, Count]) -> Count:
        """Predicted milliseconds of the whole model. Groups that are not named are gone already; what the table does
        not time (the hidden size) makes no difference."""
        total: Count = self.overhead_ms
        for name, kept in counts.items():
            if name in self.groups:
                total = total + self.curve(name)(kept)
            if name in self.alternatives:
                total = total - self.curve(name).ms[-1]
        return total

    def expected(self, present: Mapping[str, Count], counts: Mapping[str, Count]) -> Count:
        """Expected milliseconds when a group is there with probability ``present`` and then has ``counts`` units.

        A group that is gone costs nothing, not even the step from none to the first unit. The curve at the expected
        count stands for the expectation of the curve: exact where it is straight.
        """
        total: Count = self.overhead_ms
        for name, count in counts.items():
            if name in self.groups:
                total = total + present[name] * self.curve(name).apart(count)
        return total

    def speedup(self, counts: Mapping[str, Count]) -> float:
        """Predicted dense / pruned."""
        return self.dense_ms / float(self(counts))

    @cached_property
    def largest_speedup(self) -> float:
        """With every unit removed."""
        return self.dense_ms / self.overhead_ms if self.overhead_ms > 0 else math.inf

    def corrected(self, extra_ms: float) -> LatencyTable:
        """The same table with ``extra_ms`` more overhead (what a real shrunk model showed)."""
        return replace(self, overhead_ms=self.overhead_ms + extra_ms)

    def check_groups(self, names: Iterable[str]) -> None:
        """Raises:
        CheckpointError: the table was measured on a model of another shape.
        """
        missing = [name for name in names if name not in self.groups]
        if missing:
            raise CheckpointError(
                f"the latency table does not cover {missing[0]} ({len(missing)} groups in all): it was measured on "
                "another model; measure again with `secateurs measure MODEL --table FILE`"
            )

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": 1,
            "environment": self.environment.to_dict(),
            "machine": dict(self.machine),
            "dense_ms": self.dense_ms,
            "overhead_ms": self.overhead_ms,
            "noise": self.noise,
            "groups": dict(self.groups),
            "curves": {name: curve.to_dict() for name, curve in self.curves.items()},
            **({"alternatives": list(self.alternatives)} if self.alternatives else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LatencyTable:
        return cls(
            environment=Environment.from_dict(values["environment"]),
            dense_ms=float(values["dense_ms"]),
            overhead_ms=float(values["overhead_ms"]),
            curves={name: LatencyCurve.from_dict(curve) for name, curve in values["curves"].items()},
            groups=dict(values["groups"]),
            machine=dict(values.get("machine", {})),
            noise=float(values.get("noise", 0.0)),
            alternatives=tuple(values.get("alternatives", ())),
        )

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read what ``save`` wrote.

        Raises:
            CheckpointError: the file is missing, or no latency table.
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
