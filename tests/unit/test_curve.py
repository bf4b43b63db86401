"""``speedup: auto``: which speed-ups it asks for, and where the report sees the knee."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

import reports
from secateurs.errors import RecipeError
from secateurs.pipeline.recipe import Recipe
from secateurs.pipeline.recipe_targets import CURVE, reachable
from secateurs.report.knee import asked, knee
from secateurs.report.page import render
from secateurs.report.report import Report
from secateurs.report.terminal import table
from secateurs.report.values import Divergence, Interval


def recipe(speedup: Any) -> Recipe:
    return Recipe.of({"model": "m", "task": "embedding", "data": "d", "speedup": speedup})


@pytest.mark.parametrize("given", ["auto", ["auto"], ["auto", "auto"]])
def test_auto_is_read_and_written(given: Any) -> None:
    made = recipe(given)
    assert made.speedup == ("auto",)
    assert [target.value for target in made.targets] == list(CURVE)
    assert Recipe.of(made.to_dict()) == made


def test_numbers_are_read_as_before() -> None:
    assert recipe([3, "2"]).speedup == (2.0, 3.0)
    assert recipe(2).speedup == (2.0,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["auto", 2], "auto chooses the speed-ups itself"),
        ("fast", "'fast' is neither a number nor auto"),
        (1, "not greater than 1"),
    ],
)
def test_what_is_no_speedup_is_refused(given: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(given)


@pytest.mark.parametrize(("largest", "last"), [(1.1, 1.25), (2.1, 1.5), (2.3, 2.0), (20.0, 8.0)])
def test_what_is_out_of_reach_is_left_out(largest: float, last: float) -> None:
    """All but the smallest, which is refused later by name."""
    made = recipe("auto")
    assert reachable(made.speedup, made.targets, largest)[-1].value == last
    three = recipe([2, 50])
    assert reachable(three.speedup, three.targets, largest) == three.targets, "what the user named is never left out"


def curve(*points: tuple[float, float], speedup: Any = ("auto",)) -> Report:
    """A report with models of given speed-ups and divergences."""
    one = reports.report()
    models = [
        replace(
            one.models[0],
            target=speed,
            path=f"speedup-{speed:.2f}x",
            measured_speedup=Interval(speed, 0.98 * speed, 1.02 * speed),
            divergence=Divergence("KL", lost),
        )
        for speed, lost in points
    ]
    return replace(one, models=models, recipe={**one.recipe, "speedup": list(speedup)})


def test_the_knee_is_where_the_curve_turns() -> None:
    """Divergences that rise slowly up to 3x and steeply behind it."""
    report = curve((1.5, 0.01), (2, 0.02), (3, 0.04), (4, 0.5), (6, 1.5))
    found = knee(report)
    assert found is not None and found.target == 3
    assert [asked(report, model) for model in report.models] == ["1.50x", "2.00x", "3.00x (knee)", "4.00x", "6.00x"]


def test_the_knee_of_a_circle_is_where_its_slope_is_that_of_the_chord() -> None:
    points = [(1 + x, 1 - (1 - x * x) ** 0.5) for x in (0.2, 0.4, 0.6, 2**-0.5, 0.8, 0.9, 1.0)]
    found = knee(curve(*points))
    assert found is not None and found.target == pytest.approx(1 + 2**-0.5)


def test_a_curve_without_a_knee_has_none() -> None:
    assert knee(curve((2, 0.5), (3, 1.0))) is None, "a straight line"
    assert knee(curve((2, 0.9), (3, 1.0))) is None, "the first cut costs most"
    assert knee(curve((2, 0.1))) is None, "one model"
    assert knee(curve()) is None
    assert knee(curve((2, 0.1), (3, 1.0), speedup=(2.0, 3.0))) is None, "the user named the speed-ups"


def test_the_knee_is_on_the_page_and_in_the_terminal() -> None:
    report = curve((1.5, 0.01), (2, 0.02), (3, 0.04), (4, 0.5))
    page = render([report])
    assert "3.00x (knee)" in page
    assert "Knee: the model farthest below the straight line" in page
    console = Console(width=220, record=True, file=io.StringIO())
    console.print(table(report))
    text = console.export_text()
    assert "3.00x (knee)" in text
    assert "Knee: the model farthest below" in text
    plain = render([curve((1.5, 0.01), (2, 0.02), speedup=(1.5, 2.0))])
    assert "Knee:" not in plain
    assert "(knee)" not in plain
