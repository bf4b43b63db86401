"""Layouts of the checkpoints people have: each is inspected, loaded, pruned, and loaded by transformers without Secateurs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from deliveries import deliver
from masks import uneven
from secateurs.checkpoint.save_load import load, save
from secateurs.checkpoint.saved_model import load_saved_model
from secateurs.cli import app
from secateurs.errors import UnsupportedModelError
from secateurs.structure.families import discover
from secateurs.surgery.shrink import shrink, zero_masked
from tiny import tiny_tokenizer
from tiny_models import tiny_model

IDS = torch.tensor([[2, 7, 9, 11, 3], [2, 8, 6, 13, 3]])


@dataclass(frozen=True)
class Layout:
    """A dense checkpoint.

    Args:
        model_type: type of the model.
        task: task that it is pruned for.
        auto: class that it is made with and loaded by.
        config: config fields to change.
        options: arguments of ``save_pretrained``.
        dtype: dtype of the saved weights.
        change: changes the model before it is saved.
        after: changes the saved folder.
        tokenizer: changes the tokenizer.
    """

    model_type: str
    task: str = "text-classification"
    auto: str = "AutoModelForSequenceClassification"
    config: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    change: Callable[[Any], Any] = lambda model: None
    after: Callable[[Path], None] = lambda folder: None
    tokenizer: Callable[[Any], None] = lambda tokenizer: None

    def write(self, folder: Path) -> Path:
        model = tiny_model(self.model_type, auto=self.auto, **{"num_labels": 2, "pad_token_id": 0, **self.config})
        self.change(model)
        model.to(self.dtype).save_pretrained(folder, **self.options)
        tokenizer = tiny_tokenizer()
        self.tokenizer(tokenizer)
        tokenizer.save_pretrained(folder)
        self.after(folder)
        return folder


def extra_keys(folder: Path) -> None:
    """Buffers that older versions of transformers saved, and weights of a head that the model no longer has."""
    tensors = load_file(folder / "model.safetensors")
    tensors["bert.embeddings.position_ids"] = torch.arange(64)[None]
    tensors["cls.predictions.bias"] = torch.ones(50)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def under_the_name_of_a_head(folder: Path) -> None:
    """The weights of the base model, and a config that names the class of pretraining."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))


def without_padding(tokenizer: Any) -> None:
    tokenizer.pad_token = None


CAUSAL: dict[str, Any] = {"model_type": "llama", "task": "causal-lm", "auto": "AutoModelForCausalLM"}
LAYOUTS = {
    "sharded encoder": Layout("bert", options={"max_shard_size": "20KB"}),
    "sharded decoder": Layout(**CAUSAL, options={"max_shard_size": "20KB"}),
    "tied head": Layout(**CAUSAL, config={"tie_word_embeddings": True}),
    "untied head": Layout(**CAUSAL, config={"tie_word_embeddings": False}),
    "tied head, sharded, bfloat16": Layout(
        **CAUSAL, config={"tie_word_embeddings": True}, options={"max_shard_size": "20KB"}, dtype=torch.bfloat16
    ),
    "extra keys": Layout("bert", after=extra_keys),
    "encoder in float16": Layout("roberta", dtype=torch.float16),
    "decoder in bfloat16": Layout(**CAUSAL, dtype=torch.bfloat16),
    "decoder in float16": Layout(**{**CAUSAL, "model_type": "gpt2"}, dtype=torch.float16),
    "resized encoder": Layout("bert", change=lambda model: model.resize_token_embeddings(61)),
    "resized decoder, tied": Layout(
        **CAUSAL, config={"tie_word_embeddings": True}, change=lambda model: model.resize_token_embeddings(61)
    ),
    "resized decoder, untied": Layout(
        **CAUSAL, config={"tie_word_embeddings": False}, change=lambda model: model.resize_token_embeddings(61)
    ),
    "classifier without a padding token": Layout("bert", config={"pad_token_id": None}, tokenizer=without_padding),
    "decoder without a padding token": Layout(**CAUSAL, config={"pad_token_id": None}, tokenizer=without_padding),
    "base weights under the name of a head": Layout(
        "bert", task="embedding", auto="AutoModel", after=under_the_name_of_a_head
    ),
}


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("model*.safetensors") for name, value in load_file(file).items()}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        outputs = model.float().eval()(input_ids=IDS, attention_mask=torch.ones_like(IDS))
    return outputs.logits if "logits" in outputs else outputs.last_hidden_state


ELSEWHERE = """
import json, sys
sys.modules["secateurs"] = None
import torch, transformers
answers = {}
for place, auto in json.loads(sys.argv[2]).items():
    model, info = getattr(transformers, auto).from_pretrained(place, trust_remote_code=True, output_loading_info=True)
    with torch.no_grad():
        ids = torch.tensor(json.loads(sys.argv[1]))
        outputs = model.float().eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
    loose = sorted([*info["missing_keys"], *info["unexpected_keys"]])
    answers[place] = loose, (outputs.logits if "logits" in outputs else outputs.last_hidden_state).tolist()
print(json.dumps(answers))
"""


def loaded_elsewhere(folders: dict[Path, str]) -> dict[str, Any]:
    """What another process without Secateurs answers: missing and unexpected keys, and the outputs, of every folder."""
    places = json.dumps({str(folder): auto for folder, auto in folders.items()})
    command = [sys.executable, "-c", ELSEWHERE, json.dumps(IDS.tolist()), places]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Layout -> the dense folder, and what is handed over for it."""
    found = {}
    for name, layout in LAYOUTS.items():
        folder = tmp_path_factory.mktemp("layout")
        dense = layout.write(folder / "dense")
        found[name] = dense, deliver(folder, dense, layout.task, model_type=layout.model_type)
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_it_is_inspected_and_pruned(name: str, delivered: dict[str, tuple[Path, Path]]) -> None:
    dense, pruned = delivered[name]
    layout = LAYOUTS[name]
    for folder in (dense, pruned):
        answer = CliRunner().invoke(app, ["inspect", str(folder), "--json"])
        assert answer.exit_code == 0, answer.output
        groups = json.loads(answer.stdout)["groups"]
        assert any(group["units"] < group["of"] for group in groups) == (folder == pruned)
    assert {value.dtype for value in tensors_of(pruned).values()} == {layout.dtype}
    assert tensors_of(pruned).keys() <= tensors_of(dense).keys()
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (dense, pruned))
    assert after["vocab_size"] == before["vocab_size"]
    assert after.get("pad_token_id") == before.get("pad_token_id")
    rows = {value.shape[0] for key, value in tensors_of(pruned).items() if "word_emb" in key or "embed_tokens" in key}
    assert rows <= {after["vocab_size"]}


def test_other_processes_load_them(delivered: dict[str, tuple[Path, Path]]) -> None:
    folders = {pruned: LAYOUTS[name].auto for name, (_, pruned) in delivered.items()}
    answers = loaded_elsewhere(folders)
    for name, (_, pruned) in delivered.items():
        loose, found = answers[str(pruned)]
        assert loose == [], name
        wanted = logits(load_saved_model(str(pruned), trust_remote_code=False))
        torch.testing.assert_close(torch.tensor(found), wanted, rtol=0, atol=1e-6, msg=name)
        assert wanted.isfinite().all()


def test_extra_keys_are_left_out(delivered: dict[str, tuple[Path, Path]]) -> None:
    dense, pruned = delivered["extra keys"]
    extra = {"bert.embeddings.position_ids", "cls.predictions.bias"}
    assert extra <= tensors_of(dense).keys()
    assert not extra & tensors_of(pruned).keys()


@pytest.mark.parametrize("tied", [True, False])
def test_tied_heads_stay_tied(tied: bool, delivered: dict[str, tuple[Path, Path]]) -> None:
    _, pruned = delivered["tied head" if tied else "untied head"]
    model: Any = load(pruned)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert ("lm_head.weight" in tensors_of(pruned)) != tied


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert"])
def test_masked_language_models(model_type: str, tied: bool, tmp_path: Path) -> None:
    """No task prunes them with their head; the Python API does, and ``inspect`` shows the base model."""
    layout = Layout(model_type, auto="AutoModelForMaskedLM", config={"tie_word_embeddings": tied})
    folder = layout.write(tmp_path / "dense")
    answer = CliRunner().invoke(app, ["inspect", str(folder)])
    assert answer.exit_code == 0, answer.output
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).double().eval()
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    structure = discover(model)
    zero_masked(model, structure, uneven(structure))
    shrink(model, structure, uneven(structure))
    model.float()
    wanted = logits(model)
    pruned = save(model, None, tmp_path / "pruned")
    again: Any = load(pruned)
    assert torch.equal(logits(again), wanted)
    assert (again.get_output_embeddings().weight is again.get_input_embeddings().weight) == tied
    assert torch.equal(logits(transformers.AutoModelForMaskedLM.from_pretrained(pruned)), wanted)


def test_base_weights_are_no_classifier(tmp_path: Path) -> None:
    folder = Layout("bert", auto="AutoModel", after=under_the_name_of_a_head).write(tmp_path / "dense")
    with pytest.raises(UnsupportedModelError, match="lacks 2 weights that AutoModelForSequenceClassification needs"):
        deliver(tmp_path, folder)
    assert type(load_saved_model(str(folder), trust_remote_code=False)).__name__ == "BertModel"
