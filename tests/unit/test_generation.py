"""Generation: tokens, caches and what is refused, against ``generate`` of transformers and against shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from secateurs.errors import RecipeError
from secateurs.latency.compare import GenerationTiming, Measurement, Timing, compare
from secateurs.latency.environment import Environment, lengths
from secateurs.latency.fresh_processes import _median_timing
from secateurs.latency.generation import generate, tokens_in_cache
from secateurs.latency.key_value_cache import cache_bytes, fresh_copy
from secateurs.latency.passes import PER_TOKEN, passes
from secateurs.latency.runtimes import names, runtime
from secateurs.latency.workload import check, random_batch
from secateurs.structure.cut import Kind
from secateurs.structure.families import discover
from secateurs.structure.mask import Mask
from secateurs.surgery.shrink import shrink
from tiny_models import tiny_model
from work_clock import work_clock

BATCH, PROMPT, NEW = 2, 6, 5
GENERATION = Environment(batch_size=BATCH, **lengths("generation", 128, PROMPT, NEW))


def without(model: Any, kept: Mapping[str, int]) -> Any:
    """The model with only so many units of some groups."""
    structure = discover(model)
    units = {group.name: torch.arange(kept.get(group.name, group.size)) for group in structure}
    return shrink(model, structure, Mask.from_units(structure, units))


def heads(model: Any) -> list[str]:
    return [group.name for group in discover(model) if group.kind is Kind.HEAD]


def pruned_llama() -> Any:
    """Grouped attention: the first layer without attention, the second with one key-value head."""
    model = tiny_model("llama")
    first, second, *_ = heads(model)
    return without(model, {first: 0, second: 1})


@pytest.mark.parametrize(
    "model", [tiny_model("llama"), tiny_model("gpt2"), pruned_llama()], ids=["llama", "gpt2", "pruned"]
)
def test_tokens_are_those_of_transformers(model: Any) -> None:
    """The prompt gives one token, and each step one more, as many as asked for: no token ends a sequence."""
    prompt = random_batch(model, GENERATION, seed=3)
    found = generate(runtime("torch").prepare(model, GENERATION, prompt), prompt, NEW)
    expected = model.float().generate(
        input_ids=prompt["input_ids"],
        attention_mask=prompt["attention_mask"],
        do_sample=False,
        max_new_tokens=1 + NEW,
        eos_token_id=None,
    )
    assert found.tokens.shape == (BATCH, 1 + NEW)
    assert torch.equal(found.tokens, expected[:, PROMPT:])
    assert found.cache.get_seq_length() == PROMPT + NEW


def test_every_timed_step_starts_from_the_same_cache() -> None:
    model = tiny_model("llama")
    step, number = passes(GENERATION, random_batch(model, GENERATION, seed=0))[PER_TOKEN]
    run = step.of_model(runtime("torch").prepare(model, GENERATION, step.inputs))
    first, second = run(), run()
    assert number == NEW
    assert torch.equal(first.logits, second.logits)
    held = tokens_in_cache(GENERATION)
    assert held == PROMPT + NEW // 2
    assert first.past_key_values.get_seq_length() == second.past_key_values.get_seq_length() == held + 1


def test_a_fresh_copy_and_its_original_grow_apart() -> None:
    cache = tiny_model("llama")(torch.ones(1, 4, dtype=torch.long), use_cache=True).past_key_values
    copied = fresh_copy(cache)
    assert copied.layers[1].keys is cache.layers[1].keys
    copied.update(torch.zeros_like(cache.layers[1].keys), torch.zeros_like(cache.layers[1].values), 1)
    assert (copied.get_seq_length(1), cache.get_seq_length(1)) == (8, 4)
    assert fresh_copy(None) is None


def bytes_by_shapes(model: Any) -> int:
    """Keys and values of all tokens in float32, by the shapes of the projections."""
    rows = sum(
        parameter.shape[0]
        for name, parameter in model.named_parameters()
        if name.endswith(("k_proj.weight", "v_proj.weight"))
    )
    return BATCH * (PROMPT + NEW) * rows * 4


def test_a_generation_is_timed_with_its_parts_and_its_cache() -> None:
    dense, pruned = tiny_model("llama"), pruned_llama()
    timed = compare({"dense": dense, "pruned": pruned}, GENERATION, timer=work_clock, seconds=0, rounds=(2, 2))
    for name, model in (("dense", dense), ("pruned", pruned)):
        timing = timed.timings[name]
        parts = timing.generation
        assert parts is not None
        assert timing.latency_ms == pytest.approx(parts.first_token_ms + NEW * parts.per_token_ms)
        prompt = random_batch(model, GENERATION, seed=0)
        run = runtime("torch").prepare(model, GENERATION, prompt)
        assert parts.first_token_ms == pytest.approx(work_clock(lambda run=run, prompt=prompt: run(prompt)).ms)
        assert parts.cache_bytes == bytes_by_shapes(model) == cache_bytes(generate(run, prompt, NEW).cache)
    dense_parts, pruned_parts = timed.timings["dense"].generation, timed.timings["pruned"].generation
    assert dense_parts is not None and pruned_parts is not None
    assert dense_parts.per_token_ms > pruned_parts.per_token_ms
    units = [group.size for group in discover(dense) if group.kind is Kind.HEAD]
    assert pruned_parts.cache_bytes / dense_parts.cache_bytes == (1 + sum(units[2:])) / sum(units)
    assert Measurement.from_dict(timed.to_dict()) == timed


def test_throughput_is_written_as_before() -> None:
    model = tiny_model("llama")
    environment = Environment(batch_size=2, sequence_length=6)
    timed = compare({"dense": model}, environment, timer=work_clock, seconds=0, rounds=(1, 1)).to_dict()
    assert "generation" not in timed["timings"]["dense"]
    assert not {"regime", "prompt_length", "new_tokens"} & timed["environment"].keys()
    assert Environment.from_dict(timed["environment"]) == environment
    assert Environment.from_dict(GENERATION.to_dict()) == GENERATION
    assert "prompt 6 and 5 new tokens" in str(GENERATION)


def test_figures_of_several_processes_are_medians() -> None:
    timings = [Timing(ms, ms, ms, 1.0, 5, 0.0, GenerationTiming(ms / 2, ms / 10, 640)) for ms in (10.0, 30.0, 20.0)]
    assert _median_timing(timings).generation == GenerationTiming(10.0, 2.0, 640)
    assert _median_timing([Timing(1.0, 1.0, 1.0, 1.0, 5, 0.0)] * 2).generation is None


@pytest.mark.parametrize(
    ("model_type", "auto", "message"),
    [
        ("bert", "AutoModel", "BertModel does not generate: the regime generation needs a decoder with an output head"),
        ("bert", "AutoModelForMaskedLM", "BertForMaskedLM does not generate"),
        ("llama", "AutoModel", "LlamaModel does not generate"),
        ("llama", "AutoModelForSequenceClassification", "LlamaForSequenceClassification does not generate"),
        ("t5", None, "has an encoder and a decoder, and the regime generation is for decoders alone"),
    ],
)
def test_models_that_do_not_generate_are_refused_in_one_line(model_type: str, auto: str | None, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        check(GENERATION, tiny_model(model_type, auto=auto))
    assert "\n" not in str(caught.value)


def test_a_model_without_a_cache_is_refused() -> None:
    model = tiny_model("bert", auto="AutoModelForMaskedLM")
    prompt = {"input_ids": torch.ones(1, 4, dtype=torch.long), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    with pytest.raises(RecipeError, match="the model returns no key-value cache"):
        generate(runtime("torch").prepare(model, GENERATION, prompt), prompt, 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lengths("generation", 0, 0, 5), "prompt_length is 0; it must be at least 1 in the regime generation"),
        (lengths("generation", 0, 5, 0), "new_tokens is 0"),
        ({"regime": "sleep"}, "regime 'sleep' is unknown; choose throughput or generation"),
        (lengths("generation", 0, 60, 5), "a prompt of 60 tokens and 5 new ones are too long: .* at most 64 together"),
    ],
)
def test_lengths_that_cannot_be_timed_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check(Environment(**given), tiny_model("gpt2"))
    check(Environment(**lengths("generation", 0, 60, 4)), tiny_model("gpt2"))


@pytest.mark.parametrize("name", [name for name in names() if name != "torch"])
def test_a_runtime_that_keeps_no_cache_is_refused(name: str) -> None:
    with pytest.raises(
        RecipeError,
        match=f"the runtime {name} keeps no key-value cache, which the regime generation needs; use torch",
    ):
        check(Environment(runtime=name, **lengths("generation", 0, 6, 5)))
    with pytest.raises(RecipeError, match=f"the runtime {name} keeps no key-value cache"):
        compare({"dense": tiny_model("gpt2")}, GENERATION, runtimes={"dense": name})
