"""``secateurs.prune``: a run in one line, called as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import secateurs
import tiny_run
from secateurs.errors import CheckpointError, RecipeError
from secateurs.pipeline.recipe import Recipe
from secateurs.pipeline.task_of_model import task_of_model


def arguments(folder: Path, **changes: Any) -> dict[str, Any]:
    """The arguments of ``secateurs.prune`` for a tiny run: without the task, which the model names, and without ``out``."""
    fields = tiny_run.recipe(folder).to_dict()
    del fields["task"]
    return {**fields, "speedup": 2, **changes}


def test_one_line_prunes_and_returns_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments(tmp_path)
    monkeypatch.chdir(tmp_path)
    model, data = Path(given.pop("model")), Path(given.pop("data"))
    report = secateurs.prune(model, data, **given)
    [small] = report.models
    assert report.task == "text-classification"
    assert small.target == 2
    assert small.predicted_speedup is not None and small.predicted_speedup >= 2
    folder = tmp_path / "pruned" / "model" / small.path
    logits = secateurs.load(folder)(torch.tensor([[5, 6, 7]])).logits
    assert logits.shape == (1, 2)
    with pytest.raises(RecipeError, match="not empty"):
        secateurs.prune(model, data, **given)
    assert secateurs.prune(model, data, **given, resume=True).models == report.models


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    """Timings start fresh processes. They must not run the script again."""
    given = arguments(tmp_path, timing_processes=3, out=str(tmp_path / "out"))
    (tmp_path / "script.py").write_text(
        "import secateurs\n"
        "from secateurs.latency import fresh_processes\n"
        "fresh_processes.SECONDS = 0.05\n"
        "print('started', flush=True)\n"
        f"report = secateurs.prune({given.pop('model')!r}, {given.pop('data')!r}, **{given!r})\n"
        "print(report.models[0].measured_speedup is not None)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["started", "True"]
    assert len(secateurs.Report.load(tmp_path / "out").models) == 1


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"architectures": ["BertForSequenceClassification"]}, "text-classification"),
        (
            {"architectures": ["BertForSequenceClassification"], "problem_type": "multi_label_classification"},
            "multi-label-classification",
        ),
        ({"architectures": ["RobertaForTokenClassification"]}, "token-classification"),
        ({"architectures": ["BertForQuestionAnswering"]}, "question-answering"),
        ({"architectures": ["ViTForImageClassification"]}, "image-classification"),
        ({"architectures": ["LlamaForCausalLM"]}, "causal-lm"),
        ({"architectures": ["GPT2LMHeadModel"]}, "causal-lm"),
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "seq2seq"),
        ({"architectures": ["MarianMTModel"], "is_encoder_decoder": True}, "seq2seq"),
    ],
)
def test_the_task_is_read_off_the_class(tmp_path: Path, config: dict[str, Any], task: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert task_of_model(str(tmp_path)) == task


def test_a_sentence_encoder_is_one_by_its_modules(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    (tmp_path / "modules.json").write_text("[]")
    assert task_of_model(str(tmp_path)) == "embedding"


@pytest.mark.parametrize("config", [{"architectures": ["BertModel"]}, {"architectures": ["BertForMaskedLM"]}, {}])
def test_a_model_without_a_task_must_be_told_one(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match=r"the task of .* is not known \(.*task=\"text-classification\""):
        secateurs.prune(tmp_path, tmp_path, speedup=2)


def test_mistakes_are_named_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        secateurs.prune(tmp_path / "none", tmp_path, speedup=2)
    with pytest.raises(RecipeError, match="there is no field sped"):
        secateurs.prune(tmp_path, tmp_path, task="text-classification", sped=2)
    with pytest.raises(RecipeError, match="at least one speed-up"):
        secateurs.prune(tmp_path, tmp_path, task="text-classification")


def test_the_arguments_are_the_fields_of_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Recipe, Path]] = []
    monkeypatch.setattr("secateurs.pipeline.prune.run", lambda recipe, folder, **how: asked.append((recipe, folder)))
    monkeypatch.chdir(tmp_path)
    secateurs.prune("owner/small", "owner/texts", task="embedding", speedup=[3, 2], batch_size=4)
    [(recipe, folder)] = asked
    assert recipe == Recipe(model="owner/small", data="owner/texts", task="embedding", speedup=(2, 3), batch_size=4)
    assert folder == Path("pruned", "small")
