"""A script that loads pruned folders in an environment without Secateurs; ``test_checkpoint_elsewhere.py`` runs it.

Usage: ``python elsewhere.py FOLDER``. Every sub-folder holds ``model/``, ``expected.safetensors`` and ``about.json``. The
results are written to ``FOLDER/results.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.modules["secateurs"] = None  # type: ignore[assignment]  # so that an installed Secateurs cannot be imported

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file  # noqa: E402


def difference(model: Any, expected: dict[str, torch.Tensor]) -> float:
    """Largest absolute difference between the outputs of a model and the expected outputs."""
    inputs = {
        name: value
        for name, value in expected.items()
        if name.endswith(("input_ids", "attention_mask", "pixel_values", "input_features"))
    }
    with torch.no_grad():
        found = model(**inputs)
    output = found.logits if hasattr(found, "logits") else found.last_hidden_state
    wanted = expected["logits" if hasattr(found, "logits") else "last_hidden_state"]
    return (output - wanted).abs().max().item()


def check_folder(folder: Path) -> dict[str, Any]:
    """Load the model of one sub-folder in every way, and return what happened."""
    about, expected = json.loads((folder / "about.json").read_text()), load_file(folder / "expected.safetensors")
    auto, path = getattr(transformers, about["auto"]), folder / "model"
    if about["plain"]:
        return {"without_code": difference(auto.from_pretrained(path), expected)}
    answers: dict[str, Any] = {}
    model, info = auto.from_pretrained(path, trust_remote_code=True, output_loading_info=True)
    answers["remote"] = difference(model, expected)
    answers["loose_keys"] = sorted(info["missing_keys"]) + sorted(info["unexpected_keys"])
    answers["name"] = type(model).__name__
    model.save_pretrained(folder / "again")
    answers["resaved"] = difference(auto.from_pretrained(folder / "again", trust_remote_code=True), expected)
    if "last_hidden_state" in expected:
        answers["base"] = difference(transformers.AutoModel.from_pretrained(path, trust_remote_code=True), expected)
    config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=True)
    built = auto.from_config(config, trust_remote_code=True)
    answers["from_config"] = [list(p.shape) for p in built.parameters()] == [list(p.shape) for p in model.parameters()]
    for name, cls in (("auto", auto), ("direct", getattr(transformers, answers["name"], None))):
        if cls is None:
            continue  # an adaptive language model has no class in transformers
        try:
            cls.from_pretrained(path)
            answers[f"refused_{name}"] = ""
        except (RuntimeError, ValueError) as error:
            answers[f"refused_{name}"] = str(error)
    if about["generates"]:
        tokens = model.generate(expected["input_ids"][:1], max_new_tokens=8, do_sample=False)
        answers["tokens"] = torch.equal(tokens, expected["tokens"])
    return answers


def embed(folder: Path) -> list[float]:
    """The embedding of one sentence by a folder of sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu").encode("the cat sat").tolist()


if __name__ == "__main__":
    root = Path(sys.argv[1])
    results = {path.parent.name: check_folder(path.parent) for path in sorted(root.glob("*/about.json"))}
    json.dump({"models": results, "embedding": embed(root / "embedder")}, (root / "results.json").open("w"))
