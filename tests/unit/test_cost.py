"""What a gate regulariser reads off the latency table."""

from __future__ import annotations

import pytest

from secateurs.cost import LatencyCurve, LatencyTable
from secateurs.environment import Environment

TABLE = LatencyTable(
    Environment(),
    dense_ms=19.0,
    overhead_ms=4.0,
    curves={
        "heads": LatencyCurve((0, 1, 2, 4), (0.0, 2.0, 3.0, 5.0)),
        "neurons": LatencyCurve((0, 8, 64), (0.0, 3.0, 10.0)),
    },
    groups={"a": "heads", "b": "neurons"},
)


@pytest.mark.parametrize(("heads", "neurons"), [(4, 64), (1, 8), (2, 36), (0, 64)])
def test_expected_latency_of_what_is_there_for_certain_is_the_latency(heads: int, neurons: int) -> None:
    counts = {"a": heads, "b": neurons}
    assert TABLE.expected({"a": 1.0, "b": 1.0}, counts) == pytest.approx(float(TABLE(counts)))


def test_expected_latency_has_no_step_for_what_is_gone() -> None:
    counts = {"a": 1, "b": 8}
    assert TABLE.expected({"a": 0.0, "b": 0.0}, counts) == TABLE.overhead_ms
    assert TABLE.expected({"a": 0.5, "b": 0.25}, counts) == pytest.approx(4.0 + 0.5 * 2.0 + 0.25 * 3.0)
