"""Refused environments and random batches."""

from __future__ import annotations

import pytest
import torch

from secateurs.errors import RecipeError
from secateurs.latency.environment import Environment
from secateurs.latency.workload import check, random_batch, sequence_limit
from tiny_models import tiny_model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threads": 0}, "threads is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"sequence_length": -3}, "sequence_length is -3"),
        ({"dtype": "int8"}, "dtype 'int8' is unknown; choose one of float32, bfloat16, float16"),
        ({"device": "tpu"}, "device 'tpu' is unknown; choose cpu, cuda or cuda:N"),
        ({"device": "cuda:x"}, "device 'cuda:x' is unknown"),
        ({"sequence_length": 65}, "65 tokens is too long: this model has positions for 64"),
    ],
)
def test_unsuitable_environments_are_refused_in_one_line(changes: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        check(Environment(**{"sequence_length": 64, **changes}), tiny_model("bert"))
    assert "\n" not in str(caught.value)


def test_a_missing_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="sees no CUDA device; use cpu"):
        check(Environment(device="cuda:0"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check(Environment(device="cuda:1"))
    with pytest.raises(RecipeError, match="cuda:2 does not exist; this machine has 2"):
        check(Environment(device="cuda:2"))


@pytest.mark.parametrize(("family", "limit"), [("bert", 64), ("gpt2", 64), ("roberta", 62)])
def test_the_model_fails_above_the_sequence_limit(family: str, limit: int) -> None:
    model = tiny_model(family)
    assert sequence_limit(model) == limit
    check(Environment(sequence_length=limit), model)
    tokens = torch.full((1, limit), 5)
    model(input_ids=tokens)
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.cat((tokens, tokens[:, :1]), dim=1))


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_random_batch_is_seeded_and_has_no_padding_or_cache(family: str) -> None:
    model = tiny_model(family)
    environment = Environment(batch_size=3, sequence_length=7)
    batch = random_batch(model, environment, seed=1)
    assert batch["input_ids"].shape == (3, 7)
    assert batch["attention_mask"].eq(1).all()
    assert torch.equal(batch["input_ids"], random_batch(model, environment, seed=1)["input_ids"])
    assert not torch.equal(batch["input_ids"], random_batch(model, environment, seed=2)["input_ids"])
    assert getattr(model(**batch), "past_key_values", None) is None
