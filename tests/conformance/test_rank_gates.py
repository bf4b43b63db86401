"""Gates of rank-1 components in every family: the model with gates equals the shrunk model, and the gates are trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from secateurs.gates.fold import SLIM, Opening, fold
from secateurs.gates.gates import Gated, Gates
from secateurs.gates.mask_learning import Removal
from secateurs.modeling.pruned_modules import is_factored
from secateurs.numerics.hard_concrete import HardConcrete
from secateurs.structure.cost import ParameterCost
from secateurs.structure.families import model_types
from secateurs.structure.target import Sparsity
from secateurs.surgery.factorize import rank_groups
from secateurs.surgery.shrink import shrink
from tiny_models import batch, copied, factored_model, tiny_model

TYPES = model_types()
TOLERANCE = 1e-12


def gated(model_type: str) -> Gated:
    """Random gates; the gates of the first matrix are closed, of the second fully open, of the third nearly closed."""
    model = factored_model(model_type)
    structure = rank_groups(model)
    gates = Gates(structure, coarse=False, distribution=HardConcrete(beta=1.0), reach=float("inf")).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        gates.fine.copy_(torch.randn(gates.fine.shape, generator=generator, dtype=torch.float64) * 4 - 2)
        parts = gates.fine.split(gates.sizes)
        parts[0].fill_(-12.0)
        parts[1].fill_(9.0)
        parts[2].add_(-4.0)
    return Gated(model, structure, gates)


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model(**batch(model)).logits


@pytest.mark.parametrize("model_type", TYPES)
def test_gates_equal_the_shrunk_model(model_type: str) -> None:
    masked = gated(model_type).eval()
    opening = masked.gates.deterministic()
    mask, wanted = opening.mask(), logits(masked)
    assert mask.counts == masked.gates.counts(0.0)
    first, second, third = (mask.counts[name] for name in masked.gates.names[:3])
    assert first == 0 and second == masked.gates.sizes[1] and 0 < third <= SLIM * masked.gates.sizes[2]
    small = shrink(copied(masked).folded(opening), masked.structure, mask)
    torch.testing.assert_close(logits(small), wanted, atol=TOLERANCE, rtol=0)
    cost = ParameterCost.of(masked.model, masked.structure)
    assert cost(mask.counts) == sum(parameter.numel() for parameter in small.parameters())
    assert {is_factored(small.get_submodule(masked.structure[name].product)) for name in mask} == {True, False}


@pytest.mark.parametrize("model_type", TYPES)
def test_open_gates_change_nothing(model_type: str) -> None:
    masked = gated(model_type)
    one = torch.ones((), dtype=torch.float64)
    wide = Opening({g.name: one.expand(g.size) for g in masked.structure}, {g.name: one for g in masked.structure})
    with torch.no_grad():
        torch.testing.assert_close(
            masked.opened(wide, **batch(masked.model)).logits, logits(masked.model), atol=TOLERANCE, rtol=0
        )


@pytest.mark.parametrize("model_type", TYPES)
def test_leaving_closed_components_out_changes_no_output_and_no_gradient(model_type: str) -> None:
    masked = gated(model_type).train()
    for module in masked.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    opening = masked.gates.sample(0, 3)
    found = []
    for slim in (False, True):
        masked.zero_grad()
        values = fold(masked.model, masked.structure, opening, slim=slim)
        outputs = torch.func.functional_call(masked.model, values, (), dict(batch(masked.model))).logits
        outputs.square().mean().backward(retain_graph=True)
        found.append((outputs.detach(), {name: parameter.grad for name, parameter in masked.named_parameters()}))
    (outputs, gradients), (slim_outputs, slim_gradients) = found
    torch.testing.assert_close(slim_outputs, outputs, atol=TOLERANCE, rtol=0)
    for name, gradient in gradients.items():
        if gradient is not None:
            assert torch.allclose(slim_gradients[name], gradient, atol=TOLERANCE, rtol=1e-9), name
    sizes = {values[f"{group.product}.first.weight"].shape[0] for group in masked.structure}
    assert 1 in sizes, "a pair whose gates are all closed keeps one component, with a closed gate"
    # The third matrix may be multiplied with the first alone, which is closed: its gates then have no gradient.
    between = torch.cat(list(opening.fine.values())[3:])
    moved = masked.gates.fine.grad
    assert moved is not None
    moved = moved[-len(between) :]
    assert (moved[(between > 0) & (between < 1)] != 0).all()


def test_the_bias_stays_when_every_component_is_removed() -> None:
    masked = gated("bert").eval()
    group = masked.structure.groups[0]
    values = fold(masked.model, masked.structure, masked.gates.deterministic())
    assert f"{group.product}.second.bias" not in values
    assert (values[group.output_cut.parameter] == 0).all()


def test_expected_parameters_count_pairs_as_two_matrices() -> None:
    """At full rank a pair is larger than its matrix, and the gradient of its gates must reflect that."""
    masked = gated("bert")
    cost = ParameterCost.of(masked.model, masked.structure)
    with torch.no_grad():
        masked.gates.fine.fill_(20.0)
    pairs = sum(parameter.numel() for parameter in masked.model.parameters())
    expected = cost.expected(*masked.gates.expected())
    assert isinstance(expected, Tensor) and expected.item() == pytest.approx(pairs)
    assert cost(cost.sizes) == sum(parameter.numel() for parameter in tiny_model("bert").parameters()) < pairs
    with torch.no_grad():
        masked.gates.fine.fill_(0.0)
    cost.expected(*masked.gates.expected()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    assert masked.gates.fine.grad is not None and (masked.gates.fine.grad > 0).all()
    removal = Removal(Sparsity(0.4).budget(cost), masked.structure.sizes)
    assert removal.start == pytest.approx((cost(cost.sizes) - pairs) / cost.dense) and removal.start < -0.3
    assert removal.target == pytest.approx(0.4)


def test_gates_start_near_the_given_value_and_have_no_bounds() -> None:
    gates = Gates(gated("bert").structure, coarse=False, start=2.944, reach=float("inf"))
    assert 2.9 < gates.fine.min() < gates.fine.max() <= 2.944
    with torch.no_grad():
        gates.fine.fill_(-50.0)
    gates.clamp()
    assert (gates.fine == -50).all()
