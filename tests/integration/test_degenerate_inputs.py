"""Complete runs on models and texts that leave little to fit: one-word texts, constant neurons, a dead sub-block."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import secateurs
import tiny_run
from secateurs.tasks import task
from tiny import WORDS, write_rows


@pytest.mark.parametrize("case", ["one word", "constant neurons", "dead block", "large"])
def test_ziplm_prunes(case: str, tmp_path: Path) -> None:
    recipe = tiny_run.recipe(tmp_path).model_copy(update={"speedup": (1.5,)})
    if case == "one word":
        labels = [index % 2 for index in range(len(WORDS))]
        write_rows(tmp_path / "data" / "train.parquet", text=list(WORDS), label=labels)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(recipe.model)
        with torch.no_grad():
            for index, layer in enumerate(model.bert.encoder.layer):
                up = layer.intermediate.dense
                if case == "constant neurons":
                    up.weight[:6] = 0
                    up.bias[:6] = torch.linspace(1, 100, 6)
                elif case == "dead block" and index == 1:
                    up.weight.zero_()
                    up.bias.fill_(-1e4)
                    layer.attention.self.value.weight.zero_()
                    layer.attention.self.value.bias.zero_()
                elif case == "large":
                    up.weight.mul_(3e3)
        model.save_pretrained(recipe.model)
    report = secateurs.run(recipe, tmp_path / "out")
    (result,) = report.models
    assert result.divergence is not None
    assert 0 <= result.divergence.value < float("inf")
    assert result.predicted_speedup is not None
    assert result.predicted_speedup >= 1.5
    pruned, _ = task("text_classification").load(str(tmp_path / "out" / result.path), dtype="float32", device="cpu")
    assert all(parameter.isfinite().all() for parameter in pruned.parameters())
    if case == "one word":
        assert any("texts than asked for" in note for note in report.notes)
    if case == "dead block":
        kept = {name: each.kept for name, each in result.kept.items()}
        assert kept["layer.1.intermediate"] == 0, "a sub-block without effect is kept"
