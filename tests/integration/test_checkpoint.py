"""Saved models, loaded where Secateurs is installed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from masks import two_blocks_removed
from remote_code import own_cache
from secateurs.checkpoint.hooks import install
from secateurs.checkpoint.save_load import describe, load, save
from secateurs.structure.families import discover, model_types
from secateurs.structure.mask import Mask
from secateurs.surgery.config_block import block_of
from secateurs.surgery.shrink import shrink
from tiny import tiny_tokenizer
from tiny_models import auto_name, batch, tiny_model

install()
TYPES = model_types()
TOLERANCE = 1e-12


def pruned(model_type: str, **changes: Any) -> Any:
    """A pruned tiny model without its first attention block and its second feed-forward block."""
    model = tiny_model(model_type, **changes)
    structure = discover(model)
    return shrink(model, structure, two_blocks_removed(structure))


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found = model(**batch(model, padding="right"))
    return found.logits if hasattr(found, "logits") else found.last_hidden_state


def auto_of(model_type: str) -> Any:
    return getattr(transformers, auto_name(model_type))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A pruned classifier, and the folder in which it was saved."""
    model = pruned("bert", auto="AutoModelForSequenceClassification")
    folder = save(model, tiny_tokenizer(), tmp_path_factory.mktemp("bert") / "model")
    describe(folder, {}, "A card.\n")
    return model, folder


@pytest.mark.parametrize("model_type", TYPES)
def test_a_saved_model_is_loaded(model_type: str, tmp_path: Path) -> None:
    model = pruned(model_type)
    cls, wanted = type(model), logits(model)
    folder = save(model, None, tmp_path / "model")
    describe(folder, {"speedup": 2.1}, "")
    assert type(model) is cls
    assert (logits(model) - wanted).abs().max() < TOLERANCE
    for read in (load, auto_of(model_type).from_pretrained, cls.from_pretrained):
        again = read(folder)
        assert type(again) is cls
        assert not again.training
        assert (logits(again) - wanted).abs().max() < TOLERANCE
        tensors = again.state_dict()
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    assert block_of(again) == {**block_of(model), "measured": {"speedup": 2.1}}


@pytest.mark.parametrize("model_type", TYPES)
def test_a_pruned_model_is_pruned_again(model_type: str, tmp_path: Path) -> None:
    model = pruned(model_type)
    describe(save(model, None, tmp_path / "model"), {"speedup": 2.0}, "")
    again = load(tmp_path / "model")
    for each in (model, again):
        structure = discover(each)
        shrink(each, structure, Mask({group.name: torch.arange(group.size) > 0 for group in structure}))
    assert block_of(again) == block_of(model), "the measured numbers of the first pruning are removed"
    assert (logits(load(save(again, None, tmp_path / "model"))) - logits(model)).abs().max() < TOLERANCE


def test_the_folder_is_an_ordinary_checkpoint(bert: tuple[Any, Path]) -> None:
    names = {path.name for path in bert[1].iterdir()}
    assert {"config.json", "model.safetensors", "modeling_pruned.py", "README.md", "tokenizer.json"} <= names
    config = json.loads((bert[1] / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["model_type"] == "bert"
    assert config["auto_map"]["AutoModelForTokenClassification"] == "modeling_pruned.BertForTokenClassification"
    assert config["secateurs"]["groups"]["layer.0.heads"] == {"kind": "head", "size": 4, "kept": 0}
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(bert[1] / "model.safetensors").items()}
    assert shapes["bert.encoder.layer.0.attention.self.query.weight"] == (0, 32), (
        "tensors of a removed block have no rows"
    )


def test_another_dtype_device_map_and_head(bert: tuple[Any, Path]) -> None:
    model, folder = bert
    half = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert (logits(half) - logits(model)).abs().max() < 0.2
    placed = transformers.AutoModelForSequenceClassification.from_pretrained(folder, device_map="cpu")
    assert (logits(placed) - logits(model)).abs().max() < TOLERANCE
    for read in (transformers.AutoModel.from_pretrained, lambda path: load(path, auto_class="AutoModel")):
        assert (logits(read(folder)) - logits(model.bert)).abs().max() < TOLERANCE
    other, info = transformers.AutoModelForQuestionAnswering.from_pretrained(folder, output_loading_info=True)
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"qa_outputs"}
    assert torch.equal(other.bert.encoder.layer[1].attention.self.query.weight,
                       model.bert.encoder.layer[1].attention.self.query.weight)  # fmt: skip


def test_from_config_builds_the_small_model(bert: tuple[Any, Path]) -> None:
    config = transformers.AutoConfig.from_pretrained(bert[1])
    built = transformers.AutoModelForSequenceClassification.from_config(config)
    assert [p.shape for p in built.parameters()] == [p.shape for p in bert[0].parameters()]


def test_the_hook_and_the_code_work_together(
    bert: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The edits may be applied twice, by the hook and by the code in the folder. ``save_pretrained`` saves the code too."""
    with own_cache(monkeypatch, tmp_path / "modules"):
        auto = transformers.AutoModelForSequenceClassification
        remote = auto.from_pretrained(bert[1], trust_remote_code=True)
        assert type(remote).__module__.startswith("transformers_modules")
        assert (logits(remote) - logits(bert[0])).abs().max() < TOLERANCE
        for name, model in (("remote", remote), ("local", load(bert[1]))):
            model.save_pretrained(tmp_path / name)
            assert {"config.json", "modeling_pruned.py"} <= {path.name for path in (tmp_path / name).iterdir()}
            again = auto.from_pretrained(tmp_path / name, trust_remote_code=True)
            assert (logits(again) - logits(bert[0])).abs().max() < TOLERANCE
        structure = discover(remote)
        shrink(remote, structure, Mask({group.name: torch.arange(group.size) > 0 for group in structure}))
        assert (logits(load(save(remote, None, tmp_path / "more"))) - logits(remote)).abs().max() < TOLERANCE


def test_weights_in_several_files(bert: tuple[Any, Path], tmp_path: Path) -> None:
    folder = save(bert[0], None, tmp_path / "model", max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert (logits(load(folder)) - logits(bert[0])).abs().max() < TOLERANCE


def test_a_pipeline_loads_it(bert: tuple[Any, Path]) -> None:
    answer = transformers.pipeline("text-classification", model=str(bert[1]))("the cat sat on the mat")
    inputs = tiny_tokenizer()("the cat sat on the mat", return_tensors="pt")
    with torch.no_grad():
        wanted = bert[0](**inputs).logits.softmax(-1).max().item()
    assert answer[0]["score"] == pytest.approx(wanted, abs=1e-6)


def test_a_checkpoint_of_the_trainer_is_complete(bert: tuple[Any, Path], tmp_path: Path) -> None:
    model = copy.deepcopy(bert[0]).float()
    rows = [{**{name: tensor[0] for name, tensor in batch().items()}, "labels": torch.tensor(1)}] * 4
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, report_to=[], use_cpu=True, save_steps=2,
        disable_tqdm=True,
    )  # fmt: skip
    transformers.Trainer(model, arguments, train_dataset=rows).train()
    folder = tmp_path / "checkpoint-2"
    assert (folder / "modeling_pruned.py").is_file()
    assert (logits(load(folder)) - logits(model.eval())).abs().max() < 1e-5
    assert (logits(model) - logits(bert[0])).abs().max() > 1e-6, "training changed the model"


def test_sentence_transformers_loads_it(bert: tuple[Any, Path], tmp_path: Path) -> None:
    folder = embedder(bert[0].bert, tmp_path / "model")
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(folder), device="cpu")
    wanted = mean_embedding(bert[0].bert)
    assert (torch.tensor(encoder.encode("the cat sat")) - wanted).abs().max() < 1e-6
    encoder.save(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    assert (torch.tensor(again.encode("the cat sat")) - wanted).abs().max() < 1e-6


def embedder(model: Any, folder: Path) -> Path:
    """Save a folder for sentence-transformers: the base model, then mean pooling."""

    def pooling(partial: Path) -> None:
        modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
        text = [{"idx": int(i), "name": i, "path": path, "type": f"sentence_transformers.models.{kind}"}
                for i, path, kind in modules]  # fmt: skip
        (partial / "modules.json").write_text(json.dumps(text))
        (partial / "1_Pooling").mkdir()
        values = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
        (partial / "1_Pooling" / "config.json").write_text(json.dumps(values))

    return save(model, tiny_tokenizer(), folder, extras=pooling)


def mean_embedding(model: Any) -> Tensor:
    with torch.no_grad():
        return model(**tiny_tokenizer()("the cat sat", return_tensors="pt")).last_hidden_state[0].mean(0)


def test_a_dense_model_is_saved_without_code(tmp_path: Path) -> None:
    model = tiny_model("bert")
    folder = save(model, None, tmp_path / "model")
    describe(folder, {"latency_ms": 1.0}, "")
    assert not (folder / "modeling_pruned.py").exists()
    assert (logits(load(folder)) - logits(model)).abs().max() < TOLERANCE
    assert block_of(load(folder)) == {"format": 1, "measured": {"latency_ms": 1.0}}
