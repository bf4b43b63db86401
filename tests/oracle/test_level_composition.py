"""Moments, elimination order, levels and errors together, on inputs that break one of them alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from secateurs.numerics.hessian import Moments
from secateurs.oneshot.levels import LevelDatabase, Projection
from secateurs.structure.cut import Cut, Kind
from secateurs.structure.structure import Group, Structure

Inputs = Callable[[Tensor, torch.Generator], Tensor]
OUTPUTS = 6


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape[1], generator=generator)


def _some(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape[1], generator=generator) < 0.4


INPUTS: dict[str, Inputs] = {
    "plain": lambda x, g: x,
    "some constant": lambda x, g: torch.where(_some(x, g), 100 * _normal(x, g), x),
    "some dead": lambda x, g: torch.where(_some(x, g), 0.0, x),
    "all dead": lambda x, g: 0 * x,
    "all constant": lambda x, g: 0 * x + 3 * _normal(x, g),
    "one token": lambda x, g: x[:1],
    "as large as fp16": lambda x, g: 6e4 * x,
    "small": lambda x, g: 1e-7 * x,
    "the last equals the first": lambda x, g: torch.cat([x[:, :-1], x[:, :1]], 1),
    "rank one": lambda x, g: x[:, :1] * _normal(x, g),
    "ten magnitudes": lambda x, g: x * 10 ** (10 * torch.rand(x.shape[1], generator=g) - 5),
    "a mean of 1e5 deviations": lambda x, g: 1e-2 * x + 1e3 * _normal(x, g),
}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", list(INPUTS))
def test_levels_do_what_their_errors_say(kind: str, seed: int) -> None:
    """For every level: finite, dead units first, an error that falls from at most 1 to 0 and is the measured one."""
    generator = torch.Generator().manual_seed(seed)
    size, width, tokens = (int(torch.randint(1, high, (1,), generator=generator)) for high in (9, 5, 60))
    if seed == 7:
        size, width, tokens = 150, 1, 400  # more than one panel and leaf of the factorisation
    compensate, damping = bool(seed % 2), (1e-2, 1e-2, 0.0)[seed % 3]
    x = INPUTS[kind](torch.randn(tokens, size * width, generator=generator), generator)
    weight, bias = torch.randn(OUTPUTS, size * width, generator=generator), torch.randn(OUTPUTS, generator=generator)
    moments = Moments(size * width)
    for part in x.split(17):
        moments.update(part)
    cuts = (Cut("a.weight", 1, width),)
    group = Group("a", Kind.INTERMEDIATE, size, cuts, output_projection="a", block="a", layer="l", stream="")
    database = LevelDatabase.build(
        Structure((group,)), {"a": Projection(weight, bias)}, {"a": moments}, damping=damping, compensate=compensate
    )
    errors = database.errors("a")
    assert errors.isfinite().all()
    assert errors[0] <= 1 + 1e-6
    assert (errors.diff() <= 1e-9).all()
    assert errors[-1] == pytest.approx(0, abs=1e-9)
    dead = database.dead("a").reshape(size, width).all(1).nonzero().flatten()
    assert set(database.orders["a"][: len(dead)].tolist()) == set(dead.tolist()), "a dead unit outlives a live one"
    dense = x.double() @ weight.double().T + bias.double()
    energy = (dense if compensate else dense - bias.double()).square().sum()
    for kept in range(0, size + 1, 1 if size < 100 else 50):
        level = database.level("a", kept)
        assert level.bias is not None
        assert level.weight.isfinite().all()
        assert level.bias.isfinite().all()
        columns = (level.units[:, None] * width + torch.arange(width)).flatten()
        outputs = x.double()[:, columns] @ level.weight.double().T + level.bias.double()
        measured = float((outputs - dense).square().sum() / energy.clamp_min(1e-300))
        # Weights are float32; the error of a smaller level counts where damping makes a larger one worse.
        assert measured <= float(errors[kept]) * 1.002 + 1e-4, f"{kept} of {size} units"
