"""``secateurs export``: from a pruned folder to a file that a reader runs without torch; and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from masks import two_blocks_removed
from secateurs.checkpoint import save_load
from secateurs.errors import RecipeError
from secateurs.export import check, export_model
from secateurs.export.export_model import RECORD
from secateurs.latency.environment import Environment
from secateurs.latency.runtimes import runtime
from secateurs.structure.families import discover
from secateurs.surgery.shrink import shrink
from tiny import tiny_tokenizer
from tiny_classifier import model as tiny_classifier
from tiny_models import tiny_model

Run = Callable[..., tuple[int, str, str]]

FILES = {"onnx": "model.onnx", "openvino": "openvino_model.xml", "torch-export": "model.pt2"}


def require(name: str) -> None:
    """Skip the test if the packages of a runtime are not installed."""
    try:
        runtime(name).check_installed()
    except RecipeError as error:
        pytest.skip(str(error))


def pruned(folder: Path, made: Any) -> Any:
    """Prune a model unevenly, with two blocks removed, and save it."""
    structure = discover(made)
    small = shrink(made, structure, two_blocks_removed(structure))
    save_load.save(small, tiny_tokenizer(), folder)
    return small.eval()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Folder and model of a pruned classifier with two layers."""
    folder = tmp_path_factory.mktemp("models") / "classifier"
    return folder, pruned(folder, tiny_classifier(num_hidden_layers=2, num_attention_heads=4))


@pytest.mark.parametrize("name", FILES)
def test_a_pruned_classifier_is_exported_and_read(
    name: str, classifier: tuple[Path, Any], tmp_path: Path, run: Run
) -> None:
    require(name)
    folder, model = classifier
    status, out, err = run("export", folder, "--to", name, "--out", tmp_path / "out", "--json")
    assert status == 0, err
    told = json.loads(out)
    assert told["difference"]["largest"] <= 1e-4
    assert told["difference"]["batches"] == 3
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["difference"] == told["difference"]
    assert {FILES[name], "config.json", "tokenizer.json", "export.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    tokenizer = tiny_tokenizer()
    texts = ["the cat sat", "a very good film and a bad story"]
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = model(**encoded).logits.numpy()
    if name == "torch-export":  # its reader would need torch and transformers
        execute = runtime(name).load(tmp_path / "out", Environment())  # type: ignore[attr-defined]
        found = np.asarray(execute(dict(encoded))["logits"])
    else:
        code = (
            f"import sys; sys.path.insert(0, {str(tmp_path / 'out')!r}); import reader\n"
            f"import json; print(json.dumps(reader.run({texts!r})['logits'].tolist()))\n"
            "assert not {'torch', 'transformers', 'secateurs'} & set(sys.modules)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr[-2000:]
        found = np.array(json.loads(done.stdout))
    assert np.abs(found - wanted).max() < 1e-4


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_pruned_decoder_is_exported_with_its_cache(name: str, tmp_path: Path, run: Run) -> None:
    require(name)
    model = tiny_model("llama").float()
    model.config.pad_token_id = 0
    pruned(tmp_path / "decoder", model)
    status, out, err = run("export", tmp_path / "decoder", "--to", name, "--out", tmp_path / "out", "--json")
    assert status == 0, err
    told = json.loads(out)
    assert told["with_cache"]
    assert told["difference"]["output"] == "logits"
    assert told["difference"]["largest"] <= 1e-4


def test_a_file_that_differs_is_refused(
    classifier: tuple[Path, Any], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "TOLERANCE", -1.0)
    status, _, err = run("export", classifier[0], "--to", "torch-export", "--out", tmp_path / "out")
    assert status == 2
    assert "differs from PyTorch by" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("to", "out", "message"),
    [
        ("torch", "new", "cannot export to 'torch'; choose one of: onnx, openvino, torch-export"),
        ("torch-export", "full", "exists and holds no earlier export"),
        ("torch-export", "model", "is the folder of the model itself"),
    ],
)
def test_wrong_requests_are_one_line(
    to: str, out: str, message: str, classifier: tuple[Path, Any], tmp_path: Path, run: Run
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("keep me")
    place = classifier[0] if out == "model" else tmp_path / out
    status, _, err = run("export", classifier[0], "--to", to, "--out", place)
    assert status == 2
    assert message in " ".join(err.split())
    assert (tmp_path / "full" / "letter.txt").read_text() == "keep me"


def test_an_encoder_decoder_is_refused(tmp_path: Path, run: Run) -> None:
    model = tiny_model("t5").float()
    model.save_pretrained(tmp_path / "t5")
    status, _, err = run("export", tmp_path / "t5", "--to", "torch-export", "--out", tmp_path / "out")
    assert status == 2
    assert "is an encoder-decoder, which is not exported yet" in " ".join(err.split())


def test_a_real_model_is_exported(shared: Path, tmp_path: Path) -> None:
    """MiniLM on SST-2, pruned by hand to uneven layers, in ONNX Runtime."""
    require("onnx")
    source = shared / "models" / "minilm-sst2"
    if not source.is_dir():
        pytest.skip(f"the model minilm-sst2 is not on this machine (looked in {source})")
    model: Any = save_load.load(source, dtype=torch.float32).eval()
    structure = discover(model)
    small = shrink(model, structure, two_blocks_removed(structure))
    from transformers import AutoTokenizer

    save_load.save(small, AutoTokenizer.from_pretrained(source), tmp_path / "small")
    made = export_model.export_model(str(tmp_path / "small"), "onnx", tmp_path / "out")
    assert made.difference.largest < 1e-5
    assert made.difference.same_choice == 1.0
    assert made.bytes == pytest.approx(4 * sum(parameter.numel() for parameter in small.parameters()), rel=0.05)
