"""Latency tables measured with a timer that counts work, so that every prediction can be checked exactly."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from masks import uneven
from secateurs.errors import RecipeError
from secateurs.latency.curve import LatencyCurve
from secateurs.latency.environment import Environment
from secateurs.latency.predict import prediction_error
from secateurs.latency.profile import measure_table
from secateurs.latency.random_models import borrow_memory, random_counts
from secateurs.latency.runtimes import runtime
from secateurs.latency.table import LatencyTable
from secateurs.latency.timer import Reading
from secateurs.latency.workload import random_batch
from secateurs.structure.cut import Kind
from secateurs.structure.families import discover, model_types
from secateurs.structure.mask import Mask
from secateurs.surgery.factorize import factorize, matrices, rank_groups
from secateurs.surgery.shared_copy import shrunk_copy
from secateurs.surgery.shrink import shrink
from tiny_configs import SOUND_TYPES
from tiny_latency import ONCE, SMALL, closure_modules
from tiny_models import tiny_model
from work_clock import product_clock, work_clock


@pytest.fixture(scope="module")
def bert():
    return tiny_model("bert", auto="AutoModelForSequenceClassification")


@pytest.fixture(scope="module")
def table(bert) -> LatencyTable:
    return measure_table(bert, discover(bert), SMALL, timer=work_clock, **ONCE)


def end_to_end_ms(model, environment: Environment = SMALL, timer=work_clock) -> float:
    batch = random_batch(model, environment, seed=0)
    run = runtime("torch").prepare(model, environment, batch)
    return timer(lambda: run(batch)).ms


@pytest.mark.parametrize("family", sorted({*model_types()} - SOUND_TYPES))  # sound cannot be timed: test_sound
def test_work_is_predicted_exactly_in_every_family(family: str) -> None:
    model = tiny_model(family)
    structure = discover(model)
    table = measure_table(model, structure, SMALL, timer=work_clock, **ONCE)
    result = prediction_error(model, structure, table, configs=4, timer=work_clock, **ONCE)
    # The layers of T5 hand on a bias of their cross-attentions, so that the work of one depends on the one before.
    hands_on = any("output[1]" in group.per_head for group in structure)
    assert result["max_error"] < (2e-3 if hands_on else 1e-9)
    assert len({row["measured"] for row in result["configs"]}) > 1
    assert discover(model).sizes == structure.sizes


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_ranks_are_predicted_exactly(family: str) -> None:
    """Up to the break-even rank a matrix is two factors; above it is one matrix, with the work of the dense model."""
    dense = tiny_model(family)
    model = tiny_model(family).requires_grad_(False)
    factorize(model, matrices(model))
    structure = rank_groups(model)
    table = measure_table(model, structure, SMALL, dense=dense, timer=product_clock, **ONCE)
    assert table.dense_ms == pytest.approx(end_to_end_ms(dense, timer=product_clock)) == table(structure.sizes)
    result = prediction_error(model, structure, table, configs=4, timer=product_clock, **ONCE)
    assert result["max_error"] < 1e-9
    nothing = dict.fromkeys(structure.sizes, 0)
    assert table(nothing) == table.overhead_ms < 0.6 * table.dense_ms
    assert table({**nothing, structure.groups[0].name: structure.groups[0].size}) > table.overhead_ms


def test_a_matrix_is_timed_without_the_rest_of_its_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer with random errors wherever attention runs gives the same curves of ranks as an exact timer."""
    dense = tiny_model("bert")
    model = tiny_model("bert").requires_grad_(False)
    factorize(model, matrices(model))
    structure = rank_groups(model)
    attention, attended, chance = functional.scaled_dot_product_attention, [], random.Random(0)
    monkeypatch.setattr(
        functional,
        "scaled_dot_product_attention",
        lambda *args, **kwargs: attended.append(1) or attention(*args, **kwargs),
    )

    def with_errors(run: Callable[[], object]) -> Reading:
        before = len(attended)
        reading = product_clock(run)
        return reading._replace(ms=reading.ms * chance.uniform(1, 2)) if len(attended) > before else reading

    exact, disturbed = (
        measure_table(model, structure, SMALL, dense=dense, timer=timer, **ONCE)
        for timer in (product_clock, with_errors)
    )
    assert attended
    assert disturbed.dense_ms > exact.dense_ms
    assert {name: curve.raw_ms for name, curve in disturbed.curves.items()} == {
        name: curve.raw_ms for name, curve in exact.curves.items()
    }


def test_both_ends_of_the_table_match_end_to_end_timings(bert, table: LatencyTable) -> None:
    structure = discover(bert)
    assert table.dense_ms == pytest.approx(end_to_end_ms(bert))
    assert table(structure.sizes) == pytest.approx(table.dense_ms)
    emptied = tiny_model("bert", auto="AutoModelForSequenceClassification")
    shrink(emptied, structure, Mask.from_units(structure, {name: torch.arange(0) for name in structure.sizes}))
    assert table.overhead_ms == pytest.approx(end_to_end_ms(emptied))
    assert table.largest_speedup == pytest.approx(end_to_end_ms(bert) / end_to_end_ms(emptied))


def test_the_fixed_cost_of_the_first_unit_is_in_the_curve(table: LatencyTable) -> None:
    curve = table.curve("layer.1.heads")
    assert curve(0) == 0
    assert curve(1) > 1.2 * (curve(2) - curve(1)) > 0
    assert table.group_cost("layer.1.heads", 1) == curve(1)


def test_a_pruned_model_is_measured_at_its_present_sizes(bert) -> None:
    model = tiny_model("bert", auto="AutoModelForSequenceClassification")
    dense = discover(model)
    counts = {"layer.0.heads": 1, "layer.1.heads": 0, "layer.2.intermediate": 7}
    shrink(model, dense, Mask.from_units(dense, {name: torch.arange(kept) for name, kept in counts.items()}))
    structure = discover(model)
    table = measure_table(model, structure, SMALL, timer=work_clock, **ONCE)
    assert table.dense_ms == pytest.approx(end_to_end_ms(model)) != end_to_end_ms(bert)
    assert "layer.1.heads" not in table.groups
    assert prediction_error(model, structure, table, configs=4, timer=work_clock, **ONCE)["max_error"] < 1e-9


def test_a_table_is_unchanged_by_saving_and_loading(table: LatencyTable, tmp_path: Path) -> None:
    table.save(tmp_path / "latency.json")
    assert LatencyTable.load(tmp_path / "latency.json") == table


def test_points_and_snapping(bert) -> None:
    structure = discover(bert)
    table = measure_table(bert, structure, SMALL, timer=work_clock, points={Kind.HEAD: (2,)}, multiple=4, **ONCE)
    assert table.curves["head"].units == (0, 2, 4)
    assert table.curves["intermediate"].multiple == 4
    assert all(unit % 4 == 0 or unit == 1 for unit in table.curves["intermediate"].units)


def test_the_free_multiple_is_measured() -> None:
    model = tiny_model("bert", intermediate_size=512)

    def favours_16(run) -> Reading:
        width = next(
            (
                module.intermediate.dense.out_features
                for module in closure_modules(run)
                if hasattr(module, "intermediate")
            ),
            0,
        )
        return Reading(work_clock(run).ms * (1.0 if width % 16 == 0 else 1.2))

    table = measure_table(model, discover(model), SMALL, timer=favours_16, probe=True, **ONCE)
    assert table.curves["intermediate"].multiple == 16
    assert table.curves["head"].multiple == 1


def test_random_counts_cover_all_sizes_and_are_snapped(bert, table: LatencyTable) -> None:
    structure = discover(bert)
    generator = random.Random(0)
    drawn = [random_counts(structure, table, generator) for _ in range(50)]
    heads = {counts["layer.0.heads"] for counts in drawn}
    neurons = {counts["layer.0.intermediate"] for counts in drawn}
    assert heads == {0, 1, 2, 3, 4}
    assert neurons == {0, 8, 16, 20}


def test_prediction_error_detects_a_wrong_table(bert, table: LatencyTable) -> None:
    structure = discover(bert)
    wrong = table.corrected(table.dense_ms)
    result = prediction_error(bert, structure, wrong, configs=4, timer=work_clock, **ONCE)
    assert result["mean_error"] > 0.2
    assert all(row["error"] < 0 for row in result["configs"])


def test_unsuitable_environments_are_refused_before_anything_runs(bert) -> None:
    structure = discover(bert)
    with pytest.raises(RecipeError, match="65 tokens is too long"):
        measure_table(bert, structure, Environment(sequence_length=65))
    with pytest.raises(RecipeError, match="use 1 thread"):
        measure_table(bert, structure, Environment(sequence_length=6, threads=2, clock="cpu"))
    with pytest.raises(RecipeError, match="runtime 'abacus' is unknown"):
        measure_table(bert, structure, Environment(sequence_length=6, runtime="abacus"))


def test_a_curve_of_two_points_is_a_line() -> None:
    curve = LatencyCurve((0, 8), (0.0, 4.0))
    assert [curve(kept) for kept in (0, 1, 4, 8, 9)] == [0.0, 0.5, 2.0, 4.0, 4.0]
    kept = torch.tensor(3.0, requires_grad=True)
    (slope,) = torch.autograd.grad(curve(kept), kept)
    assert float(slope) == 0.5
    assert LatencyCurve((0, 1), (0.0, 4.0))(1) == 4.0
    assert LatencyCurve((0,), (0.0,))(1) == 0.0


def test_random_models_take_no_memory_of_their_own() -> None:
    """Eight pruned models of a billion parameters are timed in turns."""
    model = tiny_model("llama")
    structure = discover(model)
    pruned = shrunk_copy(model, structure, uneven(structure))
    shapes = {name: parameter.shape for name, parameter in pruned.named_parameters()}
    borrow_memory(pruned, model)
    assert {name: parameter.shape for name, parameter in pruned.named_parameters()} == shapes
    lent = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    assert {parameter.untyped_storage().data_ptr() for parameter in pruned.parameters()} <= lent
    assert all(torch.isfinite(parameter).all() for parameter in pruned.parameters())
