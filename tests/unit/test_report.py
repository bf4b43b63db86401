"""The report: what it stores, what the page and the card say."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from html.parser import HTMLParser
from io import StringIO

import pytest
import yaml
from rich.console import Console

import reports
from secateurs.errors import CheckpointError
from secateurs.report import Interval, Kept, ModelResult, Report, card, render
from secateurs.report.figures import difference, duration, headline, highlight, ms, parameters, percent, quality
from secateurs.report.kept import kept_map, kept_summary
from secateurs.report.svg import Scale, ticks
from secateurs.report.terminal import table
from secateurs.report.values import Metric, labels

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
RESULT_FIELDS = {
    "target",
    "predicted_speedup",
    "measured_speedup",
    "latency_ms",
    "dense_latency_ms",
    "parameters",
    "dense_parameters",
    "sparsity",
    "metric",
    "divergence",
    "seconds",
    "path",
    "kept",
    "met",
    "attempts",
    "sparsity_with_norms",
    "expected_sparsity",
    "zeros",
}
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Collects what a reader sees, what the page would load, and whether the tags balance."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "xlink:href"}]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


def page(*shown: Report) -> Page:
    return Page(render(shown))


def cases() -> dict[str, list[Report]]:
    twelve, six = reports.report(12), reports.report(6)
    return {
        "twelve layers": [twelve],
        "missed": [reports.missed(six)],
        "one target": [replace(six, models=six.models[:1])],
        "unlabelled": [reports.unlabelled(six)],
        "sparse": [reports.sparse(six)],
        "learned": [reports.learned(six)],
        "no model": [replace(six, models=[])],
        "several": [twelve, reports.report(12, method="cofi"), six],
    }


def test_save_and_load_return_the_same_report(tmp_path) -> None:
    before = reports.missed(reports.report())
    written = before.save(tmp_path / "run")
    assert written == tmp_path / "run" / "report.html"
    assert written.read_text() == render([before])
    assert Report.load(tmp_path / "run") == before == Report.load(tmp_path / "run" / "report.json")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["report.html", "report.json"]


def test_the_file_has_exactly_the_agreed_fields(tmp_path) -> None:
    reports.report().save(tmp_path)
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["format"] == 1
    for model in stored["models"]:
        assert set(model) == RESULT_FIELDS
        assert set(model["measured_speedup"]) == {"median", "low", "high"}
        assert set(model["metric"]) == {"name", "value", "dense"}
        assert set(model["divergence"]) == {"name", "value"}
        assert all(set(kept) == {"kind", "size", "kept"} for kept in model["kept"].values())
    assert {field.name for field in fields(ModelResult)} == RESULT_FIELDS


def test_numbers_that_are_not_finite_survive(tmp_path) -> None:
    original = reports.report()
    broken = replace(original.models[0], metric=Metric("perplexity", float("inf"), 20.0))
    replace(original, models=[broken]).save(tmp_path)
    json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert Report.load(tmp_path).models[0].metric == Metric("perplexity", float("inf"), 20.0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no report at"),
        ("{", "cannot be read as JSON"),
        ("[]", "names no format"),
        ('{"format": 99}', "report format 99, this version reads 1"),
        ('{"format": 1, "name": "x"}', "model: "),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(CheckpointError, match=re.escape(says)) as raised:
        Report.load(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_damaged_latency_table_and_an_unknown_field_are_refused(tmp_path) -> None:
    values = reports.report().to_dict()
    for change in ({"latency_table": {"curves": {}}}, {"surprise": 1}):
        (tmp_path / "report.json").write_text(json.dumps(values | change))
        with pytest.raises(CheckpointError, match=r"latency table|surprise"):
            Report.load(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot be written to .*file"):
        reports.report().save(tmp_path / "file")


@pytest.mark.parametrize("name", list(cases()))
def test_every_page_is_whole_and_loads_nothing(name: str) -> None:
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


def test_the_page_says_every_number() -> None:
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
        original.models[0], path=nasty, metric=Metric(nasty, 0.8, 0.9), kept={f"layer.0.{nasty}": Kept("head", 4, 2)}
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


def test_the_headline_is_the_fastest_model_that_keeps_its_promises() -> None:
    original = reports.report()
    best = highlight(original)
    assert best is original.models[1]
    assert headline(best) == f"2.01x faster (95 % interval 1.99{DASH}2.03), accuracy 0.885 against 0.892"
    assert headline(best) in page(original).words
    slow = replace(best, measured_speedup=Interval(0.97, 0.95, 0.99), metric=None)
    assert headline(slow) == f"0.97x as fast (95 % interval 0.95{DASH}0.99), held out kl 0.034 from dense"
    lower = replace(original, higher_is_better=False)
    assert highlight(lower) is lower.models[-1]
    assert highlight(reports.unlabelled(original)) == reports.unlabelled(original).models[0]
    assert highlight(replace(original, models=[])) is None


def test_what_was_not_measured_has_no_column() -> None:
    words = page(reports.sparse(reports.report(6))).words
    assert "measured" not in words
    assert "expected" not in words
    assert "55 % sparse (43.0M of 66.4M parameters), accuracy 0.885 against 0.892" in words
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
            assert f"{shown.method}, asked {result.target:.2f}x" in words
            assert f"{result.metric.value:.3f}" in words
    assert "Notes" not in words
    elsewhere = replace(two, environment=two.environment | {"threads": 4}, machine={"processor": "Other"})
    words = page(one, elsewhere).words
    assert "measured in different environments" in words
    assert "measured on different machines" in words


def test_render_needs_a_report() -> None:
    with pytest.raises(ValueError, match="at least one report"):
        render([])


def test_groups_become_rows_and_columns() -> None:
    kept = {
        "layer.0.heads": Kept("head", 12, 5),
        "layer.0.intermediate": Kept("intermediate", 3072, 0),
        "layer.10.intermediate": Kept("intermediate", 3072, 1200),
    }
    arranged = kept_map(kept)
    assert (arranged.places, arranged.columns) == ("layer", ("heads", "intermediate"))
    assert arranged.rows["0"] == (kept["layer.0.heads"], kept["layer.0.intermediate"])
    assert arranged.rows["10"] == (None, kept["layer.10.intermediate"])
    assert kept_summary(kept) == "5 of 12 heads and 1,200 of 6,144 intermediate units; 1 sub-block removed whole"
    mixed = kept_map({"hidden": Kept("hidden", 768, 512)} | kept)
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
    assert ticks(0, 12, 6, whole=True) == [0, 2, 4, 6, 8, 10, 12]
    assert ticks(0, 2, 10, whole=True) == [0, 1, 2]


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
    assert "Asked for 5.00x: missed." in removed


def test_every_way_of_counting_sparsity_is_told_apart() -> None:
    learned = reports.learned(reports.report(6))
    first = learned.models[0]
    drawn, written = page(learned).words, card(learned, first)
    assert first.sparsity == pytest.approx(0.4)
    row = next(line for line in _terminal(learned) if first.path in line)
    for shown in (row, drawn):
        assert all(text in shown for text in ("40.0 %", "39.6 %", "40.4 %"))
    headings = "".join(_terminal(learned)[:4])
    assert headings.index("sparsity") < headings.index("with norms") < headings.index("expected")
    assert "with norms, of all parameters of the layers; expected, what it was by the probabilities" in drawn
    assert "| sparsity of prunable parameters | 40.0 % | 0 % |" in written
    assert "| the same, as the learned gates expected it | 40.4 % | 0 % |" in written
    assert "| sparsity of all parameters of the layers, with norms | 39.6 % | 0 % |" in written
    older = replace(
        learned, models=[replace(one, sparsity_with_norms=None, expected_sparsity=None) for one in learned.models]
    )
    assert "with norms" not in page(older).words + card(older, older.models[0]) + "".join(_terminal(older))


def test_a_local_model_is_no_base_model_of_the_hub(tmp_path) -> None:
    original = reports.report()
    for model in (str(tmp_path), "./models/bert", "a/b/c"):
        front = yaml.safe_load(card(replace(original, model=model), original.models[0]).split("---\n")[1])
        assert "base_model" not in front


def _terminal(shown: Report) -> list[str]:
    console = Console(width=200, file=StringIO())
    with console.capture() as captured:
        console.print(table(shown))
    return captured.get().splitlines()


def test_zeros_stand_beside_the_sparsity() -> None:
    original = reports.report()
    zeros = replace(original, models=[replace(original.models[0], sparsity=0.0, zeros=0.7), *original.models[1:]])
    row = next(line for line in _terminal(zeros) if zeros.models[0].path in line)
    assert "0.0 %, 70 % zeros" in row
    assert "0.0 %, 70 % zeros" in page(zeros).words
    assert "| sparsity of prunable parameters | 0.0 %, 70 % zeros | 0 % |" in card(zeros, zeros.models[0])
    few = replace(original.models[0], zeros=0.004)
    assert not few.has_zeros and "zeros" not in card(original, few)


def test_the_terminal_table_says_the_same() -> None:
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
