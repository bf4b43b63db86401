"""Models with two towers, which no task has: the law in both towers at once, saved and loaded, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from typer.testing import CliRunner

from masks import without_blocks
from secateurs.checkpoint.save_load import load, save
from secateurs.cli import app
from secateurs.errors import RecipeError, SecateursError
from secateurs.latency.environment import Environment
from secateurs.latency.workload import random_batch
from secateurs.oneshot.calibrate import calibrate
from secateurs.structure.cost import ParameterCost
from secateurs.structure.cut import Kind
from secateurs.structure.families import discover
from secateurs.structure.mask import Mask
from secateurs.surgery.shrink import shrink, zero_masked
from tiny_models import copied, tiny_model

TYPES = ("clip", "siglip")


def batch() -> dict[str, torch.Tensor]:
    """Two texts, one of them padded, and three images."""
    chance = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 49, (2, 12), generator=chance)
    tokens[:, -1] = 49  # CLIP reads the state at the largest token id
    mask = torch.ones_like(tokens)
    mask[1, 7:] = 0
    pixels = torch.randn(3, 3, 16, 16, generator=chance, dtype=torch.float64)
    return {"input_ids": tokens, "attention_mask": mask, "pixel_values": pixels}


def outputs(model: Any, attention: str = "sdpa") -> list[torch.Tensor]:
    model.set_attn_implementation(attention)
    with torch.no_grad():
        found = model(**batch())
    return [found.text_embeds, found.image_embeds, found.logits_per_image, found.text_model_output.last_hidden_state]


def difference(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


def mask_of(structure: Any, case: str) -> Mask:
    if case == "uneven":
        return Mask({g.name: torch.arange(g.size) >= 1 + i % (g.size - 1) for i, g in enumerate(structure)})
    return without_blocks(structure, {"heads": Kind.HEAD, "widths": Kind.INTERMEDIATE}.get(case), {0, 1, 4})


@pytest.mark.parametrize("case", ["uneven", "heads", "widths", "layers"])
@pytest.mark.parametrize("model_type", TYPES)
def test_the_law_holds_in_both_towers(model_type: str, case: str, tmp_path: Path) -> None:
    model = tiny_model(model_type, auto="AutoModel")
    structure = discover(model)
    assert {name.split(".")[0] for name in structure.sizes} == {"text", "vision"}
    assert len(structure) == 12
    mask, before, cost = mask_of(structure, case), outputs(model), ParameterCost.of(model, structure)
    zero_masked(model, structure, mask)
    masked = [outputs(model, attention) for attention in ("sdpa", "eager")]
    small = shrink(copied(model), structure, mask)
    assert max(difference(one, outputs(small, how)) for one, how in zip(masked, ("sdpa", "eager"), strict=True)) < 1e-12
    assert difference(before, masked[0]) > 1e-3
    assert cost(mask.counts) == sum(parameter.numel() for parameter in small.parameters())
    save(small, None, tmp_path / "small")
    for read in (
        load,
        transformers.AutoModel.from_pretrained,
        lambda path: transformers.AutoModel.from_pretrained(path, trust_remote_code=True),
    ):
        again = read(tmp_path / "small").double().eval()
        assert difference(outputs(small), outputs(again)) < 1e-12
    assert discover(again).sizes == {name: count for name, count in mask.counts.items() if count}


@pytest.mark.parametrize("model_type", TYPES)
def test_the_towers_are_calibrated_on_their_own_tokens(model_type: str) -> None:
    """The padding of the texts says nothing about the images."""
    model = tiny_model(model_type, auto="AutoModel")
    moments = calibrate(model, discover(model), [batch()])
    patches = 5 if model_type == "clip" else 4
    assert moments["text.1.heads"].count == 12 + 7
    assert moments["vision.1.intermediate"].count == 3 * patches


def test_without_a_task_there_is_no_run(tmp_path: Path) -> None:
    model = tiny_model("clip", auto="AutoModel")
    with pytest.raises(RecipeError, match=r"CLIPModel cannot be timed: .* can be inspected, and pruned in Python"):
        random_batch(model, Environment(), seed=0)
    model.save_pretrained(tmp_path / "clip")
    answer = CliRunner().invoke(app, ["inspect", str(tmp_path / "clip")])
    assert answer.exit_code == 0, answer.output
    answer = CliRunner().invoke(app, ["measure", str(tmp_path / "clip")])
    assert isinstance(answer.exception, SecateursError)
    assert "cannot be timed" in str(answer.exception)
