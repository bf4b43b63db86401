"""The card, the terminal table and how numbers are written in both."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO

import pytest
import yaml
from rich.console import Console

import reports
from report_pages import DASH, MINUS, page
from secateurs.report.card import card
from secateurs.report.formatting import difference, duration, ms, parameters, percent, quality
from secateurs.report.kept import kept_map, kept_summary
from secateurs.report.report import Report
from secateurs.report.svg import Scale, ticks
from secateurs.report.terminal import table
from secateurs.report.values import Kept, Metric
from secateurs.structure.cut import Kind


def test_groups_become_rows_and_columns() -> None:
    kept = {
        "layer.0.heads": Kept(Kind.HEAD, 12, 5),
        "layer.0.intermediate": Kept(Kind.INTERMEDIATE, 3072, 0),
        "layer.10.intermediate": Kept(Kind.INTERMEDIATE, 3072, 1200),
    }
    arranged = kept_map(kept)
    assert (arranged.row_heading, arranged.columns) == ("layer", ("heads", "intermediate"))
    assert arranged.rows["0"] == (kept["layer.0.heads"], kept["layer.0.intermediate"])
    assert arranged.rows["10"] == (None, kept["layer.10.intermediate"])
    assert kept_summary(kept) == "5 of 12 heads and 1,200 of 6,144 intermediate units; 1 sub-block removed"
    mixed = kept_map({"hidden": Kept(Kind.HIDDEN, 768, 512)} | kept)
    assert list(mixed.rows) == ["whole model", "layer 0", "layer 10"]
    assert kept_map({}).rows == {}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (ms(192.4), "192 ms"),
        (ms(58.94), "58.9 ms"),
        (ms(0.3141), "0.314 ms"),
        (parameters(109_482_240), "109M"),
        (parameters(41_203_458), "41.2M"),
        (parameters(1_240_000_000), "1.24B"),
        (parameters(812), "812"),
        (percent(0.714), "71 %"),
        (percent(0.018), "1.8 %"),
        (quality(0.88123), "0.881"),
        (quality(0.0011), "0.0011"),
        (quality(0.000084), "0.000084"),
        (quality(0.0), "0.000"),
        (quality(23.456), "23.46"),
        (quality(-0.02), f"{MINUS}0.020"),
        (difference(Metric("accuracy", 0.881, 0.892)), f"{MINUS}0.011"),
        (difference(Metric("perplexity", 25.0, 23.5)), "+1.50"),
        (difference(Metric("accuracy", 0.892, 0.892)), "\N{PLUS-MINUS SIGN}0.000"),
        (duration(3.21), "3.2 s"),
        (duration(59.6), "1 min 0 s"),
        (duration(754), "12 min 34 s"),
        (duration(3725), "1 h 2 min"),
    ],
)
def test_how_numbers_are_written(written: str, expected: str) -> None:
    assert written == expected


def test_scales_and_ticks() -> None:
    scale = Scale(1, 5, 52, 452)
    assert (scale(1), scale(3), scale(5)) == (52, 252, 452)
    assert ticks(0.8, 0.901, 5) == [0.8, 0.825, 0.85, 0.875, 0.9]
    assert ticks(0, 12, 6, integers=True) == [0, 2, 4, 6, 8, 10, 12]
    assert ticks(0, 2, 10, integers=True) == [0, 1, 2]


def test_the_card_states_the_numbers_and_parses() -> None:
    original = reports.missed(reports.report())
    result = original.models[1]
    text = card(original, result)
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "base_model": "bert-base-uncased",
        "base_model_relation": "finetune",
        "pipeline_tag": "text-classification",
        "tags": ["secateurs", "pruning"],
    }
    for part in (
        f"| speed-up (95 % interval) | 2.01x (1.99{DASH}2.03) | 1.00x |",
        f"| latency | 95.4 ms | {original.models[0].dense_latency_ms:.0f} ms |",
        f"| parameters | {result.parameters:,} | {result.dense_parameters:,} |",
        "| accuracy | 0.885 | 0.892 |",
        "Example Processor 9000 @ 2.40GHz",
        "batch size 32",
        "import secateurs",
        'AutoModelForSequenceClassification.from_pretrained("speedup-2.00x", trust_remote_code=True)',
        "2302.04089",
        "Kurtic, Eldar and Frantar, Elias and Alistarh, Dan",
        kept_summary(result.kept),
    ):
        assert part in body, part
    recipe = re.search(r"```yaml\n(.*?)```", body, re.DOTALL)
    assert recipe is not None
    assert yaml.safe_load(recipe.group(1)) == original.recipe
    removed = card(original, original.models[-1])
    assert "| removed |" in removed
    assert "Target: 5.00x (missed)." in removed


def test_every_definition_of_sparsity_is_shown() -> None:
    learned = reports.learned(reports.report(6))
    first = learned.models[0]
    drawn, written = page(learned).words, card(learned, first)
    assert first.sparsity == pytest.approx(0.4)
    row = next(line for line in _terminal(learned) if first.path in line)
    for shown in (row, drawn):
        assert all(text in shown for text in ("40.0 %", "39.6 %", "40.4 %"))
    headings = "".join(_terminal(learned)[:4])
    assert headings.index("sparsity") < headings.index("with norms") < headings.index("expected")
    assert "“With norms” is the removed fraction of all parameters of the layers" in drawn
    assert "“Expected” is the sparsity expected under the probabilities of the learned gates" in drawn
    assert "| sparsity of the prunable parameters | 40.0 % | 0 % |" in written
    assert "| expected sparsity of the prunable parameters, by the learned gates | 40.4 % | 0 % |" in written
    assert "| sparsity of all parameters of the layers, norms included | 39.6 % | 0 % |" in written
    older = replace(
        learned, models=[replace(one, sparsity_with_norms=None, expected_sparsity=None) for one in learned.models]
    )
    shown = page(older).words + card(older, older.models[0]) + "".join(_terminal(older))
    assert "norms" not in shown and "expected" not in shown


def test_a_local_model_is_not_named_as_base_model(tmp_path) -> None:
    original = reports.report()
    for model in (str(tmp_path), "./models/bert", "a/b/c"):
        front = yaml.safe_load(card(replace(original, model=model), original.models[0]).split("---\n")[1])
        assert "base_model" not in front


def _terminal(shown: Report) -> list[str]:
    console = Console(width=200, file=StringIO())
    with console.capture() as captured:
        console.print(table(shown))
    return captured.get().splitlines()


def test_zeros_are_shown_next_to_the_sparsity() -> None:
    original = reports.report()
    zeros = replace(original, models=[replace(original.models[0], sparsity=0.0, zeros=0.7), *original.models[1:]])
    row = next(line for line in _terminal(zeros) if zeros.models[0].path in line)
    assert "0.0 %, 70 % zeros" in row
    assert "0.0 %, 70 % zeros" in page(zeros).words
    assert "| sparsity of the prunable parameters | 0.0 %, 70 % zeros | 0 % |" in card(zeros, zeros.models[0])
    assert "Weights that are 0 stay" in card(zeros, zeros.models[0])
    few = replace(original.models[0], zeros=0.004)
    assert not few.has_zeros and "zeros" not in card(original, few)


def test_the_terminal_table_has_the_same_numbers() -> None:
    original = reports.missed(reports.report())
    lines = _terminal(original)
    for result in original.models:
        assert result.measured_speedup is not None
        assert result.metric is not None
        row = next(line for line in lines if result.path in line)
        for part in (
            f"{result.measured_speedup.median:.2f}x",
            f"{result.metric.value:.3f}",
            f"{result.latency_ms:.3g} ms",
            "met" if result.met else "missed",
        ):
            assert part in row
    unlabelled = reports.sparse(reports.unlabelled(original))
    row = next(line for line in _terminal(unlabelled) if unlabelled.models[0].path in line)
    assert "40.0 %" in row
    assert DASH in row
    assert "asked" in "".join(_terminal(replace(original, models=[])))
