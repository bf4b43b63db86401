"""Encoder-decoders that hear: generation after pruning, caches of self- and cross-attention, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationMixin

from masks import without_blocks
from secateurs.errors import RecipeError
from secateurs.latency.environment import Environment
from secateurs.latency.workload import random_batch
from secateurs.oneshot.calibrate import calibrate
from secateurs.structure.cut import Kind
from secateurs.structure.families import discover
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.surgery.shrink import shrink, zero_masked
from tiny_configs import SOUND_TYPES
from tiny_models import batch, tiny_model

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "static cache": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
}


def written(model: Any, way: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and scores. Whisper's own ``generate`` divides long sounds and then calls this one."""
    given = dict(batch(model, length=3))
    options = {"max_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    found = GenerationMixin.generate(model, **given, **options, **WAYS[way])
    return found.sequences, torch.stack(found.scores)


def masks(structure: Structure) -> dict[str, Mask]:
    heads = [group for group in structure if group.kind is Kind.HEAD]
    of = {name: [group for group in heads if group.cache == name] for name in ("self", "cross")}
    gone = {
        "first layers": without_blocks(structure, Kind.HEAD, {0, 2}),
        "every self-attention": Mask.from_units(structure, {group.name: torch.arange(0) for group in of["self"]}),
        "every cross-attention": Mask.from_units(structure, {group.name: torch.arange(0) for group in of["cross"]}),
        "the first self- and the last cross-attention": Mask.from_units(
            structure, {of["self"][0].name: torch.arange(0), of["cross"][-1].name: torch.arange(0)}
        ),
    }
    assert all(mask != Mask.full(structure) for mask in gone.values())
    return gone


@pytest.mark.parametrize("case", masks(discover(tiny_model("whisper"))))
@pytest.mark.parametrize("model_type", sorted(SOUND_TYPES))
def test_generation_is_the_same(model_type: str, case: str) -> None:
    model = tiny_model(model_type)
    structure = discover(model)
    mask = masks(structure)[case]
    zero_masked(model, structure, mask)
    wanted = {way: written(model, "beams" if way == "beams" else "greedy") for way in WAYS}
    shrink(model, structure, mask)
    for way, (tokens, scores) in wanted.items():
        found = written(model, way)
        assert torch.equal(found[0], tokens), way
        assert (found[1] - scores).abs().max() < 1e-9, way


@pytest.mark.parametrize("model_type", sorted(SOUND_TYPES))
def test_each_stack_is_calibrated_on_its_own_tokens(model_type: str) -> None:
    model = tiny_model(model_type)
    moments = calibrate(model, discover(model), [dict(batch(model))])
    assert moments["encoder.1.heads"].count == 3 * 10
    assert moments["decoder.1.cross_heads"].count == 3 * 11


def test_without_a_task_it_is_not_timed() -> None:
    with pytest.raises(RecipeError, match="WhisperForConditionalGeneration cannot be timed"):
        random_batch(tiny_model("whisper"), Environment(), seed=0)
