"""From activations to order, weights, biases and errors of all levels, against least squares on the activations themselves.

The halves (moments, elimination, factor) have tests of their own. Here calibration and level database are composed, on
inputs that are constant, always zero, duplicated, or of very different scales.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from oracle import naive
from secateurs.errors import CheckpointError
from secateurs.numerics.hessian import Moments
from secateurs.oneshot import calibrate as calibration
from secateurs.oneshot.calibrate import calibrate
from secateurs.oneshot.levels import LevelDatabase, Projection
from secateurs.structure.cut import Cut, Kind
from secateurs.structure.structure import Group, Structure

KINDS = ("plain", "plain", "shifted", "large", "small", "constant", "zero", "duplicate")


class OneLayer(nn.Module):
    """Token ``i`` is row ``i`` of ``rows``, which an output projection reads."""

    def __init__(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.rows = rows
        self.out = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
        self.out.weight.data = weight
        if bias is not None:
            self.out.bias.data = bias

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.out(self.rows[input_ids])


def inputs_of(kinds: list[str], tokens: int, draw: torch.Generator) -> Tensor:
    columns: list[Tensor] = []
    for kind in kinds:
        plain = torch.randn(tokens, generator=draw, dtype=torch.float64)
        value = float(torch.randn(1, generator=draw)) + 1.7
        match kind:
            case "shifted":
                plain = plain + 30 * value
            case "large":
                plain = 200 * plain
            case "small":
                plain = 1e-3 * plain
            case "constant":
                plain = torch.full_like(plain, value)
            case "zero":
                plain = torch.zeros_like(plain)
            case "duplicate" if columns:
                plain = columns[-1].clone()
        columns.append(plain)
    return torch.stack(columns, 1)


class Counts:
    """The weights of a raw layer's tokens."""

    def __init__(self, raw: naive.RawLayer) -> None:
        self.raw = raw

    def knows(self, batch: Mapping[str, torch.Tensor]) -> bool:
        return False

    def __call__(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"units": self.raw.counts[batch["input_ids"]]}

    def observe(
        self, batch: Mapping[str, torch.Tensor], wanted: Collection[str]
    ) -> tuple[dict[str, torch.Tensor], dict[str, list[torch.Tensor]]]:
        assert [*wanted] == ["units"]
        return self(batch), {"units": [self.raw.inputs[batch["input_ids"]]]}


def composed(raw: naive.RawLayer, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> LevelDatabase:
    """Calibration and level database of the layer, from batches of two rows that end in PAD."""
    monkeypatch.setattr(calibration, "Moments", functools.partial(Moments, dtype=dtype))
    monkeypatch.setattr(calibration, "CHUNK_TOKENS", 17)
    cut = Cut("out.weight", 1, raw.width)
    group = Group("units", Kind.INTERMEDIATE, raw.inputs.shape[1] // raw.width, (cut,), "out", "", "", "")
    structure = Structure((group,))
    tokens = torch.arange(len(raw.inputs)).reshape(-1, 2, 10)
    model = OneLayer(raw.inputs, raw.weight, raw.bias)
    batches = [
        {
            "input_ids": torch.nn.functional.pad(ids, (0, 3)),
            "attention_mask": torch.nn.functional.pad(torch.ones_like(ids), (0, 3)),
        }
        for ids in tokens
    ]
    moments = calibrate(model, structure, batches, weigh=Counts(raw))
    return LevelDatabase.build(
        structure,
        {"units": Projection(raw.weight, raw.bias)},
        moments,
        damping=raw.damping,
        compensate=raw.refits_bias,
    )


def agrees(raw: naive.RawLayer, database: LevelDatabase, tolerance: float) -> None:
    order = database.orders["units"].tolist()
    units, dead = list(range(len(order))), raw.dead_units
    assert sorted(order) == units
    assert order[: len(dead)] == dead  # in ascending order, before every other unit

    dense = float((raw.counts @ raw.outputs(raw.weight, raw.bias).square()).sum())
    survivors = [unit for unit in units if unit not in dead]
    scale = raw.cost([]) if raw.alive else 0.0
    for unit in order[len(dead) :]:
        costs = {one: raw.cost([other for other in survivors if other != one]) for one in survivors}
        assert costs[unit] <= min(costs.values()) * (1 + tolerance) + tolerance * 1e-3 * scale
        survivors.remove(unit)

    wanted: list[float] = []
    for kept in range(len(units)):
        level = database.level("units", kept)
        assert level.units.tolist() == sorted(order[len(order) - kept :])
        columns = naive.columns_of(level.units.tolist(), raw.width)
        found = torch.zeros_like(raw.weight)
        found[:, columns] = level.weight
        weight, bias = raw.fit(level.units.tolist())
        assert bool((found[:, raw.dead] == 0).all())
        # Weights count by what they do: small inputs have weights of any size.
        size = raw.inputs.abs().amax(0)
        torch.testing.assert_close(found * size, weight * size, rtol=tolerance, atol=tolerance * float(size.max()))
        assert (level.bias is None) == (bias is None)
        outputs = raw.outputs(found, level.bias), raw.outputs(weight, bias)
        torch.testing.assert_close(*outputs, rtol=0, atol=tolerance * float(outputs[1].abs().max() + size.max()))
        wanted.append(raw.error(weight, bias))
    wanted.append(0.0)
    if not raw.refits_bias:
        dense = raw.error(torch.zeros_like(raw.weight), raw.bias)
    falling = [min(max(wanted[kept:]), wanted[0]) / max(dense, 1e-300) for kept in range(len(wanted))]
    errors = database.errors("units").tolist()
    assert errors == pytest.approx(falling, rel=10 * tolerance, abs=tolerance)
    assert 0 <= errors[-1] == 0 and errors[0] <= 1 + 1e-12
    assert errors == sorted(errors, reverse=True)


def raw_layer(kinds: list[str], seed: int, width: int, *, bias: bool, refits: bool, damping: float) -> naive.RawLayer:
    draw = torch.Generator().manual_seed(seed)
    inputs = inputs_of(kinds, 60, draw)
    weight = torch.randn(3, len(kinds), generator=draw, dtype=torch.float64)
    counts = torch.rand(60, generator=draw, dtype=torch.float64) + 0.1
    added = torch.randn(3, generator=draw, dtype=torch.float64) if bias else None
    return naive.RawLayer(weight, added, inputs, counts, width, bias and refits, damping)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=6, max_size=6),
    seed=st.integers(0, 10_000),
    width=st.sampled_from([1, 2]),
    bias=st.booleans(),
    refits=st.booleans(),
)
def test_order_weights_biases_and_errors_are_those_of_least_squares(
    kinds: list[str], seed: int, width: int, bias: bool, refits: bool
) -> None:
    raw = raw_layer(kinds, seed, width, bias=bias, refits=refits, damping=1e-2)
    with pytest.MonkeyPatch.context() as patch:
        agrees(raw, composed(raw, patch, torch.float64), 1e-6)


@pytest.mark.parametrize("refits", [True, False])
def test_so_they_are_from_float32_products(refits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ["plain", "constant", "plain", "zero", "duplicate", "plain"]
    raw = raw_layer(kinds, 3, 1, bias=True, refits=refits, damping=1e-2)
    raw.inputs = raw.inputs.float().double()
    agrees(raw, composed(raw, monkeypatch, torch.float32), 1e-4)


@pytest.mark.parametrize("kind", ["constant", "zero"])
def test_a_layer_of_dead_inputs_has_levels_without_error(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = raw_layer([kind] * 4, 1, 2, bias=True, refits=True, damping=1e-2)
    agrees(raw, composed(raw, monkeypatch, torch.float64), 1e-9)


def test_a_dead_unit_is_not_the_most_important_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small activations: the 1 on the diagonal of a dead input would outweigh every other input."""
    raw = raw_layer(["small", "constant", "small", "zero", "small"], 0, 1, bias=True, refits=True, damping=1e-2)
    database = composed(raw, monkeypatch, torch.float32)
    assert database.orders["units"][:2].tolist() == [1, 3]
    assert float(database.errors("units")[3]) < 1e-12


def test_files_of_another_model_or_version_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    raw = raw_layer(["plain"] * 4, 0, 1, bias=True, refits=True, damping=1e-2)
    database = composed(raw, monkeypatch, torch.float64)
    database.save(tmp_path)
    how = {"damping": 1e-2, "compensate": True}
    again = LevelDatabase.load(tmp_path, database.structure, database.projections, **how)
    torch.testing.assert_close(again.errors("units"), database.errors("units"), rtol=0, atol=0)
    order = database.orders["units"]
    earlier = {"order": order} | {key: torch.ones(2) for key in ("gram", "total", "count")}
    smaller = {"order": order[:2], "centred": torch.eye(2), "mean": torch.ones(2), "count": torch.ones(())}
    for tensors, reason in ((earlier, "an earlier version wrote it"), (smaller, "2 units, not 4"), ({}, "order")):
        save_file({key: own.contiguous() for key, own in tensors.items()}, tmp_path / "units.safetensors")
        with pytest.raises(CheckpointError, match=rf"{reason}.*delete its folder and run again"):
            LevelDatabase.load(tmp_path, database.structure, database.projections, **how)


def test_forgotten_factors_and_levels_are_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    raw = raw_layer(["plain"] * 6, 0, 1, bias=True, refits=True, damping=1e-2)
    database = composed(raw, monkeypatch, torch.float64)
    remembered = database.level("units", 3)
    assert database.level("units", 3) is remembered
    database._levels.limit = 0
    database.level("units", 4)
    again = database.level("units", 3)
    assert again is not remembered
    torch.testing.assert_close(again.weight, remembered.weight, rtol=0, atol=0)
