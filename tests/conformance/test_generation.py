"""Generation by every pruned decoder: the same tokens as the masked model gives, with and without a cache."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from masks import without_blocks
from secateurs.structure.cut import Kind
from secateurs.structure.families import discover
from secateurs.structure.mask import Mask
from secateurs.surgery.shrink import shrink, zero_masked
from tiny_models import DECODERS, ENCODER_DECODERS, batch, copied, tiny_model, tiny_structure

TOLERANCE = 1e-12

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "static cache": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
}


def continued(model: Any, way: str = "greedy", length: int = 9, new: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Continue padded and unpadded prompts; return the tokens, and the logits from which they were chosen.

    The first new token fills the cache, the second reads it, and the third reads what the second wrote.
    Padding tokens are not generated: M2M-100 counts its positions without them, and with a cache it forgets earlier ones.
    """
    prompt = batch(length=length, padding="left" if model._supports_sdpa else None)  # eager: NaN in fp64
    options = {"max_new_tokens": new, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    found = model.generate(**prompt, **options, **WAYS[way], suppress_tokens=[model.config.pad_token_id])
    return found.sequences, torch.stack(found.logits)


def alike(one: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor]) -> bool:
    """Whether tokens are equal and logits nearly so. Norms in fp32 make logits with a cache differ by less than 1e-4."""
    return torch.equal(one[0], other[0]) and (one[1] - other[1]).abs().max().item() < 1e-4


def stepped(model: Any) -> torch.Tensor:
    """Logits of one token at a time with a cache; the position of the token is not passed to the model."""
    tokens, logits, cache = batch()["input_ids"], [], None
    with torch.no_grad():
        for step in range(tokens.shape[1]):
            found = model(input_ids=tokens[:, step : step + 1], past_key_values=cache, use_cache=True)
            cache = found.past_key_values
            logits.append(found.logits)
    return torch.cat(logits, 1)


@pytest.mark.parametrize("gone", [{0, 2}, set(range(9))])
@pytest.mark.parametrize("model_type", sorted(DECODERS | ENCODER_DECODERS))
def test_generation_is_the_same(model_type: str, gone: set[int]) -> None:
    """Without the attention of some layers."""
    model, structure = tiny_model(model_type), tiny_structure(model_type)
    mask = without_blocks(structure, Kind.HEAD, gone)
    zero_masked(model, structure, mask)
    greedy, beams = continued(model), continued(model, "beams")
    ways = ["greedy", "static cache", "no cache"]
    if not model._can_compile_fullgraph and not alike(continued(model, "static cache"), greedy):
        ways.remove("static cache")  # GPT-Neo masks the wrong keys of a static cache, in transformers too
    shrink(model, structure, mask)
    assert alike(continued(model, "beams"), beams)
    for way in ways:
        assert alike(continued(model, way), greedy), way


@pytest.mark.parametrize("gone", ["self", "cross"])
@pytest.mark.parametrize("layers", [{0}, {0, 1}])
@pytest.mark.parametrize("model_type", sorted(ENCODER_DECODERS))
def test_self_and_cross_attention_have_slots_of_their_own(model_type: str, layers: set[int], gone: str) -> None:
    """Decoder layers that keep one of their two attentions; without any self-attention nothing counts the positions."""
    model, structure = tiny_model(model_type), tiny_structure(model_type)
    groups = [group for group in structure if group.kind is Kind.HEAD and group.cache == gone]
    mask = Mask.from_units(structure, {groups[layer].name: torch.arange(0) for layer in layers})
    zero_masked(model, structure, mask)
    greedy, beams = continued(model), continued(model, "beams")
    shrink(model, structure, mask)
    slots = [model.get_submodule(group.block).layer_idx for group in groups if mask[group.name].any()]
    assert slots == list(range(len(slots)))
    assert model.config.use_cache == (gone == "cross" or len(layers) == 1)
    assert alike(continued(model, "beams"), beams)
    for way in ("greedy", "static cache", "no cache"):
        assert alike(continued(model, way), greedy), way


@cache
def _mixed() -> Any:
    """A model with two kinds of cache, sliding and full."""
    return tiny_model("qwen3", num_hidden_layers=4, layer_types=["sliding_attention", "full_attention"] * 2)


@pytest.mark.parametrize("gone", range(1, 16))
def test_generation_with_sliding_and_full_layers(gone: int) -> None:
    """Every subset of attention blocks is removed; 27 tokens are more than the window of 8."""
    model = copied(_mixed())
    assert model.config.sliding_window == 8
    structure = discover(model)
    mask = without_blocks(structure, Kind.HEAD, {layer for layer in range(4) if gone >> layer & 1})
    zero_masked(model, structure, mask)
    greedy, steps = continued(model, length=20, new=7), stepped(model)
    shrink(model, structure, mask)
    assert alike(continued(model, length=20, new=7), greedy)
    assert alike(continued(model, "static cache", length=20, new=7), greedy)
    if gone != 15:  # without any attention there is no cache
        assert (stepped(model) - steps).abs().max() < TOLERANCE


@pytest.mark.parametrize("gone", [{0}, {0, 2}])
def test_cached_generation_needs_renumbered_layers(gone: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the renumbering, an unused slot 0 of the cache silently changes the logits."""
    model = _mixed()
    structure = discover(model)
    mask = without_blocks(structure, Kind.HEAD, gone)
    masked = copied(model)
    zero_masked(masked, structure, mask)
    renumbered = shrink(copied(model), structure, mask)
    monkeypatch.setattr("secateurs.surgery.shrink._cache_slots", lambda *_: {})
    stale = shrink(copied(model), structure, mask)
    with torch.no_grad():
        assert (stale(**batch()).logits - masked(**batch()).logits).abs().max() < TOLERANCE, "equal without a cache"
    assert (stepped(renumbered) - stepped(masked)).abs().max() < TOLERANCE
    assert (stepped(stale) - stepped(masked)).abs().max() > 1e-3
