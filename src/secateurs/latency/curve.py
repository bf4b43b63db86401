"""``LatencyCurve``: milliseconds of a group as a function of its kept units."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from secateurs.structure.cost import Count

__all__ = ["LatencyCurve"]


@dataclass(frozen=True)
class LatencyCurve:
    """Milliseconds of a group at a few measured kept counts, with linear interpolation between them.

    ``units[0]`` is 0 (the group is emptied), which costs 0 ms by definition: the remaining cost of a removed sub-block is
    part of the table's overhead. The first unit has a real fixed cost, so there is no interpolation between 0 and the
    first unit. A curve of two points (0 and one other count) shows no fixed cost: it is a line through both.

    Args:
        units: measured kept counts, ascending, starting with 0.
        ms: non-decreasing milliseconds at those counts, starting with 0.
        raw_ms: measured milliseconds at those counts, before they were made non-decreasing.
        spread: half the interquartile range of each raw figure, relative to its median.
        multiple: multiple to which widths should be snapped; a width between two multiples costs as much as the next
            multiple.
        max_factored_rank: highest rank at which a matrix stays a pair of factors, for curves of ranks. At a higher rank
            it is one matrix and costs as much as the last point. 0 = the curve has no such rank.
    """

    units: tuple[int, ...]
    ms: tuple[float, ...]
    raw_ms: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    multiple: int = 1
    max_factored_rank: int = 0

    def __call__(self, kept: Count) -> Count:
        """Milliseconds at ``kept`` units, linear between the measured points and constant after the last one.

        Args:
            kept: number of kept units; gradients flow through a tensor.
        """
        value = _value(kept)
        if value <= 0:
            return kept * 0.0
        if len(self.units) < 2:
            return kept * 0.0
        if value >= self.units[-1] or 0 < self.max_factored_rank < value:
            return kept * 0.0 + self.ms[-1]
        if len(self.units) == 2:
            return kept * (self.ms[1] / self.units[1])
        right = max(2, bisect_right(self.units, value))
        left = right - 1
        slope = (self.ms[right] - self.ms[left]) / (self.units[right] - self.units[left])
        return self.ms[left] + slope * (kept - self.units[left])

    def as_factors(self, kept: Count) -> Count:
        """Milliseconds at ``kept`` units if a matrix stayed a pair of factors at every rank.

        Above ``max_factored_rank`` the line through the points below it is extended. The expected cost of gates uses
        this value: a cost that is constant above that rank has no gradient that closes gates.

        Args:
            kept: number of kept units; gradients flow through a tensor.
        """
        top = self.max_factored_rank
        if not 0 < top < _value(kept):
            return self(kept)
        at = self.units.index(top)
        rise = (self.ms[at] - self.ms[1]) / (top - self.units[1]) if at > 1 else 0.0
        return self.ms[at] + max(rise, self.ms[at] / (2 * top)) * (kept - top)

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values."""
        values = {name: list(getattr(self, name)) for name in ("units", "ms", "raw_ms", "spread")}
        top = {"pair": self.max_factored_rank} if self.max_factored_rank else {}
        return {**values, "multiple": self.multiple, **top}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LatencyCurve:
        """Inverse of ``to_dict``."""
        return cls(
            tuple(int(unit) for unit in values["units"]),
            tuple(float(ms) for ms in values["ms"]),
            tuple(float(ms) for ms in values.get("raw_ms", ())),
            tuple(float(part) for part in values.get("spread", ())),
            int(values.get("multiple", 1)),
            int(values.get("pair", 0)),
        )


def _value(kept: Count) -> float:
    return float(kept.detach() if isinstance(kept, Tensor) else kept)
