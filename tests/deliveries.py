"""Small runs whose delivered folders are compared with the dense ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

from secateurs.pipeline.run import run
from secateurs.structure.families import discover
from tiny import WORDS
from tiny_run import model_folder, recipe, rows

__all__ = ["TEXT", "TEXTS", "deliver", "dense", "tokenizer_files", "with_idle_units"]

TEXT = " ".join(WORDS[:14])
TEXTS = [TEXT, "the cat sat", "good film", "it was bad ."]


def dense(path: Path, model_type: str = "bert", *, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A tiny dense model whose tokenizer files are not those that transformers would write again."""
    model_folder(path, model_type, **changes)
    if dtype != torch.float32:
        getattr(transformers, tiny_auto(path)).from_pretrained(path, dtype=dtype).save_pretrained(path)
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    assert tokenizer["truncation"] is None
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))  # on one line
    (path / "vocab.txt").write_text("kept as it is\n")
    return path


def tiny_auto(path: Path) -> str:
    return json.loads((path / "config.json").read_text())["architectures"][0]


def deliver(folder: Path, model: Path, task: str = "text-classification", **changes: Any) -> Path:
    """Prune a dense model to twice the speed of an invented latency table; the delivered folder."""
    if not (folder / "data").exists():
        rows(folder / "data")
    settings = {"model": str(model), "method": "magnitude", "hyperparameters": {}, "speedup": (2.0,), **changes}
    made = recipe(folder, settings.pop("model_type", "bert"), task, **settings)
    report = run(made, folder / "out")
    return folder / "out" / report.models[0].path


def with_idle_units(model: Any) -> Any:
    """The model with zeros in all weights of half of its units, so that removing some of them changes nothing."""
    structure = discover(model)
    with torch.no_grad():
        for group in structure:
            kept = group.size // 2
            for cut in group.cuts:
                weights = model.get_parameter(cut.parameter)
                weights.narrow(cut.dim, cut.offset + kept * cut.width, (group.size - kept) * cut.width).zero_()
    return model


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    names = ("tokenizer", "special_tokens", "added_tokens", "vocab", "merges", "chat_template", "additional_chat")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: content for name, content in found.items() if name.startswith(names)}
