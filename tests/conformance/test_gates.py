"""Gates on every family: the model with gates equals the shrunk model with the gates folded in, for any gate values."""

from __future__ import annotations

import pytest
import torch

from secateurs.gates.fold import Opening
from secateurs.gates.gates import REACH, Gated, Gates
from secateurs.structure.cost import ParameterCost
from secateurs.structure.cut import Kind
from secateurs.structure.families import hidden_types, model_types
from secateurs.surgery.masked_norm import unmask_norms
from secateurs.surgery.shrink import shrink
from tiny_models import batch, copied, tiny_model, tiny_structure

TYPES = model_types()

pytestmark = pytest.mark.usefixtures("norms_in_fp64")


def gated(model_type: str, *, coarse: bool = True, hidden: bool = False) -> Gated:
    """A tiny model with closed, half open and open gates; ``hidden`` applies to the types whose hidden size is pruned."""
    model = tiny_model(model_type)
    structure = tiny_structure(model_type, hidden=hidden and model_type in hidden_types())
    gates = Gates(structure, coarse=coarse).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        gates.fine.copy_(torch.randn(gates.fine.shape, generator=generator, dtype=torch.float64) * 3)
        gates.coarse.fill_(2.0)
        gates.hidden.copy_(torch.randn(gates.hidden.shape, generator=generator, dtype=torch.float64) * 3 + 1)
    return Gated(model, structure, gates)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch(model)).logits


def shrunk(masked: Gated) -> torch.nn.Module:
    opening = masked.gates.deterministic()
    return shrink(copied(masked).folded(opening), masked.structure, opening.mask())


@pytest.mark.parametrize(("model_type", "hidden"), [*((t, False) for t in TYPES), *((t, True) for t in hidden_types())])
def test_soft_gates_equal_the_shrunk_model(model_type: str, hidden: bool) -> None:
    masked = gated(model_type, hidden=hidden).eval()
    for values in masked.gates.deterministic().stream.values():
        assert 0 < (values == 0).sum() < len(values)
        assert ((values > 0) & (values < 0.9)).any()
    assert any(0 < value < 1 for fine in masked.gates.deterministic().fine.values() for value in fine.tolist())
    torch.testing.assert_close(logits(shrunk(masked)), logits(masked), atol=1e-12, rtol=0)


@pytest.mark.parametrize("model_type", TYPES)
def test_closed_groups_and_layers_equal_the_shrunk_model(model_type: str) -> None:
    for kind in (Kind.HEAD, Kind.INTERMEDIATE, None):
        masked = gated(model_type, hidden=kind is None).eval()
        layers = list(masked.structure.layers)
        with torch.no_grad():
            for index, group in enumerate(masked.structure):
                if group.layer == layers[1 % len(layers)] and kind in (group.kind, None):
                    masked.gates.coarse[index] = -4.0  # by the coarse gate
                if group.layer == layers[2 % len(layers)] and kind is group.kind:
                    masked.gates.fine.split(masked.gates.sizes)[index].fill_(-REACH * 2)  # by every fine gate
        small = shrunk(masked)
        removed = sum(p.numel() for p in masked.model.parameters()) - sum(p.numel() for p in small.parameters())
        assert removed > 0, kind
        torch.testing.assert_close(
            logits(small), logits(masked), atol=1e-12, rtol=0, msg=lambda text, kind=kind: f"{kind}: {text}"
        )


@pytest.mark.parametrize("model_type", TYPES)
def test_open_gates_change_nothing_and_samples_train_every_gate(model_type: str) -> None:
    masked = gated(model_type, hidden=True).train()
    for module in masked.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    one = torch.ones((), dtype=torch.float64)
    stream = {"hidden": one.expand(masked.structure.stream.size)} if masked.structure.stream else {}
    groups = {group.name: one.expand(group.size) for group in masked.structure}
    wide = Opening(groups, dict.fromkeys(groups, one), stream)
    with torch.no_grad():
        torch.testing.assert_close(masked.opened(wide, **batch(masked.model)).logits, logits(masked.model))
    with torch.no_grad():
        masked.gates.fine.fill_(0.0)
        masked.gates.coarse.fill_(0.0)
        masked.gates.hidden.fill_(0.0)
    masked.step = 7
    first = logits(masked)
    torch.testing.assert_close(logits(masked), first)  # one sample for all passes of a step
    masked.step = 8
    assert not torch.equal(logits(masked), first)
    masked(**batch(masked.model)).logits.square().mean().backward()
    assert masked.gates.fine.grad is not None and masked.gates.coarse.grad is not None
    sampled = masked.gates.sample(masked.seed, masked.step)
    between = torch.cat(list(sampled.fine.values()))
    learning = (between > 0) & (between < 1)
    closed = torch.cat([(sampled.coarse[group.name] == 0).expand(group.size) for group in masked.structure])
    assert (masked.gates.fine.grad[learning & ~closed] != 0).all()
    for dimensions in sampled.stream.values():
        assert masked.gates.hidden.grad is not None
        assert (masked.gates.hidden.grad[(dimensions > 0) & (dimensions < 1)] != 0).all()
    weight = masked.model.get_parameter(masked.structure.groups[0].output_cut.parameter)
    assert weight.grad is not None


@pytest.mark.parametrize("model_type", TYPES)
def test_expected_parameters_are_those_of_the_mean_mask(model_type: str) -> None:
    masked = gated(model_type)
    cost = ParameterCost.of(masked.model, masked.structure)
    present, counts = masked.gates.expected()
    expected = cost.expected(present, counts)
    assert isinstance(expected, torch.Tensor) and expected.requires_grad
    generator, draws = torch.Generator().manual_seed(0), 4000
    drawn = {}
    for name, fine in zip(masked.gates.names, masked.gates.fine.detach().split(masked.gates.sizes), strict=True):
        is_present = torch.rand(draws, 1, generator=generator) < present[name].item()
        opened = torch.rand(draws, len(fine), generator=generator) < masked.gates.distribution.open_probability(fine)
        drawn[name] = (opened & is_present).sum(1).double()
    mean = torch.as_tensor(cost(drawn)).mean().item()
    assert mean == pytest.approx(expected.item(), abs=0.01 * float(cost(cost.sizes)))


@pytest.mark.parametrize("model_type", TYPES)
def test_folded_gates_can_be_undone(model_type: str) -> None:
    """A second target starts from the ordinary norms, without any effect of the gates of the first target."""
    masked = gated(model_type, hidden=True).eval()
    dense = logits(masked.model)
    before = {name: value.clone() for name, value in masked.model.state_dict().items()}
    masked.folded(masked.gates.deterministic())
    assert not torch.allclose(logits(masked.model), dense)
    assert (masked.structure.stream is None) == (model_type not in hidden_types())
    unmask_norms(masked.model, masked.structure)
    masked.model.load_state_dict(before)
    torch.testing.assert_close(logits(masked.model), dense, atol=0, rtol=0)


def test_without_coarse_gates_no_group_closes_by_itself() -> None:
    masked = gated("bert", coarse=False)
    with torch.no_grad():
        masked.gates.coarse.fill_(-4.0)
    opening = masked.gates.deterministic()
    assert all(value == 1 for value in opening.coarse.values())
    assert all(kept > 0 for kept in opening.mask().counts.values())


def test_a_shift_opens_more() -> None:
    gates = gated("bert").gates
    counts = [sum(gates.counts(shift).values()) for shift in (-8.0, -2.0, 0.0, 2.0, 8.0)]
    assert counts == sorted(counts) and counts[0] < counts[-1]
    assert gates.counts(0.0) == gates.deterministic().mask().counts
