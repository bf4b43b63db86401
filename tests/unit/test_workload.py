"""Refused environments, copies that share weights, batches of the right shape."""

from __future__ import annotations

import pytest
import torch

from secateurs.environment import Environment
from secateurs.errors import RecipeError
from secateurs.families import discover
from secateurs.mask import Mask
from secateurs.shrink import shrink
from secateurs.workload import check, random_batch, sequence_limit, twin
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
def test_unfit_environments_are_refused_in_one_line(changes: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        check(Environment(**{"sequence_length": 64, **changes}), tiny_model("bert"))
    assert "\n" not in str(caught.value)


def test_missing_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="sees no CUDA device; use cpu"):
        check(Environment(device="cuda:0"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check(Environment(device="cuda:1"))
    with pytest.raises(RecipeError, match="cuda:2 does not exist; this machine has 2"):
        check(Environment(device="cuda:2"))


@pytest.mark.parametrize(("family", "limit"), [("bert", 64), ("gpt2", 64), ("roberta", 62)])
def test_the_sequence_limit_is_where_the_model_breaks(family: str, limit: int) -> None:
    model = tiny_model(family)
    assert sequence_limit(model) == limit
    check(Environment(sequence_length=limit), model)
    tokens = torch.full((1, limit), 5)
    model(input_ids=tokens)
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.cat((tokens, tokens[:, :1]), dim=1))


def test_twin_shares_weights_and_shields_the_model_from_surgery() -> None:
    model = tiny_model("gpt2").train()
    structure = discover(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copy = twin(model)
    assert all(a is b for a, b in zip(model.parameters(), copy.parameters(), strict=True))
    nothing = Mask({group.name: torch.zeros(group.size, dtype=torch.bool) for group in structure})
    shrink(copy.eval(), structure, nothing)
    assert discover(model).sizes == structure.sizes
    assert model.training
    assert getattr(model.config, "secateurs", None) is None
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_twin_in_another_dtype_leaves_the_model_and_its_ties() -> None:
    model = tiny_model("gpt2")
    copy = twin(model, "cpu", torch.float32)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert {parameter.dtype for parameter in copy.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.transformer.wte.weight
    assert copy.lm_head.weight is copy.transformer.wte.weight


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_random_batch_is_full_seeded_and_without_cache(family: str) -> None:
    model = tiny_model(family)
    environment = Environment(batch_size=3, sequence_length=7)
    batch = random_batch(model, environment, seed=1)
    assert batch["input_ids"].shape == (3, 7)
    assert batch["attention_mask"].eq(1).all()
    assert torch.equal(batch["input_ids"], random_batch(model, environment, seed=1)["input_ids"])
    assert not torch.equal(batch["input_ids"], random_batch(model, environment, seed=2)["input_ids"])
    assert getattr(model(**batch), "past_key_values", None) is None
