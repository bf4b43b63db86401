"""The choice of levels within a budget against exhaustive search and an integer programming solver."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from oracle.naive import best_choice
from secateurs.numerics.knapsack import Infeasible, solve

TIMES = [[3.0, 2.0, 1.0, 0.0], [4.0, 2.5, 1.0, 0.0], [3.0, 1.5, 0.5, 0.0]]
COSTS = [[0.0, 0.1, 0.4, 1.0], [0.0, 0.2, 0.3, 1.0], [0.0, 0.05, 0.5, 1.0]]


def total(values: list[list[float]], choice: list[int]) -> float:
    return math.fsum(group[level] for group, level in zip(values, choice, strict=True))


@pytest.mark.parametrize(
    ("budget", "choice", "cost", "time"),
    [
        (10.0, [0, 0, 0], 0.0, 10.0),
        (7.0, [0, 1, 1], 0.25, 7.0),  # fits exactly; with rounded times alone the result would be [0, 2, 1]
        (5.0, [1, 2, 1], 0.45, 4.5),
        (3.0, [2, 2, 2], 1.2, 2.5),
        (1.5, [3, 3, 1], 2.05, 1.5),
        (0.5, [3, 3, 2], 2.5, 0.5),
        (0.0, [3, 3, 3], 3.0, 0.0),
    ],
)
def test_known_choices(budget: float, choice: list[int], cost: float, time: float) -> None:
    found = solve(TIMES, COSTS, budget, buckets=1000)
    assert found == choice
    assert total(COSTS, found) == pytest.approx(cost)
    assert total(TIMES, found) == pytest.approx(time)


# Times that are multiples of a bucket are not rounded, so the result must be optimal.
INTEGER_TIMES = st.lists(
    st.lists(st.tuples(st.integers(0, 12), st.floats(-5, 5, allow_nan=False)), min_size=1, max_size=5),
    min_size=1,
    max_size=4,
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(levels=INTEGER_TIMES, budget=st.integers(0, 40))
def test_integer_times_are_solved_exactly(levels: list[list[tuple[int, float]]], budget: int) -> None:
    times = [[float(time) for time, _ in group] for group in levels]
    costs = [[cost for _, cost in group] for group in levels]
    best = best_choice(times, costs, budget)
    if best is None:
        with pytest.raises(Infeasible) as caught:
            solve(times, costs, float(budget), buckets=max(budget, 1))
        assert caught.value.smallest == sum(min(group) for group in times)
        return
    found = solve(times, costs, float(budget), buckets=max(budget, 1))
    assert total(times, found) <= budget
    assert total(costs, found) == pytest.approx(best[0], abs=1e-9)


REAL = st.lists(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1)), min_size=1, max_size=4), min_size=1, max_size=4)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(levels=REAL, budget=st.floats(0, 10), buckets=st.sampled_from([1, 3, 50, 10_000]))
def test_real_times_keep_to_the_budget_and_are_nearly_optimal(
    levels: list[list[tuple[float, float]]], budget: float, buckets: int
) -> None:
    times = [[time for time, _ in group] for group in levels]
    costs = [[cost for _, cost in group] for group in levels]
    smallest = math.fsum(min(group) for group in times)
    if smallest > budget:
        with pytest.raises(Infeasible) as caught:
            solve(times, costs, budget, buckets=buckets)
        assert caught.value.smallest == pytest.approx(smallest)
        return
    found = solve(times, costs, budget, buckets=buckets)
    assert total(times, found) <= budget
    # Rounding up costs at most one bucket per group: the result is no worse than the optimum for that smaller budget.
    tightened = best_choice(times, costs, budget * (1 - len(times) / buckets) - 1e-9)
    if tightened is not None:
        assert total(costs, found) <= tightened[0] + 1e-9
    # No change of a single level that keeps to the budget lowers the cost.
    for group in range(len(times)):
        for level in range(len(times[group])):
            changed = [*found[:group], level, *found[group + 1 :]]
            if total(times, changed) <= budget:
                assert total(costs, changed) >= total(costs, found) - 1e-12


def by_integer_programme(times: list[list[float]], costs: list[list[float]], budget: float) -> float:
    sizes = [len(group) for group in times]
    one_each = np.zeros((len(sizes), sum(sizes)))
    for group, start in enumerate(np.cumsum([0, *sizes[:-1]])):
        one_each[group, start : start + sizes[group]] = 1
    result = milp(
        np.concatenate(costs),
        constraints=[LinearConstraint(np.concatenate(times)[None], ub=budget), LinearConstraint(one_each, 1, 1)],
        integrality=np.ones(sum(sizes)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    assert result.success
    return float(result.fun)


@pytest.mark.parametrize("seed", range(4))
def test_model_sized_problem_against_an_integer_programme(seed: int) -> None:
    generator = np.random.default_rng(seed)
    times, costs = [], []
    for group in range(12):
        levels = 13 if group % 2 else 20
        kept = np.linspace(1, 0, levels)
        times.append((kept * generator.uniform(1, 3) + 0.1 * (kept > 0)).tolist())
        costs.append(((1 - kept) ** 2 * generator.uniform(0.1, 1)).tolist())
    budget = 0.4 * sum(group[0] for group in times)
    found = solve(times, costs, budget)
    assert total(times, found) <= budget
    least = by_integer_programme(times, costs, budget)
    assert least - 1e-9 <= total(costs, found) <= least * 1.005


def test_cost_falls_as_the_budget_grows() -> None:
    spent = [total(COSTS, solve(TIMES, COSTS, budget)) for budget in np.linspace(0, 11, 40).tolist()]
    assert spent == sorted(spent, reverse=True)
    assert spent[0] > spent[-1]


def test_slack_left_by_rounding_is_spent() -> None:
    # Each time is rounded up to two of four buckets, which leaves room for two groups; the exact times leave room for three.
    times, costs = [[3.0, 0.0], [3.0, 0.0], [3.0, 0.0]], [[0.0, 1.0], [0.0, 1.0], [0.0, 2.0]]
    assert solve(times, costs, 10.0, buckets=4) == [0, 0, 0]
    assert solve(times, costs, 8.9, buckets=4) in ([0, 1, 0], [1, 0, 0])


def test_negative_costs_and_dominated_levels() -> None:
    # A level that is both slower and worse (noise in a latency table) is never chosen.
    assert solve([[1.0, 1.3, 0.5]], [[0.0, 0.2, 1.0]], 1.3) == [0]
    assert solve([[1.0, 2.0], [1.0, 3.0]], [[-1.0, -3.0], [0.0, -4.0]], 4.0) == [0, 1]


def test_of_levels_of_equal_cost_the_faster_is_chosen() -> None:
    assert solve([[2.0, 1.0]], [[0.5, 0.5]], 5.0) == [1]


def test_infeasible_names_the_smallest_time() -> None:
    with pytest.raises(Infeasible, match=r"less time than 3, and the budget is 2\.5") as caught:
        solve([[1.0, 2.0], [2.0]], [[1.0, 0.0], [0.0]], 2.5)
    assert caught.value.smallest == 3.0
    assert isinstance(caught.value, ValueError)


def test_a_budget_of_exactly_the_smallest_time() -> None:
    # 0.1 + 0.2 is not 0.3 in floating point, and every time is rounded up; the fastest choice must still be found.
    assert solve([[0.1, 1.0], [0.2, 1.0]], [[1.0, 0.0], [1.0, 0.0]], 0.1 + 0.2, buckets=7) == [0, 0]


@pytest.mark.parametrize(
    ("times", "costs", "budget", "message"),
    [
        ([[1.0]], [[1.0, 2.0]], 1.0, "same levels"),
        ([[1.0]], [[1.0], [2.0]], 1.0, "same groups"),
        ([[]], [[]], 1.0, "at least one level"),
        ([[math.nan]], [[1.0]], 1.0, "finite"),
        ([[-1.0]], [[1.0]], 1.0, "negative"),
        ([[1.0]], [[1.0]], math.inf, "finite"),
    ],
)
def test_invalid_arguments_are_refused(
    times: list[list[float]], costs: list[list[float]], budget: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        solve(times, costs, budget)


def test_no_group_needs_no_choice() -> None:
    assert solve([], [], 1.0) == []
