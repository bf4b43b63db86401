"""Pairs of factors in every family: exact at full rank, shrunk to any rank, and pruned again afterwards."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from masks import two_blocks_removed
from secateurs.errors import RecipeError, UnsupportedModelError
from secateurs.methods.flop.components import embedding_widths, with_pairs
from secateurs.modeling.pruned_modules import is_factored
from secateurs.numerics.low_rank import break_even
from secateurs.structure.cost import ParameterCost
from secateurs.structure.cut import Kind
from secateurs.structure.families import discover, model_types
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.surgery.config_block import block_of
from secateurs.surgery.factorize import factorize, matrices, rank_groups
from secateurs.surgery.shrink import shrink, zero_masked
from tiny_models import batch, copied, factored_model, hidden_states, tiny_model, tiny_structure, without_layer

TYPES = model_types()
TOLERANCE = 1e-12


def factored(model: Any, which: str = "all") -> Structure:
    factorize(model, matrices(model, which))
    return rank_groups(model, which)


def outputs(model: Any) -> list[Tensor]:
    with torch.no_grad():
        found = model(**batch(model, padding="right"), output_hidden_states=True)
    return [*hidden_states(found), found.logits]


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


def even(model: Any, path: str) -> int:
    pair: Any = model.get_submodule(path)
    return break_even(pair.in_features, pair.out_features)


def mixed(model: Any, structure: Structure, start: int = 0) -> Mask:
    """Ranks in turn: 0, 3, the break-even rank, one more than that, one less than the full rank, the full rank.

    Every layer starts with another one, so that two masks (``start`` 0 and 3) have each rank of each matrix of a layer.
    """
    kept = {}
    layers = enumerate(structure.layers.values())
    turns = {group.name: number + place for number, layer in layers for place, group in enumerate(layer)}
    for index, group in enumerate(structure):
        line = even(model, group.product)
        count = (0, 3, line, line + 1, group.size - 1, group.size)[(turns[group.name] + start) % 6]
        order = torch.randperm(group.size, generator=torch.Generator().manual_seed(index))
        kept[group.name] = order[: min(count, group.size)]
    return Mask.from_units(structure, kept)


@pytest.mark.parametrize("model_type", TYPES)
def test_a_pair_of_full_rank_is_the_matrix(model_type: str) -> None:
    model = tiny_model(model_type)
    wanted, dense = outputs(model), model
    model = factored_model(model_type)
    structure = rank_groups(model)
    assert difference(outputs(model), wanted) < TOLERANCE
    assert len(structure) == len(matrices(dense)) >= 6
    size = sum(parameter.numel() for parameter in dense.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) > 1.2 * size, (
        "pairs of full rank are larger than their matrices"
    )
    cost = ParameterCost.of(model, structure)
    assert cost(structure.sizes) == size
    shrink(model, structure, Mask.full(structure))
    assert [(name, p.shape) for name, p in sorted(model.named_parameters())] == [
        (name, p.shape) for name, p in sorted(dense.named_parameters())
    ], "all pairs are multiplied back"
    assert difference(outputs(model), wanted) < TOLERANCE


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("model_type", TYPES)
def test_shrinking_ranks_changes_nothing(model_type: str, start: int) -> None:
    model = factored_model(model_type)
    structure = rank_groups(model)
    cost, mask, before = ParameterCost.of(model, structure), mixed(model, structure, start), outputs(model)
    zero_masked(model, structure, mask)
    masked = outputs(model)
    shrink(model, structure, mask)
    assert difference(masked, outputs(model)) < TOLERANCE
    assert difference(before, masked) > 1e-3
    assert cost(mask.counts) == sum(parameter.numel() for parameter in model.parameters())
    for group in structure:
        kept = mask.counts[group.name]
        module: Any = model.get_submodule(group.product)
        assert is_factored(module) == (kept <= even_of(module))
        if is_factored(module):
            assert module.rank == kept


def even_of(module: Any) -> int:
    inputs, outputs_ = (module.nx, module.nf) if hasattr(module, "nf") else (module.in_features, module.out_features)
    return break_even(inputs, outputs_)


@pytest.mark.parametrize("model_type", TYPES)
def test_shrinking_twice_is_shrinking_once(model_type: str) -> None:
    """``rank_groups`` of a shrunk model has the ranks that are left."""
    once, twice = factored_model(model_type), factored_model(model_type)
    structure = rank_groups(once)
    counts = {group.name: min(group.size, 9 - 3 * (index % 4)) for index, group in enumerate(structure)}  # 9, 6, 3, 0
    first = Mask.from_units(structure, {name: torch.arange(count) for name, count in counts.items()})
    rest = rank_groups(shrink(twice, structure, first))
    assert rest.sizes == {name: count for name, count in counts.items() if count}
    second = Mask({group.name: torch.arange(group.size) % 3 > 0 for group in rest})
    both = {
        name: torch.cat([second[name], torch.zeros(len(kept) - len(second[name])).bool()])
        if name in second.kept
        else kept
        for name, kept in first.kept.items()
    }
    shrink(twice, rest, second)
    shrink(once, structure, Mask(both))
    assert block_of(once) == block_of(twice)
    tensors = twice.state_dict()
    assert all(torch.equal(value, tensors[name]) for name, value in once.state_dict().items())
    assert difference(outputs(once), outputs(twice)) == 0.0


@pytest.mark.parametrize("model_type", TYPES)
def test_a_pruned_model_is_factorised(model_type: str) -> None:
    """The pruned model has uneven heads and neurons, one emptied attention and one emptied feed-forward block."""
    model, groups = tiny_model(model_type), tiny_structure(model_type)
    shrink(model, groups, two_blocks_removed(groups))
    wanted = outputs(model)
    structure = factored(model)
    gone = groups.groups[0]  # the first attention
    assert not any(group.layer == gone.layer and group.product.startswith(gone.block) for group in structure)
    assert difference(outputs(model), wanted) < TOLERANCE
    mask = mixed(model, structure, 1)
    cost = ParameterCost.of(model, structure)
    zero_masked(model, structure, mask)
    masked = outputs(model)
    shrink(model, structure, mask)
    assert difference(masked, outputs(model)) < TOLERANCE
    assert cost(mask.counts) == sum(parameter.numel() for parameter in model.parameters())
    block = block_of(model)
    assert block is not None and len(block["groups"]) == len(groups) + len(structure)


@cache
def _with_fewer_ranks(model_type: str) -> Any:
    model = factored_model(model_type)
    ranks = rank_groups(model)
    return shrink(model, ranks, mixed(model, ranks, 3))


def with_fewer_ranks(model_type: str) -> Any:
    return copied(_with_fewer_ranks(model_type))


@pytest.mark.usefixtures("norms_in_fp64")
@pytest.mark.parametrize("model_type", TYPES)
def test_a_factorised_model_is_pruned(model_type: str) -> None:
    """Units are rows of second factors and columns of first factors; the first block of each kind is removed too."""
    model = with_fewer_ranks(model_type)
    groups = discover(model)
    assert groups.sizes == tiny_structure(model_type).sizes
    gone = {next(group.name for group in groups if group.kind is kind) for kind in (Kind.HEAD, Kind.INTERMEDIATE)}
    kept = {group.name: (torch.arange(group.size) % 3 != 1) & (group.name not in gone) for group in groups}
    cost = ParameterCost.of(model, groups)
    zero_masked(model, groups, Mask(kept))
    masked = outputs(model)
    shrink(model, groups, Mask(kept))
    assert difference(masked, outputs(model)) < TOLERANCE
    assert cost(Mask(kept).counts) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_layer_that_is_gone_has_no_matrices(index: int) -> None:
    found = matrices(without_layer("bert", index))
    assert len(found) == 12 and not any(f"layer.{index}." in path for path in found)


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_some_matrices_only(model_type: str) -> None:
    model = tiny_model(model_type)
    attention, forward = matrices(model, "attention"), matrices(model, "feed-forward")
    assert {*attention, *forward} == {*matrices(model)} and not {*attention} & {*forward}
    name = next(iter(attention))
    assert list(matrices(model, f" {name} ")) == [name]
    assert set(matrices(model, "*.1.*")) == {path for path in matrices(model) if ".1." in path}
    structure = factored(model, name)
    assert [group.product for group in structure] == [name]
    assert set(matrices(model)) == {*attention, *forward}, "pairs of factors are included"


def test_what_cannot_be_factorised_is_named() -> None:
    model = tiny_model("gpt2")
    assert model.lm_head.weight is model.transformer.wte.weight
    for path in ("lm_head", "transformer.wte"):
        with pytest.raises(
            RecipeError, match=rf"^{path} cannot be factorised: it is an embedding table, or tied to one"
        ):
            matrices(model, path)
    with pytest.raises(RecipeError, match=r"no matrix is called 'encoder\.\*'; give all, attention"):
        matrices(model, "encoder.*")
    with pytest.raises(
        RecipeError, match=r"a rank of 40 does not fit transformer\.h\.0\.attn\.c_attn, a matrix of 96 x 32"
    ):
        factorize(model, matrices(model), rank=40)
    with pytest.raises(UnsupportedModelError, match="no matrix of this GPT2LMHeadModel is a pair"):
        rank_groups(model)
    structure = discover(model)
    nothing = {group.name: torch.zeros(group.size).bool() for group in structure}
    with pytest.raises(UnsupportedModelError, match="nothing is left to prune"):
        matrices(shrink(model, structure, Mask(nothing)))


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_factors_from_scratch_have_as_many_entries(model_type: str) -> None:
    model, dense = tiny_model(model_type), tiny_model(model_type)
    paths = list(matrices(model))
    factorize(model, paths, init="scratch", seed=1)
    for path in paths:
        pair: Any = model.get_submodule(path)
        assert pair.rank == even_of(pair)
        assert torch.equal(pair.bias, dense.get_submodule(path).bias)
    cost = ParameterCost.of(model, rank_groups(model), dense)
    lost = 1 - sum(p.numel() for p in model.parameters()) / sum(p.numel() for p in dense.parameters())
    assert 0 <= lost < 0.05
    assert cost.sparsity(cost.sizes) == pytest.approx(1 - cost.prunable(cost.sizes) / cost.dense)
    assert cost.fixed + cost.dense == sum(p.numel() for p in dense.parameters())


def test_a_pair_of_rank_0_outputs_its_bias_in_contiguous_memory() -> None:
    """Attention is slow for queries or keys that are one expanded vector."""
    model = tiny_model("bert")
    structure = factored(model)
    name = structure.groups[0].product
    shrink(model, structure, Mask.from_units(structure, {structure.groups[0].name: torch.arange(0)}))
    pair: Any = model.get_submodule(name)
    emitted = pair(torch.randn(2, 3, 32, dtype=torch.float64))
    assert emitted.is_contiguous() and torch.equal(emitted[1, 2], pair.bias)


@pytest.mark.parametrize("model_type", TYPES)
def test_gradients_reach_both_factors(model_type: str) -> None:
    model = factored_model(model_type)
    structure = rank_groups(model)
    mask = mixed(model, structure, 1)
    shrink(model, structure, mask).train()
    model(**batch(model)).logits.square().mean().backward()
    for group in structure:
        pair: Any = model.get_submodule(group.product)
        if is_factored(pair) and pair.rank:
            assert pair.first.weight.grad is not None and torch.isfinite(pair.first.weight.grad).all()


def test_dimensions_of_adaptive_embeddings_are_sorted_by_strength() -> None:
    """The outputs are unchanged, and the last dimensions carry least in a cluster with more words than dimensions."""
    model = tiny_model("secateurs-adaptive-lm")
    rotated = with_pairs(model, "all")
    assert difference(outputs(rotated), outputs(model)) < TOLERANCE
    group = next(group for group in embedding_widths(rotated, "all") if group.name == "embeddings.1.rank")
    table, projection = (rotated.get_parameter(cut.parameter).detach() for cut in group.cuts)
    strengths = table.norm(dim=0) * projection.norm(dim=0)
    assert (strengths.diff() <= 0).all() and strengths[-1] < 0.5 * strengths[0]
    torch.testing.assert_close(table.norm(dim=0), projection.norm(dim=0))
    product = table @ projection.T
    original = model.get_parameter(group.cuts[0].parameter) @ model.get_parameter(group.cuts[1].parameter).T
    best = torch.linalg.svdvals(original.detach())[3:].square().sum()  # Eckart and Young
    kept = table[:, :3] @ projection[:, :3].T
    assert (product - kept).square().sum() == pytest.approx(best.item(), rel=1e-8)
