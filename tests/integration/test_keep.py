"""``--keep``: the fastest model that keeps a share of the quality, and what is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import secateurs
import tiny_run
from secateurs.errors import RecipeError, TargetUnreachable
from secateurs.pipeline import keep_search
from secateurs.pipeline.keep_search import STEP, tries_of
from secateurs.pipeline.kept_quality import answers_of, kept_quality
from secateurs.pipeline.load import load
from secateurs.pipeline.recipe import Recipe
from secateurs.report.report import Report
from secateurs.structure.mask import Mask
from tiny import WORDS, tiny_tokenizer, write_rows

KEEP = 0.7


def unlabelled(path: Path, train: int = 600, validation: int = 200) -> Path:
    """Random sentences without labels."""
    chance = random.Random(1)
    for split, count in (("train", train), ("validation", validation)):
        texts = [" ".join(chance.choices(WORDS, k=chance.randint(4, 12))) for _ in range(count)]
        write_rows(path / f"{split}.parquet", text=texts)
    return path


def undecided(folder: Path, texts: Path) -> None:
    """Shift the outputs of a saved classifier so that half of some texts have each class: pruning changes some answers."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokens = tiny_tokenizer()(pandas.read_parquet(texts)["text"].tolist(), padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits
        model.classifier.bias[0] += (logits[:, 1] - logits[:, 0]).median()
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A model whose answers depend on all of its layers, and texts without labels."""
    folder = tmp_path_factory.mktemp("keep")
    given = tiny_run.recipe(folder)
    undecided(folder / "model", unlabelled(folder / "texts") / "train.parquet")
    return given.model_copy(update={"data": str(folder / "texts"), "speedup": (), "keep": (KEEP,)})


@pytest.fixture(scope="module")
def finished(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    out = tmp_path_factory.mktemp("finished") / "out"
    return out, secateurs.run(recipe, out)


def test_the_found_speedup_is_the_last_that_passes(finished: tuple[Path, Report]) -> None:
    out, report = finished
    [model] = report.models
    assert report.target_kind == "keep"
    assert (model.target, model.path) == (KEEP, "keep-0.7")
    kept = model.kept_quality
    assert kept is not None
    chosen = kept.chosen
    assert chosen.low >= KEEP
    table = secateurs.LatencyTable.load(out / "latency.json")
    assert len(kept.tries) <= tries_of(len(keep_search.grid(table.largest_speedup)))
    passed, failed = ([one.speedup for one in kept.tries if (one.low >= KEEP) is side] for side in (True, False))
    assert max(passed) == chosen.speedup
    assert min(failed) == pytest.approx(STEP * chosen.speedup), "the next faster model was not refused"
    assert model.predicted_speedup is not None
    assert chosen.speedup <= model.predicted_speedup <= STEP**2 * chosen.speedup
    assert model.measured_speedup is not None


def test_the_delivered_model_is_the_one_that_passed(recipe: Recipe, finished: tuple[Path, Report]) -> None:
    """The saved folder, loaded anew, keeps on the texts that chose what its try kept, and on the others what is reported."""
    out, report = finished
    loaded = load(recipe)
    small = AutoModelForSequenceClassification.from_pretrained(out / report.models[0].path)
    kept = report.models[0].kept_quality
    assert kept is not None
    chosen = kept.chosen
    for role, value, texts in (("choose", chosen.kept, chosen.texts), ("report", kept.value, kept.texts)):
        batches = getattr(loaded.data.roles, role).batches
        found = kept_quality(loaded, small, batches, answers_of(loaded, loaded.dense, batches), confidence=0.95)
        assert (found.fraction.value, found.texts) == (value, texts)
        assert found.measure == "agreement with the dense answers"
        assert 0 < found.fraction.low < found.fraction.value < 1


def test_the_texts_that_choose_are_not_reported_on(recipe: Recipe, finished: tuple[Path, Report]) -> None:
    roles = load(recipe).data.roles
    texts = {
        name: {tuple(row) for batch in role.batches for row in batch["input_ids"].tolist()}
        for name, role in roles.by_name.items()
    }
    assert set(texts) == {"fit", "search", "accept", "choose", "report"}
    assert not any(texts["choose"] & own for name, own in texts.items() if name != "choose")
    said = {each.role: each.rows for each in finished[1].texts}
    assert said["choose"] == 150, "a quarter of the texts"
    assert said["report"] == 200


def test_the_page_says_what_was_promised_and_what_came(finished: tuple[Path, Report]) -> None:
    out, report = finished
    kept = report.models[0].kept_quality
    assert kept is not None
    page = (out / "report.html").read_text()
    assert f"Keep 70 %: {kept.chosen.speedup:.2f}x by the latency table was chosen" in page
    assert str(kept) in page
    assert "keep 70 %" in page
    assert "chosen on texts of train: if the model was trained on them, it keeps less of others." in page
    assert str(kept) in (out / "keep-0.7" / "README.md").read_text()
    assert Report.load(out) == report


def test_a_killed_search_goes_on_after_its_last_try(
    recipe: Recipe, finished: tuple[Path, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, report = finished
    tries = report.models[0].kept_quality.tries  # type: ignore[union-attr]
    assert len(tries) > 2
    with pytest.raises(tiny_run.Killed):
        secateurs.run(recipe, tmp_path / "out", track=tiny_run.kill_at("find the speed-up of keep 0.7", 2))
    assert len(keep_search.read_tries(tmp_path / "out" / "stages" / "keep.json")) == 2
    again: list[float] = []
    attempt: Callable[..., Any] = keep_search._try
    monkeypatch.setattr(
        keep_search, "_try", lambda shared, speedup, **how: again.append(speedup) or attempt(shared, speedup, **how)
    )
    resumed = secateurs.run(recipe, tmp_path / "out", resume=True)
    assert len(again) == len(tries) - 2
    assert resumed.models[0].kept_quality == report.models[0].kept_quality
    name = "keep-0.7/mask.safetensors"
    assert Mask.load(tmp_path / "out" / name) == Mask.load(done / name)


def test_a_share_that_no_cut_keeps_loses_nothing(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other share is delivered, and a lower one is found in the same folder with the tries that are there."""
    out = tmp_path / "out"
    both = recipe.model_copy(update={"keep": (KEEP, 0.999)})
    with pytest.raises(TargetUnreachable, match=r"no cut keeps 0\.999 with 95 % confidence: at 1\.05x .*: lower keep"):
        secateurs.run(both, out)
    assert [model.path for model in Report.load(out).models] == ["keep-0.7"]
    assert (out / "keep-0.7").is_dir()
    before = keep_search.read_tries(out / "stages" / "keep.json")
    with pytest.raises(RecipeError, match="seed differ"):
        secateurs.run(both.model_copy(update={"seed": 1}), out, resume=True)
    lower = secateurs.run(recipe.model_copy(update={"keep": (0.6, KEEP)}), out, resume=True)
    assert [model.target for model in lower.models] == [0.6, KEEP]
    slow, fast = lower.models[1], lower.models[0]
    assert slow.predicted_speedup is not None and fast.predicted_speedup is not None
    assert fast.predicted_speedup >= slow.predicted_speedup
    assert keep_search.read_tries(out / "stages" / "keep.json")[: len(before)] == before
    assert Recipe.load(out / "recipe.yaml").keep == (0.6, KEEP)


@pytest.mark.parametrize("method", ["uniform", "magnitude", "random-units"])
def test_other_methods_without_training_keep_too(recipe: Recipe, tmp_path: Path, method: str) -> None:
    changes = {"method": method, "hyperparameters": {}, "keep": (0.4,)}
    report = secateurs.run(recipe.model_copy(update=changes), tmp_path / "out")
    kept = report.models[0].kept_quality
    assert kept is not None
    chosen = kept.chosen
    assert chosen.low >= 0.4


def test_a_language_model_keeps_its_perplexity(tmp_path: Path) -> None:
    """The kept share is the perplexity of the dense model / that of the pruned one, on windows of other texts."""
    given = tiny_run.recipe(tmp_path, "llama", "causal-lm", keep=0.9, speedup=())
    unlabelled(tmp_path / "data", 2000, 200)
    loaded = load(given)
    assert loaded.data.roles.choose.rows > 100
    assert loaded.data.roles.report.rows <= 256, "the logits of reported windows are held in memory"
    report = secateurs.run(given, tmp_path / "out")
    kept = report.models[0].kept_quality
    assert kept is not None
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "keep-0.9")
    nats = torch.zeros(2, 2, dtype=torch.float64)
    for batch in loaded.data.roles.report.batches:
        tokens = {name: batch[name] for name in ("input_ids", "attention_mask")}
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        count = int((labels[:, 1:] != -100).sum())
        for row, model in enumerate((loaded.dense, small)):
            with torch.no_grad():
                nats[row] += torch.tensor([float(model(**tokens, labels=labels).loss) * count, count])
    dense, ours = (nats[:, 0] / nats[:, 1]).exp().tolist()
    assert kept.value == pytest.approx(dense / ours, rel=1e-4)
    assert kept.measure == "likelihood of a token"


@pytest.mark.parametrize(
    "changes",
    [{"method": "cofi", "hyperparameters": {}}, {"method": "agp", "hyperparameters": {}}, {"recover_epochs": 1.0}],
)
def test_a_training_is_refused(recipe: Recipe, tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"keep tries several speed-ups, and .* trains for every one of them"):
        secateurs.run(recipe.model_copy(update=changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_regression_is_refused(tmp_path: Path) -> None:
    given = tiny_run.recipe(tmp_path)
    tiny_run.model_folder(tmp_path / "model", num_labels=1)
    with pytest.raises(RecipeError, match="keep needs classes, and the model has one output"):
        secateurs.run(given.model_copy(update={"speedup": (), "keep": (0.9,)}), tmp_path / "out")


def test_with_labels_the_metric_is_kept(recipe: Recipe, tmp_path: Path) -> None:
    given = tiny_run.recipe(tmp_path, keep=0.5, speedup=())
    tiny_run.rows(tmp_path / "data", 400)
    report = secateurs.run(given, tmp_path / "out")
    [model] = report.models
    assert model.metric is not None and model.kept_quality is not None
    assert model.kept_quality.measure == "accuracy"
    assert model.kept_quality.value == pytest.approx(model.metric.value / model.metric.dense)
