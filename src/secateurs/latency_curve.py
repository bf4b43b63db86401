"""Milliseconds of one kind of sub-block against its kept units."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Count", "LatencyCurve"]

Count = int | float | Tensor


@dataclass(frozen=True)
class LatencyCurve:
    """A few measured points, and lines between them.

    ``units[0]`` is 0 (the sub-block removed), which costs 0 ms by definition: what a removed sub-block still costs is
    in the table's overhead. The step from 0 to the first unit is real, so no interpolation crosses it.

    Args:
        units: kept counts measured, ascending, starting with 0.
        ms: monotone milliseconds at those counts, starting with 0.
        raw_ms: as measured, before the monotone filter.
        spread: relative half-width of each raw figure (interquartile range / median / 2).
        multiple: widths are best snapped to this multiple; anything between costs as much.
        pair: of ranks: the highest at which a matrix is two factors; above, it is one, and costs what the last point
            says. 0 = no such step.
    """

    units: tuple[int, ...]
    ms: tuple[float, ...]
    raw_ms: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    multiple: int = 1
    pair: int = 0

    def __call__(self, kept: Count) -> Count:
        """Milliseconds at ``kept`` units, linear between measured points."""
        value = _value(kept)
        if value <= 0:
            return kept * 0.0
        if value >= self.units[-1] or len(self.units) < 3 or 0 < self.pair < value:
            last = len(self.units) - 1
            return kept * 0.0 + self.ms[last] if last else kept * 0.0
        right = max(2, bisect_right(self.units, value))
        left = right - 1
        slope = (self.ms[right] - self.ms[left]) / (self.units[right] - self.units[left])
        return self.ms[left] + slope * (kept - self.units[left])

    def apart(self, kept: Count) -> Count:
        """The same if factors were never multiplied: above ``pair`` the line through the points below it goes on.

        What is expected of gates is counted so: a cost that stood still there would not tell them to close.
        """
        if not 0 < self.pair < _value(kept):
            return self(kept)
        at = self.units.index(self.pair)
        rise = (self.ms[at] - self.ms[1]) / (self.pair - self.units[1]) if at > 1 else 0.0
        return self.ms[at] + max(rise, self.ms[at] / (2 * self.pair)) * (kept - self.pair)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        values = {name: list(getattr(self, name)) for name in ("units", "ms", "raw_ms", "spread")}
        return {**values, "multiple": self.multiple, **({"pair": self.pair} if self.pair else {})}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LatencyCurve:
        """What ``to_dict`` gave."""
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
