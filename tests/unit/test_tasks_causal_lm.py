"""Causal language models: windows, perplexity, and the positions that are compared."""

from __future__ import annotations

import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from secateurs.errors import DataError
from secateurs.tasks import task
from secateurs.tasks.base import Columns, TaskData
from secateurs.tasks.causal_lm.windows import join_rows
from secateurs.tasks.roles import RoleSizes
from tiny import WORDS, tiny_tokenizer, write_rows

LINES = [" ".join(random.Random(i).choices(WORDS, k=12)) for i in range(60)]


def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    small = {
        "vocab_size": 40,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    return LlamaForCausalLM(LlamaConfig(**small, max_position_embeddings=64, pad_token_id=0)).eval()


def read(source: Path, **options: Any) -> TaskData:
    settings = {"columns": Columns(), "batch_size": 4, "sequence_length": 16, "roles": RoleSizes(10), "seed": 0}
    tokenizer = options.pop("tokenizer", tiny_tokenizer())
    return task("causal_lm").read(str(source), model(), tokenizer, **{**settings, **options})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_rows(tmp_path / "train.parquet", text=LINES)
    write_rows(tmp_path / "validation.parquet", text=LINES[:7])
    return tmp_path


def test_lines_end_with_line_breaks_and_documents_with_end_tokens() -> None:
    tokenizer = tiny_tokenizer()
    assert join_rows(["a", "", "b\n"], tokenizer) == ["a\n", "\n", "b\n"]
    assert join_rows(["a\nb", "c"], tokenizer) == ["a\nb<sep>", "c<sep>"]


def test_windows_cover_the_text_in_order(folder: Path) -> None:
    data = read(folder)
    tokenizer = tiny_tokenizer()
    text = [token for line in LINES for token in tokenizer(line, add_special_tokens=False)["input_ids"]]
    found = [token for i in range(len(data.train)) for token in data.train[i]["input_ids"]]
    assert len(text) == 720
    assert found == text[: len(text) // 16 * 16]
    assert {len(data.train[i]["input_ids"]) for i in range(len(data.train))} == {16}


def test_calibration_windows_have_full_length_and_depend_on_the_seed(folder: Path) -> None:
    def ids(seed: int) -> torch.Tensor:
        return torch.cat([batch["input_ids"] for batch in read(folder, seed=seed).roles.fit.batches])

    assert ids(0).shape == (10, 16)
    assert torch.equal(ids(0), ids(0))
    assert not torch.equal(ids(0), ids(1))


def test_all_windows_are_used_if_more_samples_are_requested(folder: Path) -> None:
    assert (
        sum(len(batch["input_ids"]) for batch in read(folder, roles=RoleSizes(10_000)).roles.fit.batches) == 40
    )  # of 45: 5 are in validation


def test_every_window_begins_with_the_start_token(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "<cls>"
    data = read(folder, tokenizer=tokenizer)
    assert all(batch["input_ids"][:, 0].eq(2).all() for batch in data.roles.fit.batches)
    assert all(not batch["input_ids"][:, 1:].eq(2).any() for batch in data.roles.fit.batches)
    assert data.evaluation.details["stride"] == 15


def test_uniform_predictions_have_the_perplexity_of_the_vocabulary_size(folder: Path) -> None:
    uniform = model()
    nn.init.zeros_(uniform.lm_head.weight)
    score = task("causal_lm").evaluate(uniform, read(folder).evaluation, "cpu")
    assert score.value == pytest.approx(40.0, rel=1e-5)
    # 84 tokens are five full windows of 16 and a rest of 4; each window predicts one token less than it has.
    assert score.count == 5 * 15 + 3
    assert (score.name, score.higher_is_better) == ("perplexity", False)
    assert (score.details["stride"], score.details["windows"]) == (16, 6)


def test_perplexity_equals_a_computation_token_by_token(folder: Path) -> None:
    dense, tokenizer = model(), tiny_tokenizer()
    tokens = [token for line in LINES[:7] for token in tokenizer(line, add_special_tokens=False)["input_ids"]]
    nats = []
    for start in range(0, len(tokens), 16):
        window = torch.tensor([tokens[start : start + 16]])
        log_probabilities = dense(window).logits[0].log_softmax(-1)
        nats += [-log_probabilities[i, window[0, i + 1]].item() for i in range(window.shape[1] - 1)]
    score = task("causal_lm").evaluate(dense, read(folder).evaluation, "cpu")
    assert score.value == pytest.approx(math.exp(sum(nats) / len(nats)), rel=1e-5)


def test_loss_agrees_with_transformers_and_ignores_padding(folder: Path) -> None:
    dense, data = model(), read(folder)
    batch = data.roles.fit.batches[0]
    expected = dense(**batch, labels=batch["input_ids"]).loss
    language = task("causal_lm")
    assert language.loss(dense(**batch), batch).item() == pytest.approx(expected.item(), rel=1e-5)
    padded = {
        "input_ids": torch.cat([batch["input_ids"], torch.full((len(batch["input_ids"]), 3), 7)], 1),
        "attention_mask": torch.cat(
            [batch["attention_mask"], torch.zeros(len(batch["input_ids"]), 3, dtype=torch.long)], 1
        ),
    }
    assert language.loss(dense(**padded), padded).item() == pytest.approx(expected.item(), rel=1e-5)


def test_compared_positions_have_a_next_token() -> None:
    logits = torch.arange(2 * 5).view(2, 5, 1).float()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    found = task("causal_lm").compared_outputs(SimpleNamespace(logits=logits), {"attention_mask": mask})
    assert found.flatten().tolist() == [0, 1, 2, 3, 5, 6]


def test_at_most_64_evenly_spaced_positions_are_compared() -> None:
    logits = torch.arange(500).view(1, 500, 1).float()
    found = task("causal_lm").compared_outputs(
        SimpleNamespace(logits=logits), {"attention_mask": torch.ones(1, 500).long()}
    )
    positions = found.flatten()
    assert len(positions) == 64
    assert (positions[0], positions[-1]) == (0, 498)
    steps = positions.diff()
    assert set(steps.tolist()) <= {7.0, 8.0}


def test_fewer_positions_are_compared_with_a_large_vocabulary() -> None:
    logits = torch.zeros(1, 500, 1).expand(1, 500, 1 << 17)
    found = task("causal_lm").compared_outputs(
        SimpleNamespace(logits=logits), {"attention_mask": torch.ones(1, 500).long()}
    )
    assert found.shape == (8, 1 << 17)


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet", text=["the cat"])
    write_rows(tmp_path / "test.parquet", text=LINES)
    with pytest.raises(DataError, match="less text than one window of 16 tokens to calibrate on"):
        read(tmp_path)
    with pytest.raises(DataError, match="too short"):
        read(tmp_path, sequence_length=2)


def test_evaluation_can_be_a_sample_of_windows(folder: Path) -> None:
    assert read(folder, evaluation_samples=2).evaluation.details["windows"] == 2
