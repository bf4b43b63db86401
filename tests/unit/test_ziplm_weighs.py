"""Where ZipLM weighs tokens: in the level database and in the last fit, or in neither."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from secateurs.families import discover
from secateurs.job import Job
from secateurs.methods import _context, method, ziplm
from secateurs.tasks import causal_lm
from secateurs.tasks.causal_lm import CausalLM
from tiny_models import batch, tiny_model

Seen = list[tuple[str, int, int]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Who weighs with which seed, and how many rows of the vocabulary each weighing looks at."""
    monkeypatch.setattr(causal_lm, "POSITIONS", 8)  # fewer than there are, as in long texts
    found: Seen = []

    class Watched(ziplm.Importance):
        def __init__(self, model, structure, signal, seed=0) -> None:
            def watched(outputs, inputs):
                rows = signal(outputs, inputs)
                found.append((self.place, seed, len(rows)))
                return rows

            super().__init__(model, structure, watched, seed)

    for module in (ziplm, _context):
        named = type("Watched", (Watched,), {"place": module.__name__.rpartition(".")[2]})
        monkeypatch.setattr(module, "Importance", named)
    return found


def run(folder: Path, **how) -> None:
    model = tiny_model("gpt2")
    found = method("ziplm", **how)
    structure = found.structure(model)
    job = Job(model, structure, [dict(batch(length=30, padding="right"))], CausalLM(), folder, seed=3)
    pruner = found.prepare(job)
    pruner.install(pruner.mask(discover(model).sizes), "")


def test_by_default_all_that_is_said_weighs_in_both(tmp_path: Path, seen: Seen) -> None:
    run(tmp_path)
    said = int(dict(batch(length=30, padding="right"))["attention_mask"].sum())
    assert seen == [("ziplm", 3, said), ("_context", 3, said)]


@pytest.mark.parametrize("how", [{"weigh": "even"}, {"allow": "rank"}, {"preset": "paper"}])
def test_elsewhere_tokens_are_alike(how: dict[str, str], tmp_path: Path, seen: Seen) -> None:
    preset = how.pop("preset", None)
    if preset:
        assert method("ziplm", preset).weigh == "even"
    else:
        run(tmp_path, **how)
    assert not seen


def test_weights_change_what_is_found(tmp_path: Path) -> None:
    grams = []
    for weigh in ("even", "gradient"):
        model = tiny_model("gpt2")
        structure = discover(model)
        folder = tmp_path / weigh
        folder.mkdir()
        job = Job(model, structure, [dict(batch(length=9))], CausalLM(), folder)
        database = method("ziplm", weigh=weigh).prepare(job).database
        grams.append(next(iter(database.moments.values())).gram)
    shape = grams[0] / grams[0].diagonal().sum(), grams[1] / grams[1].diagonal().sum()
    assert not torch.allclose(*shape, rtol=1e-2)
