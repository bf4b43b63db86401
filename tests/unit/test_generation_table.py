"""The latency table of a generation: exact with a timer that counts work, and the sum of its two parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from secateurs.latency.curve import LatencyCurve
from secateurs.latency.environment import Environment, lengths
from secateurs.latency.generation import generate
from secateurs.latency.mix_tables import mix
from secateurs.latency.passes import FIRST_TOKEN, PER_TOKEN
from secateurs.latency.predict import prediction_error
from secateurs.latency.profile import measure_table
from secateurs.latency.runtimes import runtime
from secateurs.latency.table import LatencyTable
from secateurs.latency.workload import random_batch
from secateurs.structure.families import discover
from tiny_latency import ONCE
from tiny_models import tiny_model
from work_clock import product_clock

NEW = 5
GENERATION = Environment(batch_size=2, **lengths("generation", 128, 6, NEW))


def frozen(model_type: str) -> Any:
    return tiny_model(model_type).requires_grad_(False)  # the counter of products cannot count with gradients


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "falcon", "gpt_bigcode", "phi3"])
def test_whole_generations_are_predicted_exactly(model_type: str) -> None:
    """Layers are timed alone with caches of their own heads; the twin really generates with models that are really pruned.

    The middle step stands for all, because the products of attention grow linearly with the cache.
    """
    model = frozen(model_type)
    structure = discover(model)
    table = measure_table(model, structure, GENERATION, timer=product_clock, **ONCE)
    prompt = random_batch(model, GENERATION, seed=0)
    run = runtime("torch").prepare(model, GENERATION, prompt)
    assert table.dense_ms == pytest.approx(product_clock(lambda: generate(run, prompt, NEW)).ms)
    assert table(structure.sizes) == pytest.approx(table.dense_ms)
    result = prediction_error(model, structure, table, configs=3, timer=product_clock, **ONCE)
    assert result["max_error"] < 1e-9
    assert len({row["measured"] for row in result["configs"]}) > 1


def test_a_table_is_the_sum_of_its_parts_and_is_unchanged_by_saving(tmp_path: Path) -> None:
    model = frozen("llama")
    table = measure_table(model, discover(model), GENERATION, timer=product_clock, **ONCE)
    first, step = table.parts[FIRST_TOKEN], table.parts[PER_TOKEN]
    prompt = random_batch(model, GENERATION, seed=0)
    run = runtime("torch").prepare(model, GENERATION, prompt)
    assert first.dense_ms == pytest.approx(product_clock(lambda: run(prompt)).ms)
    assert first.dense_ms > 2 * step.dense_ms
    assert table.dense_ms == pytest.approx(first.dense_ms + NEW * step.dense_ms)
    assert table.overhead_ms == pytest.approx(first.overhead_ms + NEW * step.overhead_ms)
    for name in table.groups:
        assert table.group_cost(name, 1) == pytest.approx(first.group_cost(name, 1) + NEW * step.group_cost(name, 1))
    # Only the last token of the prompt is scored, and all products outside the layers are those of the output head.
    head = 2 * 2 * model.config.hidden_size * model.config.vocab_size / 1e3
    assert first.output_head_ms == pytest.approx(head)
    assert table.output_head_ms == pytest.approx((1 + NEW) * head) == pytest.approx(table.overhead_ms)
    table.save(tmp_path / "latency.json")
    assert LatencyTable.load(tmp_path / "latency.json") == table


def test_readings_are_added_as_independent_ones() -> None:
    groups = {"heads": "heads"}
    one = LatencyCurve((0, 1, 4), (0.0, 1.0, 3.0), (0.0, 1.0, 3.0), (0.0, 0.1, 0.2), 8)
    two = LatencyCurve((0, 1, 4), (0.0, 0.5, 1.0), (0.0, 0.5, 1.0), (0.0, 0.4, 0.1), 64)
    made = mix(
        {
            "a": (LatencyTable(GENERATION, 5.0, 2.0, {"heads": one}, groups, noise=0.1), 1),
            "b": (LatencyTable(GENERATION, 2.0, 1.0, {"heads": two}, groups, noise=0.2), 3),
        }
    )
    assert (made.dense_ms, made.overhead_ms, made.noise, made.output_head_ms) == (11.0, 5.0, 0.2, None)
    curve = made.curves["heads"]
    assert (curve.ms, curve.multiple) == ((0.0, 2.5, 6.0), 64)
    assert curve.spread == pytest.approx((0.0, (0.1**2 + 0.6**2) ** 0.5 / 2.5, (0.6**2 + 0.3**2) ** 0.5 / 6))


def test_tables_of_older_versions_are_of_throughput() -> None:
    curve = LatencyCurve((0, 1), (0.0, 1.0))
    values = LatencyTable(Environment(), 2.0, 1.0, {"heads": curve}, {"heads": "heads"}).to_dict()
    assert not {"parts", "output_head_ms"} & values.keys()
    loaded = LatencyTable.from_dict(values)
    assert (loaded.environment.regime, loaded.parts, loaded.output_head_ms) == ("throughput", {}, None)
