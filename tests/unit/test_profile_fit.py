"""Fit of latency curves to readings: non-decreasing curves, the free multiple, and curves of ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateurs.latency.curve import LatencyCurve
from secateurs.latency.profile_fit import fit_curve, free_multiple


def test_decreasing_readings_are_pooled_to_their_mean() -> None:
    curve = fit_curve((1, 2, 4, 8, 16), (1.0, 3.0, 2.0, 7.0, 5.0), (0.1,) * 5, multiple=8, floor=0.01)
    assert curve.units == (0, 1, 2, 4, 8, 16)
    assert curve.ms == pytest.approx((0, 1, 2.5, 2.5, 6, 6))
    assert curve.raw_ms == (0, 1, 3, 2, 7, 5)
    assert curve.multiple == 8
    assert curve(6) == pytest.approx(2.5 + (6 - 2.5) / 2)


@given(st.lists(st.floats(-5, 100), min_size=1, max_size=9))
@settings(deadline=None)
def test_curves_never_decrease_and_stay_above_the_floor(readings: list[float]) -> None:
    units = range(1, len(readings) + 1)
    curve = fit_curve(tuple(units), readings, [0.0] * len(readings), multiple=1, floor=0.5)
    assert all(np.diff(curve.ms) >= 0)
    assert min(curve.ms[1:]) >= 0.5
    assert curve(0) == 0


@pytest.mark.parametrize("true_multiple", [1, 2, 8, 32, 128])
def test_free_multiple_is_the_smallest_without_extra_cost(true_multiple: int) -> None:
    widths = [512, *(512 + part for part in (1, 2, 4, 8, 16, 32, 64)), 640]
    times = {width: 0.01 * width * (1.0 if width % true_multiple == 0 else 1.1) for width in widths}
    assert free_multiple(times) == true_multiple


def test_a_curve_of_ranks_ends_at_the_time_of_the_matrix() -> None:
    """A pair of factors that is slower than the matrix costs as much as the matrix, which keeps its measured time."""
    curve = fit_curve((1, 8, 16, 32), (1.0, 3.0, 7.0, 5.0), (0.0,) * 4, multiple=8, floor=0.1, max_factored_rank=16)
    assert [curve(rank) for rank in (0, 1, 8, 16, 17, 32)] == [0, 1, 3, 5, 5, 5]
    assert curve.as_factors(16) == 5 and curve.as_factors(8) == 3
    assert curve.as_factors(32) == pytest.approx(5 + 16 * (5 - 1) / 15)
    rank = torch.tensor(24.0, requires_grad=True)
    curve.as_factors(rank).backward()
    assert rank.grad is not None and rank.grad > 0
    assert LatencyCurve.from_dict(curve.to_dict()) == curve
