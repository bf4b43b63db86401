"""The page: it is complete, it has every number, and it loads nothing."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import reports
from report_pages import DASH, MINUS, Page, cases, page
from secateurs.report.card import card
from secateurs.report.formatting import duration
from secateurs.report.headline import headline, highlight
from secateurs.report.page import render
from secateurs.report.values import Interval, Kept, Metric, labels
from secateurs.structure.cut import Kind


@pytest.mark.parametrize("name", list(cases()))
def test_every_page_is_complete_and_loads_nothing(name: str) -> None:
    html = render(cases()[name])
    drawn = Page(html)
    assert not drawn.open
    assert len(drawn.ids) == len(set(drawn.ids))
    assert all(target.startswith("#") and target[1:] in drawn.ids for target in drawn.loads)
    assert not {"script", "link", "img", "iframe"} & set(drawn.tags)
    assert not re.search(r"https?:|url\(|@import", html)
    assert drawn.tags.count("h1") == 1
    assert "None" not in drawn.words
    assert "nan" not in drawn.words.split()


def test_the_page_has_every_number() -> None:
    original = reports.missed(reports.report())
    words = page(original).words
    for result in original.models:
        assert result.measured_speedup is not None
        assert result.metric is not None
        assert result.divergence is not None
        for text in (
            f"{result.target:.2f}x",
            f"{result.predicted_speedup:.2f}x",
            f"{result.measured_speedup.median:.2f}x",
            f"{result.measured_speedup.low:.2f}{DASH}{result.measured_speedup.high:.2f}",
            f"{result.latency_ms:.3g} ms",
            f"{result.parameters / 1e6:.1f}M",
            f"{100 * result.sparsity:.1f} %",
            f"{result.metric.value:.3f}",
            f"{MINUS}{result.metric.dense - result.metric.value:.3f}",
            f"{result.divergence.value:.3f}",
            result.path,
        ):
            assert text in words, text
        for kept in result.kept.values():
            assert f"{kept.kept or 'removed'} /{kept.size}" in words
        for seconds in result.seconds.values():
            assert duration(seconds) in words
    html = render([original])
    assert all(f'title="{result.parameters:,}"' in html for result in original.models)
    assert original.latency_table is not None
    for curve in original.latency_table["curves"].values():
        for units, raw in zip(curve["units"][1:], curve["raw_ms"][1:], strict=True):
            assert f"{units} kept: {raw:.4g} ms" in words
    assert original.commit is not None and original.command is not None
    for text in (*original.notes, original.data, original.commit, original.command, "learning_rate: 5.0e-05", "0, 1"):
        assert text in words
    for values in (original.environment, original.machine, original.versions):
        assert all(str(value) in words for value in values.values() if value is not None)
    assert 'AutoModelForSequenceClassification.from_pretrained("speedup-3.00x")' in words
    assert "Target 5.00x was missed (measured 4.71x)." in words


def test_names_are_escaped() -> None:
    nasty = '<script>alert("x")</script>&'
    original = reports.report(6)
    curves = original.to_dict()["latency_table"]
    curves["curves"][nasty] = curves["curves"].pop("heads")
    curves["groups"] = {
        group: nasty if curve == "heads" else curve for group, curve in curves["groups"].items()
    }  # the name of a curve ends in SVG
    first = replace(
        original.models[0], path=nasty, metric=Metric(nasty, 0.8, 0.9), kept={f"layer.0.{nasty}": Kept(Kind.HEAD, 4, 2)}
    )
    shown = replace(
        original,
        name=nasty,
        model=nasty,
        method=nasty,
        data=nasty,
        notes=[nasty],
        command=nasty,
        recipe={nasty: nasty},
        machine={nasty: nasty},
        latency_table=curves,
        models=[first],
    )
    for html in (render([shown]), render([shown, original])):
        assert "<script" not in html
        assert nasty in Page(html).words
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", card(shown, first), flags=re.DOTALL)
    assert "\\<script" in prose
    assert "<script" not in prose.replace("\\<", "")


def test_the_headline_is_the_fastest_model_that_meets_target_and_quality() -> None:
    original = reports.report()
    best = highlight(original)
    assert best is not None and best is original.models[1]
    assert headline(best) == f"2.01x speed-up (95 % interval 1.99{DASH}2.03), accuracy 0.885 (dense 0.892)"
    assert headline(best) in page(original).words
    slow = replace(best, measured_speedup=Interval(0.97, 0.95, 0.99), metric=None)
    assert headline(slow) == f"0.97x speed-up (95 % interval 0.95{DASH}0.99), held out kl 0.034 from the dense model"
    lower = replace(original, higher_is_better=False)
    assert highlight(lower) is lower.models[-1]
    assert highlight(reports.unlabelled(original)) == reports.unlabelled(original).models[0]
    assert highlight(replace(original, models=[])) is None


def test_what_was_not_measured_has_no_column() -> None:
    words = page(reports.sparse(reports.report(6))).words
    assert "measured" not in words
    assert "expected" not in words
    assert "55 % sparsity (43.0M of 66.4M parameters), accuracy 0.885 (dense 0.892)" in words
    assert "accuracy" not in page(reports.unlabelled(reports.report(6))).words


def test_several_runs_share_one_page() -> None:
    one, two = reports.report(), reports.report(method="cofi", qualities=(0.88, 0.87, 0.85, 0.82, 0.77))
    assert labels([one, two]) == ["ziplm", "cofi"]
    assert labels([one, reports.report(6)]) == [
        "ziplm, bert-base-uncased",
        "ziplm, distilbert-base-uncased",
    ]
    assert labels([one, one]) == ["12 layers on sst2 (1)", "12 layers on sst2 (2)"]
    html = render([one, two])
    words = Page(html).words
    for run, shown in enumerate((one, two)):
        assert f'id="run-{run}" class="run run-{run}"' in html
        for result in shown.models:
            assert result.metric is not None
            assert f"{shown.method}, target {result.target:.2f}x" in words
            assert f"{result.metric.value:.3f}" in words
    assert "Notes" not in words
    elsewhere = replace(two, environment=two.environment | {"threads": 4}, machine={"processor": "Other"})
    words = page(one, elsewhere).words
    assert "measured in different environments" in words
    assert "measured on different machines" in words


def test_render_needs_a_report() -> None:
    with pytest.raises(ValueError, match="at least one report"):
        render([])


def _luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_and_marks_pass_the_contrast_of_wcag() -> None:
    html = render([reports.report(6)])
    schemes = re.findall(r":root \{\n(.*?)\}", html, re.DOTALL)[:2]
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", scheme))
        pairs = [(text, ground, 4.5) for text in ("ink", "soft", "accent", "warn") for ground in ("ground", "surface")]
        pairs += [("warn", "warn-ground", 4.5), ("ink", "warn-ground", 4.5)]
        pairs += [(f"run-{run}", ground, 3.0) for run in range(6) for ground in ("ground", "surface", "track")]
        for text, ground, least in pairs:
            low, high = sorted((_luminance(colours[text]), _luminance(colours[ground])))
            assert (high + 0.05) / (low + 0.05) >= least, (text, ground)
