"""Damaged and incomplete checkpoints, and failures while saving: one clear line, and nothing is lost."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from masks import two_blocks_removed
from secateurs.checkpoint.hooks import install
from secateurs.checkpoint.save_load import load, save
from secateurs.errors import CheckpointError
from secateurs.structure.families import discover
from secateurs.surgery.shrink import shrink
from tiny import tiny_tokenizer
from tiny_models import batch, tiny_model

install()
TOLERANCE = 1e-12


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(**batch(padding="right")).logits


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A pruned classifier, and the folder in which it was saved."""
    model = tiny_model("bert", auto="AutoModelForSequenceClassification")
    structure = discover(model)
    shrink(model, structure, two_blocks_removed(structure))
    return model, save(model, tiny_tokenizer(), tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture
def copied(bert: tuple[Any, Path], tmp_path: Path) -> Path:
    """A copy of the folder, to be damaged."""
    return Path(shutil.copytree(bert[1], tmp_path / "copy"))


def test_edits_are_derived_again_if_their_paths_do_not_exist(copied: Path, bert: tuple[Any, Path]) -> None:
    """The edits name paths of another version of transformers; the kept counts per group are enough."""
    text = (copied / "config.json").read_text()
    (copied / "config.json").write_text(text.replace('"encoder.layer', '"transformer.blocks'))
    assert (logits(load(copied)) - logits(bert[0])).abs().max() < TOLERANCE


def test_unknown_paths_are_named(copied: Path) -> None:
    values = json.loads((copied / "config.json").read_text())
    values["secateurs"]["edits"]["shapes"] = {"no.such.weight": [1, 2]}
    values["secateurs"]["groups"].popitem()
    (copied / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"no\.such\.weight"):
        load(copied)


def test_a_tensor_that_does_not_fit_is_named(copied: Path) -> None:
    values = json.loads((copied / "config.json").read_text())
    values["secateurs"]["edits"]["shapes"]["encoder.layer.1.attention.self.query.bias"] = [8]
    (copied / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"layer\.1\.attention\.self\.query\.bias has shape \(24,\).*\(8,\)"):
        load(copied)


def test_a_tensor_that_is_missing_is_named(copied: Path) -> None:
    from safetensors.torch import save_file

    tensors = load_file(copied / "model.safetensors")
    del tensors["bert.encoder.layer.2.output.dense.weight"]
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    for auto_class in (None, "AutoModelForTokenClassification"):
        with pytest.raises(CheckpointError, match=r"layer\.2\.output\.dense\.weight is missing"):
            load(copied, auto_class=auto_class)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", lambda data: data[: len(data) // 2]),
        ("model.safetensors", lambda data: b""),
        ("config.json", lambda data: data[: len(data) // 2]),
        ("config.json", lambda data: b"[]"),
        ("config.json", lambda data: data.replace(b'"shapes"', b'"forms"')),
        ("config.json", lambda data: data.replace(b"BertForSeq", b"BirdForSeq")),
    ],
)
def test_damage_is_reported_in_one_line(copied: Path, name: str, damage: Any) -> None:
    (copied / name).write_bytes(damage((copied / name).read_bytes()))
    with pytest.raises(CheckpointError) as caught:
        load(copied)
    assert "\n" not in str(caught.value)
    assert str(copied) in str(caught.value)


def test_pickles_are_not_loaded(copied: Path) -> None:
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    with pytest.raises(CheckpointError):
        load(copied)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("No space left")])
def test_a_full_disk_loses_nothing(
    copied: Path, bert: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("transformers.modeling_utils.safe_save_file", full)
        with pytest.raises(CheckpointError, match=r"No space left.*nothing was changed") as caught:
            save(bert[0], None, copied)
    assert "\n" not in str(caught.value)
    assert [path.name for path in copied.parent.iterdir()] == [copied.name]
    assert (logits(load(copied)) - logits(bert[0])).abs().max() < TOLERANCE


def test_a_rename_that_fails_restores_the_older_folder(
    copied: Path, bert: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.suffix == ".partial":
            raise OSError(errno.EACCES, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(CheckpointError, match="Permission denied"):
        save(bert[0], None, copied)
    assert [path.name for path in copied.parent.iterdir()] == [copied.name]
    assert (copied / "tokenizer.json").is_file()


def test_an_older_checkpoint_is_replaced_and_any_other_folder_is_not(copied: Path, bert: tuple[Any, Path]) -> None:
    save(bert[0], None, copied)
    assert not (copied / "tokenizer.json").exists()
    (copied.parent / "thesis").mkdir()
    (copied.parent / "thesis" / "chapter.txt").write_text("x")
    with pytest.raises(CheckpointError, match="no model folder"):
        save(bert[0], None, copied.parent / "thesis")
    assert (copied.parent / "thesis" / "chapter.txt").is_file()
