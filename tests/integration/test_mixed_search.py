"""`--method ziplm --allow rank`: sub-blocks lose units, or their matrices are split; on one menu, by one table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import tiny_run
from secateurs import pipeline
from secateurs.allocation import Menu
from secateurs.cost import matrix_shape
from secateurs.errors import CheckpointError
from secateurs.factorize import alternatives
from secateurs.latency_curve import LatencyCurve
from secateurs.latency_table import LatencyTable
from secateurs.mask import Mask
from secateurs.methods._rank_levels import Splitting
from secateurs.methods._splitting import mixed_menu
from secateurs.numerics.hessian import Moments
from secateurs.numerics.low_rank import break_even, lowered
from secateurs.structure import Kind


def test_a_menu_offers_nothing_that_is_slower_and_worse() -> None:
    menu = Menu((0, 1, 2), (0.0, 1.0, 3.0), (1.0, 0.4, 0.0))
    splittings = [
        Splitting({"r": 1}, 0.5, 0.6),  # between
        Splitting({"r": 2}, 1.0, 0.3),  # beats one unit at the same price
        Splitting({"r": 3}, 2.0, 0.35),  # loses to that
        Splitting({"r": 4}, 3.5, 0.01),  # slower than the whole
    ]
    mixed = mixed_menu(menu, splittings)
    assert mixed.kept == (0, -1, -2, 2)
    assert mixed.ms == (0.0, 0.5, 1.0, 3.0)
    assert mixed.error == (1.0, 0.6, 0.3, 0.0)


def test_a_lowered_matrix_is_the_nearest_of_its_rank_on_what_it_reads() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((6, 5), (6,)))
    scales = torch.tensor([5.0, 3.0, 1.0, 0.3, 0.1], dtype=torch.float64)
    x = torch.randn(400, 5, generator=generator, dtype=torch.float64) * scales + 2.0
    moments = Moments(5, dtype=torch.float64)
    moments.update(x)
    low, moved = lowered(weight, bias, moments, 2)
    assert torch.linalg.matrix_rank(low) == 2
    assert moved is not None

    def error(matrix: torch.Tensor, shift: torch.Tensor) -> float:
        return float((x @ (matrix - weight).T + shift - bias).square().sum())

    ours = error(low, moved)
    # No other map of rank 2 does better: by the best of W on centred inputs (reduced-rank regression), up to damping.
    centred = x - x.mean(0)
    _, strengths, _ = torch.linalg.svd(centred @ weight.T, full_matrices=False)
    least = float(strengths[2:].square().sum())
    assert least <= ours * (1 + 1e-9)
    assert ours <= least * 1.05
    plain = torch.linalg.svd(weight)
    truncated = plain.U[:, :2] @ torch.diag(plain.S[:2]) @ plain.Vh[:2]
    assert ours < 0.5 * error(truncated, bias)


def _table_with_ranks(recipe: Any, folder: Path, cost: float) -> Path:
    """The tiny table, and ranks at so many ms a component."""
    model = AutoModelForSequenceClassification.from_pretrained(recipe.model)
    table = LatencyTable.load(Path(recipe.latency_table))
    curves, groups = dict(table.curves), dict(table.groups)
    structure = alternatives(model)
    for group in structure.alternatives:
        pair = break_even(*matrix_shape(model, group.product))
        name = f"rank.{group.size}.{pair}"
        curves[name] = LatencyCurve((0, 1, pair, group.size), (0.0, cost, cost * pair, 0.3), pair=pair)
        groups[group.name] = name
    path = folder / "ranks.json"
    instead = tuple(group.name for group in structure.alternatives)
    replace(table, curves=curves, groups=groups, alternatives=instead).save(path)
    return path


@pytest.fixture(scope="module")
def split_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Components are nearly free, so that splitting is worth it everywhere."""
    folder = tmp_path_factory.mktemp("mixed")
    recipe = tiny_run.recipe(folder)
    cheap = str(_table_with_ranks(recipe, folder, 0.001))
    hyperparameters = {**recipe.hyperparameters, "allow": "rank"}
    recipe = recipe.model_copy(update={"latency_table": cheap, "hyperparameters": hyperparameters, "speedup": (1.3,)})
    return folder, (recipe, pipeline.run(recipe, folder / "out"))


def test_matrices_are_split_where_that_is_cheap(split_run: tuple[Path, Any]) -> None:
    folder, (_, report) = split_run
    model = report.models[0]
    split = {name: kept for name, kept in model.kept.items() if kept.kind is Kind.RANK}
    assert split, "nothing was split"
    assert all(kept.kept < kept.size for kept in split.values())
    loaded = AutoModelForSequenceClassification.from_pretrained(folder / "out" / model.path)
    assert sum(parameter.numel() for parameter in loaded.parameters()) == model.parameters
    ranks = json.loads((folder / "out" / model.path / "config.json").read_text())["secateurs"]["edits"]["factored"]
    assert len(ranks) == len(split)
    mask = Mask.load(folder / "out" / model.path / "mask.safetensors")
    for name in split:
        owner = next(group for group in alternatives(_dense(split_run)).alternatives if group.name == name).instead_of
        assert mask[owner].all(), "a sub-block is cut one way only"


def test_what_was_split_is_near_to_the_dense_model(split_run: tuple[Path, Any]) -> None:
    folder, (recipe, report) = split_run
    units = recipe.model_copy(update={"hyperparameters": {**recipe.hyperparameters, "allow": "units"}})
    other = pipeline.run(units, folder / "units")
    assert report.models[0].divergence.value < other.models[0].divergence.value


def test_a_run_is_taken_up_with_the_same_masks(split_run: tuple[Path, Any]) -> None:
    folder, (recipe, report) = split_run
    again = folder / "again"
    pipeline.run(recipe, again)
    (again / "stages" / "speedup-1.30x.json").unlink()  # as if it had been killed before the last step
    taken = pipeline.run(recipe, again, resume=True)
    assert taken.models[0].kept == report.models[0].kept
    masks = [Mask.load(run / report.models[0].path / "mask.safetensors") for run in (folder / "out", again)]
    assert masks[0] == masks[1]


def test_a_table_without_ranks_is_refused(tmp_path: Path) -> None:
    recipe = tiny_run.recipe(tmp_path)
    recipe = recipe.model_copy(update={"hyperparameters": {**recipe.hyperparameters, "allow": "rank"}})
    with pytest.raises(CheckpointError, match="does not cover"):
        pipeline.run(recipe, tmp_path / "out")


def _dense(split_run: tuple[Path, Any]) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(split_run[1][0].model)
