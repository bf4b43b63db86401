"""The check of an exported file, on made-up outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from secateurs.errors import CheckpointError, DataError
from secateurs.export.check import TOLERANCE, compared
from secateurs.export.real_inputs import TEXTS, batches_of, read_texts
from tiny import tiny_tokenizer
from tiny_classifier import model


def outputs(**changes: float) -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]:
    wanted = {"logits": torch.tensor([[0.5, 0.2], [0.1, 0.3]]), "pooler_output": torch.tensor([[200.0], [1.0]])}
    found = {name: value.numpy() + np.float32(changes.get(name, 0.0)) for name, value in wanted.items()}
    return wanted, found


def test_the_largest_difference_is_found() -> None:
    wanted, found = outputs(logits=3e-4)
    found["logits"][1, 0] += 1  # the other class is chosen in one row of two
    apart = compared([(*outputs(), None), (wanted, found, None)])
    assert apart.output == "logits"
    assert apart.largest == pytest.approx(1.0003, abs=1e-6)
    assert apart.same_choice == 0.75
    assert apart.batches == 2
    assert not apart.accepted


@pytest.mark.parametrize(
    ("changes", "accepted"),
    [
        ({"logits": 0.9e-4}, True),
        ({"logits": 1.2e-4}, False),
        ({"pooler_output": 0.01}, True),
        ({"pooler_output": 0.03}, False),
    ],
)
def test_large_outputs_may_differ_more(changes: dict[str, float], accepted: bool) -> None:
    assert TOLERANCE == 1e-4
    assert compared([(*outputs(**changes), None)]).accepted is accepted


def test_nan_is_not_accepted() -> None:
    wanted, found = outputs()
    found["logits"][0, 0] = np.nan
    assert not compared([(wanted, found, None)]).accepted


def test_outputs_must_have_shape_and_name() -> None:
    wanted, found = outputs()
    with pytest.raises(CheckpointError, match="gives logits of shape"):
        compared([(wanted, {"logits": found["logits"][:1]}, None)])
    with pytest.raises(CheckpointError, match="no output of the same name"):
        compared([(wanted, {"scores": found["logits"]}, None)])


def test_texts_are_batched_in_several_sizes_with_padding(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    batches = batches_of(model(), str(tmp_path), TEXTS, trust_remote_code=False)
    assert [len(batch["input_ids"]) for batch in batches] == [1, 3, 8]
    assert max(batch["input_ids"].shape[1] for batch in batches) == 32  # the positions of the model
    assert any((batch["attention_mask"] == 0).any() for batch in batches)
    assert all("token_type_ids" in batch for batch in batches)


def test_a_file_of_texts(tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("one\n\n two \n")
    assert read_texts(tmp_path / "texts") == ["one", "two"]
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(DataError, match="has no text"):
        read_texts(tmp_path / "empty")
    with pytest.raises(DataError, match="cannot read"):
        read_texts(tmp_path / "missing")
