"""Norms over all heads of an attention, such as those of OLMo 2: every mask takes heads out of their statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from masks import uneven
from secateurs.gates.fold import Opening
from secateurs.gates.gates import Gated, Gates
from secateurs.oneshot.levels import Level
from secateurs.oneshot.stitch import Stitch
from secateurs.structure.families import discover, model_types
from secateurs.structure.mask import Mask
from secateurs.surgery.masked_norm import MaskedNorm, unmask_norms
from secateurs.surgery.shrink import shrink, zero_masked
from tiny_models import batch, copied, tiny_model, tiny_structure

TYPES = [name for name in model_types() if any(group.joint_norms for group in tiny_structure(name))]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(**batch(padding="right")).logits


def masked_norms(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, MaskedNorm)]


@pytest.mark.usefixtures("norms_in_fp64")
@pytest.mark.parametrize("model_type", TYPES)
def test_every_way_to_mask_agrees_with_the_shrunk_model(model_type: str) -> None:
    model = tiny_model(model_type)
    structure, dense = discover(model), logits(model)
    mask = uneven(structure)
    small = logits(shrink(copied(model), structure, mask))
    zeroed = copied(model)
    zero_masked(zeroed, structure, mask)
    assert len(masked_norms(zeroed)) == 6
    values = {name: kept.double() for name, kept in mask.kept.items()}
    opening = Opening(values, {name: torch.ones((), dtype=torch.float64) for name in values})
    gated = Gated(copied(model), structure, Gates(structure).double())
    with torch.no_grad():
        opened = gated.opened(opening, **batch(padding="right")).logits
    stitch = Stitch(model, structure)
    for group in structure:
        units = mask.units(group.name)
        columns = (units[:, None] * group.width + torch.arange(group.width)).flatten()
        stitch.mask(group.name, Level(units, stitch.weight(group.name)[:, columns], stitch.bias(group.name)))
    stitched = logits(model)
    for masked in (logits(zeroed), opened, stitched):
        torch.testing.assert_close(masked, small, rtol=0, atol=1e-12)
    stitch.reset_all()
    unmask_norms(gated.model, structure)
    assert not masked_norms(model) and not masked_norms(gated.model)
    assert torch.equal(logits(model), dense) and torch.equal(logits(gated.model), dense)


@pytest.mark.usefixtures("norms_in_fp64")
@pytest.mark.parametrize("model_type", TYPES)
def test_the_law_needs_the_statistics_of_the_kept_heads(model_type: str) -> None:
    model = tiny_model(model_type)
    structure = discover(model)
    mask = uneven(structure)
    blind = copied(model)
    zero_masked(blind, structure, mask)
    unmask_norms(blind, structure)
    assert (logits(blind) - logits(shrink(model, structure, mask))).abs().max() > 1e-3


@pytest.mark.parametrize("model_type", TYPES)
def test_a_mask_shrinks_with_its_model(model_type: str) -> None:
    """A masked model that is shrunk in two steps is masked over what is left, and at the end not at all."""
    model = tiny_model(model_type)
    structure = discover(model)
    mask = uneven(structure)
    zero_masked(model, structure, mask)
    wanted = logits(model)
    name = structure.groups[0].name
    part = Mask({**Mask.full(structure).kept, name: mask[name]})
    shrink(model, structure, part)
    assert len(masked_norms(model)) == 4
    torch.testing.assert_close(logits(model), wanted, rtol=1e-5, atol=1e-5)
    rest = discover(model)
    shrink(model, rest, Mask({**mask.kept, name: torch.ones(rest[name].size).bool()}))
    assert not masked_norms(model)
    torch.testing.assert_close(logits(model), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", TYPES)
def test_an_attention_without_heads_has_ordinary_norms(model_type: str) -> None:
    """Its output is zero or its bias; a norm over no dimension would be infinite."""
    model = tiny_model(model_type)
    structure = discover(model)
    gone = Mask.from_units(structure, {structure.groups[0].name: torch.arange(0)})
    zero_masked(model, structure, gone)
    assert not masked_norms(model)
    assert torch.isfinite(logits(model)).all()
