"""Where ZipLM weighs tokens: in the level database and in the sequential refit, or in neither."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from secateurs.context import PruneContext
from secateurs.methods import method
from secateurs.methods.ziplm import steps
from secateurs.oneshot.token_weights import TokenWeights
from secateurs.tasks.causal_lm import task as causal_lm
from secateurs.tasks.causal_lm.task import CausalLM
from tiny_models import batch, tiny_model

Seen = list[tuple[int, int]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """The seed and the number of rows of compared outputs of every backward pass that weighs tokens."""
    monkeypatch.setattr(causal_lm, "MAX_POSITIONS", 8)  # fewer than there are, as in long texts
    found: Seen = []

    class Watched(TokenWeights):
        def __init__(self, model: Any, structure: Any, outputs: Any, seed: int = 0) -> None:
            def watched(produced: Any, inputs: Any) -> torch.Tensor:
                rows = outputs(produced, inputs)
                found.append((seed, len(rows)))
                return rows

            super().__init__(model, structure, watched, seed)

    monkeypatch.setattr(steps, "TokenWeights", Watched)
    return found


def prepared(folder: Path, texts: Mapping[str, torch.Tensor], **how: Any) -> tuple[Any, PruneContext]:
    """ZipLM with these settings, and a tiny model with one calibration batch for it."""
    model = tiny_model("gpt2")
    ziplm = method("ziplm", **how)
    return ziplm, PruneContext(model, ziplm.structure(model), [dict(texts)], CausalLM(), folder, seed=3)


def run(folder: Path, **how: Any) -> None:
    """Fit ZipLM, and apply the allocation that keeps every unit."""
    ziplm, context = prepared(folder, batch(length=30, padding="right"), **how)
    ziplm.fit(context).apply(context.structure.sizes, "")


def test_one_backward_pass_weighs_tokens_for_both_steps(tmp_path: Path, seen: Seen) -> None:
    outputs = int(batch(length=30, padding="right")["attention_mask"].sum())
    run(tmp_path)
    assert seen == [(3, outputs)]
    run(tmp_path)  # the level database is read from disk, and the refit weighs
    assert seen == [(3, outputs)] * 2


@pytest.mark.parametrize("how", [{"weigh": "even"}, {"allow": "rank"}])
def test_other_settings_weigh_all_tokens_alike(how: dict[str, str], tmp_path: Path, seen: Seen) -> None:
    run(tmp_path, **how)
    assert not seen


def test_the_preset_of_the_paper_weighs_all_tokens_alike() -> None:
    ziplm: Any = method("ziplm", "paper")
    assert ziplm.weigh == "even"


def test_weights_change_the_moments(tmp_path: Path) -> None:
    grams = []
    for weigh in ("even", "gradient"):
        folder = tmp_path / weigh
        folder.mkdir()
        ziplm, context = prepared(folder, batch(length=9), weigh=weigh)
        grams.append(next(iter(ziplm.fit(context).database.moments.values())).gram)
    shape = grams[0] / grams[0].diagonal().sum(), grams[1] / grams[1].diagonal().sum()
    assert not torch.allclose(*shape, rtol=1e-2)
