"""Published numbers come out of the real models and data, where they are at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from secateurs.tasks import Columns, Score, task


def evaluate(shared: Path, name: str, model: str, data: str, sequence_length: int, rows: int) -> Score:
    """The score on a sample; few rows, because this runs with every other test."""
    if not (shared / "models" / model).is_dir():
        pytest.skip(f"the model {model} is not on this machine")
    subject = task(name)
    loaded, tokenizer = subject.load(str(shared / "models" / model), dtype="float32", device="cpu")
    settings: dict[str, Any] = {"columns": Columns(), "batch_size": 32, "calibration_samples": 8, "seed": 0}
    read = subject.read(
        str(shared / "data" / data),
        loaded,
        tokenizer,
        sequence_length=sequence_length,
        evaluation_samples=rows,
        **settings,
    )
    assert sum(len(batch["input_ids"]) for batch in read.calibration) == 8
    return subject.evaluate(loaded, read.evaluation, "cpu")


def test_sentiment(shared: Path) -> None:
    score = evaluate(shared, "text_classification", "minilm-sst2", "glue_sst2", 64, 200)
    assert score.value == pytest.approx(0.892, abs=0.05)


def test_language_with_grouped_queries(shared: Path) -> None:
    score = evaluate(shared, "causal_lm", "stories260k-llama", "tinystories_1k", 512, 8)
    assert score.details["nats_per_token"] == pytest.approx(1.6, abs=0.15)


def test_language_with_fused_queries(shared: Path) -> None:
    score = evaluate(shared, "causal_lm", "gpt2-wikitext2", "wikitext2", 256, 16)
    assert score.details["nats_per_token"] == pytest.approx(4.08, abs=0.2)


def test_every_collection_is_read(shared: Path) -> None:
    from secateurs.tasks._retrieval import find_collection

    cranfield = find_collection(shared / "data" / "cranfield")
    assert cranfield is not None
    assert len(cranfield.documents) == 1400
    assert sum(len(gains) for gains in cranfield.relevance) == 1837 - 225
    scifact = find_collection(shared / "data" / "scifact")
    assert scifact is not None
    assert (len(scifact.documents), len(scifact.queries)) == (5183, 300)
    assert sum(len(gains) for gains in scifact.relevance) == 339
