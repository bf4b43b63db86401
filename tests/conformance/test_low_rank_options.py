"""Low-rank options for every family: a matrix is factorised instead of losing heads or neurons."""

from __future__ import annotations

import pytest
import torch

from secateurs import Mask, ParameterCost, discover
from secateurs.errors import RecipeError
from secateurs.latency.environment import Environment
from secateurs.latency.profile import measure_table
from secateurs.structure.families import model_types
from secateurs.surgery.low_rank_groups import with_low_rank_options
from secateurs.surgery.shrink import shrink, zero_masked
from tiny_models import batch, copied, tiny_model, tiny_structure
from work_clock import work_clock

pytestmark = pytest.mark.usefixtures("norms_in_fp64")


def some_mask(structure) -> Mask:
    """Every second group loses units; the matrices of the other groups get ranks of 1, 3, 5, 7 in turn."""
    kept = {}
    cut = [group.name for index, group in enumerate(structure.without_low_rank_options()) if index % 2 == 0]
    for name in cut:
        kept[name] = torch.arange(max(1, structure[name].size // 2))
    for index, group in enumerate(structure.low_rank_options):
        if group.instead_of not in cut:
            kept[group.name] = torch.arange(min(group.size, 1 + 2 * (index % 4)))
    return Mask.from_units(structure, kept)


@pytest.mark.parametrize("family", model_types())
def test_masked_and_shrunk_agree_and_are_counted(family: str) -> None:
    model = tiny_model(family).double().eval()
    structure = with_low_rank_options(model)
    assert structure.without_low_rank_options() == tiny_structure(family)
    mask = some_mask(structure)
    masked = copied(model)
    zero_masked(masked, structure, mask)
    small = shrink(copied(masked), structure, mask)
    inputs = batch(model)
    with torch.no_grad():
        torch.testing.assert_close(masked(**inputs)[0], small(**inputs)[0], rtol=0, atol=1e-12)
    cost = ParameterCost.of(model, structure)
    assert cost(mask.counts) == sum(parameter.numel() for parameter in small.parameters())
    assert cost(structure.sizes) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_product_of_few_components_is_factorised_exactly(family: str) -> None:
    model = tiny_model(family).double().eval()
    structure = with_low_rank_options(model)
    group = structure.low_rank_options[-1]
    module = model.get_submodule(group.product)
    first, second = (torch.randn(3, size, dtype=torch.float64) for size in (module.in_features, module.out_features))
    with torch.no_grad():
        module.weight.copy_(second.T @ first)
    small = shrink(copied(model), structure, Mask.from_units(structure, {group.name: torch.arange(3)}))
    assert small.get_submodule(group.product).rank == 3
    inputs = batch(model)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs)[0], small(**inputs)[0], rtol=0, atol=1e-12)


def test_units_and_ranks_of_one_group_cannot_both_be_dropped() -> None:
    model = tiny_model("bert")
    structure = with_low_rank_options(model)
    group = structure.low_rank_options[0]
    mask = Mask.from_units(structure, {group.name: torch.arange(2), group.instead_of: torch.arange(1)})
    with pytest.raises(RecipeError, match="one of the two must stay at full size"):
        shrink(model, structure, mask)


def test_a_latency_table_covers_units_and_ranks() -> None:
    model = tiny_model("bert").eval()
    structure = with_low_rank_options(model)
    environment = Environment(batch_size=2, sequence_length=8, threads=1)
    table = measure_table(model, structure, environment, seconds=0, rounds=(1, 1), timer=work_clock)
    assert table.speedup(structure.sizes) == pytest.approx(1.0)
    assert set(table.low_rank_options) == {group.name for group in structure.low_rank_options}
    plain = measure_table(model, discover(model), environment, seconds=0, rounds=(1, 1), timer=work_clock)
    counts = {name: max(1, size // 2) for name, size in discover(model).sizes.items()}
    assert table({**structure.sizes, **counts}) == pytest.approx(float(plain(counts)))
    group = structure.low_rank_options[0]
    lower = {**structure.sizes, group.name: 1}
    saved = table.dense_ms - float(table(lower))
    curve = table.curve(group.name)
    assert saved == pytest.approx(curve.ms[-1] - float(curve(1)))
    assert type(table).from_dict(table.to_dict()) == table
