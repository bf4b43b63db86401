"""Published numbers come out of the real models and data, where they are at hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

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


def small_bert(shared: Path, head: str, **changes: Any) -> tuple[Any, Any]:
    """A random model over a real vocabulary: what is tested is how the data is read, not what the model knows."""
    import transformers

    if not (shared / "models" / "minilm-sst2").is_dir():
        pytest.skip("the tokenizer of minilm-sst2 is not on this machine")
    tokenizer = transformers.AutoTokenizer.from_pretrained(shared / "models" / "minilm-sst2")
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        **changes,
    )
    return getattr(transformers, head)(config).eval(), tokenizer


def read(shared: Path, name: str, data: str, model: Any, tokenizer: Any, sequence_length: int, rows: int) -> Any:
    settings: dict[str, Any] = {"columns": Columns(), "batch_size": 16, "calibration_samples": 8, "seed": 0}
    return task(name).read(
        str(shared / "data" / data),
        model,
        tokenizer,
        sequence_length=sequence_length,
        evaluation_samples=rows,
        **settings,
    )


class Knows(torch.nn.Module):
    """Answers every batch of the evaluation data by its labels."""

    def __init__(self, batches: list[dict[str, torch.Tensor]], build: Any) -> None:
        super().__init__()
        self.answers = {batch["input_ids"].numpy().tobytes(): build(batch["labels"], batch) for batch in batches}

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return self.answers[input_ids.numpy().tobytes()]


def test_slots_are_read_word_by_word(shared: Path) -> None:
    from pyarrow import parquet

    columns = [parquet.read_table(path)["slots"] for path in (shared / "data" / "snips_slots").glob("*.parquet")]
    labels = sorted({tag for column in columns for tags in column.to_pylist() for tag in tags})
    named = {"id2label": dict(enumerate(labels)), "label2id": {name: index for index, name in enumerate(labels)}}
    model, tokenizer = small_bert(shared, "BertForTokenClassification", **named)
    data = read(shared, "token_classification", "snips_slots", model, tokenizer, 64, 700)

    def build(tags: torch.Tensor, _: Any) -> Any:
        return SimpleNamespace(logits=torch.nn.functional.one_hot(tags.clamp_min(0), len(labels)).float())

    score = task("token_classification").evaluate(Knows(data.evaluation.batches, build), data.evaluation, "cpu")
    tags = parquet.read_table(shared / "data" / "snips_slots" / "validation.parquet")["slots"].to_pylist()
    assert score.value == 1
    assert score.count == sum(map(len, tags))
    assert score.details["words_cut_off"] == 0
    assert score.details["entities"] == sum(tag.startswith("B-") for row in tags for tag in row)


@pytest.mark.parametrize(("data", "silent"), [("squad_v1", False), ("squad_v2", True)])
def test_answers_are_found_where_their_tokens_are(shared: Path, data: str, silent: bool) -> None:
    model, tokenizer = small_bert(shared, "BertForQuestionAnswering")
    found = read(shared, "question_answering", data, model, tokenizer, 128, 60)

    def build(places: torch.Tensor, batch: Any) -> Any:
        width = batch["input_ids"].shape[1]
        # A window without the answer says so, and less loudly than one that has it.
        start, end = (5.0 * torch.nn.functional.one_hot(places[:, side], width) for side in range(2))
        start[:, 0], end[:, 0] = start[:, 0].clamp(max=1), end[:, 0].clamp(max=1)
        return SimpleNamespace(start_logits=start, end_logits=end)

    score = task("question_answering").evaluate(Knows(found.evaluation.windows.batches, build), found.evaluation, "cpu")
    assert found.evaluation.silent == silent
    assert score.count == 60
    assert score.details["windows"] > 60
    assert score.details["doc_stride"] == 42
    # Tokens are coarser than characters ("Muslim" in "Muslims"), and a few answers are longer than 30 tokens.
    assert score.value > 0.95
    assert score.details["exact_match"] > 0.9
