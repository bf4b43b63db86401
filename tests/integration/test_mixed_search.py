"""`--method ziplm --allow rank`: sub-blocks lose units or take a low-rank option, chosen in one search by one table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import secateurs
import tiny_run
from secateurs.errors import CheckpointError
from secateurs.latency.curve import LatencyCurve
from secateurs.latency.table import LatencyTable
from secateurs.methods.ziplm.low_rank_options import LowRankOption
from secateurs.methods.ziplm.mixed_levels import mixed_options
from secateurs.numerics.hessian import Moments
from secateurs.numerics.low_rank import Decomposition, break_even
from secateurs.oneshot.level_options import LevelOptions
from secateurs.pipeline.load import load
from secateurs.report.report import Report
from secateurs.structure.cost import matrix_shape
from secateurs.structure.cut import Kind
from secateurs.structure.mask import Mask
from secateurs.surgery.low_rank_groups import with_low_rank_options


def test_no_option_is_slower_and_worse_than_another() -> None:
    units = LevelOptions((0, 1, 2), (0.0, 1.0, 3.0), (1.0, 0.4, 0.0))
    low_rank = [
        LowRankOption({"r": 1}, 0.5, 0.6),  # between two levels of units
        LowRankOption({"r": 2}, 1.0, 0.3),  # as fast as one unit, and better
        LowRankOption({"r": 3}, 2.0, 0.35),  # slower and worse than the one before
        LowRankOption({"r": 4}, 3.5, 0.01),  # slower than the full sub-block
    ]
    mixed = mixed_options(units, low_rank)
    assert mixed.kept == (0, -1, -2, 2)
    assert mixed.ms == (0.0, 0.5, 1.0, 3.0)
    assert mixed.error == (1.0, 0.6, 0.3, 0.0)


def test_a_low_rank_approximation_has_the_nearest_outputs_of_its_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((6, 5), (6,)))
    scales = torch.tensor([5.0, 3.0, 1.0, 0.3, 0.1], dtype=torch.float64)
    x = torch.randn(400, 5, generator=generator, dtype=torch.float64) * scales + 2.0
    moments = Moments(5, dtype=torch.float64)
    moments.update(x)
    decomposition = Decomposition.of(weight, bias, moments)
    low, moved = decomposition.at(2)
    assert torch.linalg.matrix_rank(low) == 2
    assert moved is not None

    def error(matrix: torch.Tensor, shift: torch.Tensor) -> float:
        return float((x @ (matrix - weight).T + shift - bias).square().sum())

    ours = error(low, moved)
    # The least error of any map of rank 2, by reduced-rank regression on centred inputs; ours differs by its damping.
    centred = x - x.mean(0)
    _, strengths, _ = torch.linalg.svd(centred @ weight.T, full_matrices=False)
    least = float(strengths[2:].square().sum())
    energy = float((centred @ weight.T).square().sum())
    assert float(decomposition.errors[2]) == pytest.approx(ours / energy, rel=1e-3)
    assert decomposition.errors[0] == 1 and decomposition.errors[5] == 0
    assert torch.allclose(decomposition.at(5)[0], weight)
    assert least <= ours * (1 + 1e-9)
    assert ours <= least * 1.05
    plain = torch.linalg.svd(weight)
    truncated = plain.U[:, :2] @ torch.diag(plain.S[:2]) @ plain.Vh[:2]
    assert ours < 0.5 * error(truncated, bias)


def test_every_matrix_is_decomposed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ranks of a matrix come from one decomposition: fourteen errors were tried with one each."""
    recipe = tiny_run.recipe(tmp_path)
    table = LatencyTable.load(_table_with_ranks(recipe, tmp_path, 0.001))
    loaded = load(recipe.model_copy(update={"hyperparameters": {**recipe.hyperparameters, "allow": "rank"}}))
    (tmp_path / "stages").mkdir()
    fitted: Any = loaded.method.fit(loaded.context(tmp_path / "stages"))
    asked: list[Any] = []
    decompose = Decomposition.of
    monkeypatch.setattr(Decomposition, "of", lambda *given: asked.append(given) or decompose(*given))
    found = fitted.levels.ranks.find(table, loaded.data.roles.fit.batches)
    assert len(asked) == len(loaded.structure.low_rank_options)
    assert sum(map(len, found.values())) > len(found)


def _table_with_ranks(recipe: Any, folder: Path, cost: float) -> Path:
    """The tiny table with curves for ranks.

    Args:
        recipe: recipe that names the tiny table.
        folder: folder of the new table.
        cost: milliseconds per component.
    """
    model = AutoModelForSequenceClassification.from_pretrained(recipe.model)
    table = LatencyTable.load(Path(recipe.latency_table))
    curves, groups = dict(table.curves), dict(table.groups)
    structure = with_low_rank_options(model)
    for group in structure.low_rank_options:
        pair = break_even(*matrix_shape(model, group.product))
        name = f"rank.{group.size}.{pair}"
        curves[name] = LatencyCurve((0, 1, pair, group.size), (0.0, cost, cost * pair, 0.3), max_factored_rank=pair)
        groups[group.name] = name
    path = folder / "ranks.json"
    names = tuple(group.name for group in structure.low_rank_options)
    replace(table, curves=curves, groups=groups, low_rank_options=names).save(path)
    return path


@pytest.fixture(scope="module")
def cheap_ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Report]:
    """Folder, recipe and report of a run in which components cost next to nothing, so that low-rank options pay off."""
    folder = tmp_path_factory.mktemp("mixed")
    recipe = tiny_run.recipe(folder)
    cheap = str(_table_with_ranks(recipe, folder, 0.001))
    hyperparameters = {**recipe.hyperparameters, "allow": "rank"}
    recipe = recipe.model_copy(update={"latency_table": cheap, "hyperparameters": hyperparameters, "speedup": (1.3,)})
    return folder, recipe, secateurs.run(recipe, folder / "out")


def test_low_rank_options_are_chosen_where_they_are_cheap(cheap_ranks: tuple[Path, Any, Report]) -> None:
    folder, recipe, report = cheap_ranks
    model = report.models[0]
    factorised = {name: kept for name, kept in model.kept.items() if kept.kind is Kind.RANK}
    assert factorised, "no low-rank option was chosen"
    assert all(kept.kept < kept.size for kept in factorised.values())
    loaded = AutoModelForSequenceClassification.from_pretrained(folder / "out" / model.path)
    assert sum(parameter.numel() for parameter in loaded.parameters()) == model.parameters
    ranks = json.loads((folder / "out" / model.path / "config.json").read_text())["secateurs"]["edits"]["factored"]
    assert len(ranks) == len(factorised)
    mask = Mask.load(folder / "out" / model.path / "mask.safetensors")
    dense = AutoModelForSequenceClassification.from_pretrained(recipe.model)
    sub_blocks = {group.name: group.instead_of for group in with_low_rank_options(dense).low_rank_options}
    for name in factorised:
        assert mask[sub_blocks[name]].all(), "a sub-block with low-rank matrices keeps all its units"


def test_low_rank_options_lose_less_than_units_where_they_are_cheap(cheap_ranks: tuple[Path, Any, Report]) -> None:
    folder, recipe, report = cheap_ranks
    units = recipe.model_copy(update={"hyperparameters": {**recipe.hyperparameters, "allow": "units"}})
    other = secateurs.run(units, folder / "units")
    ours, theirs = report.models[0].divergence, other.models[0].divergence
    assert ours is not None and theirs is not None
    assert ours.value < theirs.value


def test_a_resumed_run_ends_with_the_same_masks(cheap_ranks: tuple[Path, Any, Report]) -> None:
    folder, recipe, report = cheap_ranks
    again = folder / "again"
    secateurs.run(recipe, again)
    (again / "stages" / "speedup-1.30x.json").unlink()  # as if the run had been killed before its last step
    resumed = secateurs.run(recipe, again, resume=True)
    assert resumed.models[0].kept == report.models[0].kept
    masks = [Mask.load(run / report.models[0].path / "mask.safetensors") for run in (folder / "out", again)]
    assert masks[0] == masks[1]


def test_a_table_without_ranks_is_refused(tmp_path: Path) -> None:
    recipe = tiny_run.recipe(tmp_path)
    recipe = recipe.model_copy(update={"hyperparameters": {**recipe.hyperparameters, "allow": "rank"}})
    with pytest.raises(CheckpointError, match="does not cover"):
        secateurs.run(recipe, tmp_path / "out")
