"""Known scores of real models on real data. The tests are skipped where ``shared`` has neither."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from pyarrow import parquet

from secateurs.tasks import task
from secateurs.tasks.base import Columns, Score
from secateurs.tasks.embedding.retrieval import find_collection
from secateurs.tasks.roles import RoleSizes


def read(shared: Path, name: str, data: str, model: Any, tokenizer: Any, sequence_length: int, rows: int) -> Any:
    """Read a data set of ``shared``, with ``rows`` rows for the evaluation."""
    return task(name).read(
        str(shared / "data" / data),
        model,
        tokenizer,
        columns=Columns(),
        batch_size=32,
        sequence_length=sequence_length,
        roles=RoleSizes(8),
        evaluation_samples=rows,
        seed=0,
    )


def evaluate(shared: Path, name: str, model: str, data: str, sequence_length: int, rows: int) -> Score:
    """The score of a model of ``shared`` on a sample of the evaluation split."""
    if not (shared / "models" / model).is_dir():
        pytest.skip(f"the model {model} is not on this machine")
    subject = task(name)
    loaded, tokenizer = subject.load(str(shared / "models" / model), dtype="float32", device="cpu")
    found = read(shared, name, data, loaded, tokenizer, sequence_length, rows)
    assert sum(len(batch["input_ids"]) for batch in found.roles.fit.batches) == 8
    return subject.evaluate(loaded, found.evaluation, "cpu")


def test_sentiment_of_a_bert(shared: Path) -> None:
    score = evaluate(shared, "text_classification", "minilm-sst2", "glue_sst2", 64, 100)
    assert score.value == pytest.approx(0.892, abs=0.05)


def test_language_model_with_grouped_queries(shared: Path) -> None:
    score = evaluate(shared, "causal_lm", "stories260k-llama", "tinystories_1k", 512, 8)
    assert score.details["nats_per_token"] == pytest.approx(1.6, abs=0.15)


def test_language_model_with_fused_projections(shared: Path) -> None:
    score = evaluate(shared, "causal_lm", "gpt2-wikitext2", "wikitext2", 256, 16)
    assert score.details["nats_per_token"] == pytest.approx(4.08, abs=0.2)


def test_retrieval_collections_are_read(shared: Path) -> None:
    cranfield = find_collection(shared / "data" / "cranfield")
    assert cranfield is not None
    assert len(cranfield.documents) == 1400
    assert sum(len(gains) for gains in cranfield.relevance) == 1837 - 225
    scifact = find_collection(shared / "data" / "scifact")
    assert scifact is not None
    assert (len(scifact.documents), len(scifact.queries)) == (5183, 300)
    assert sum(len(gains) for gains in scifact.relevance) == 339


def small_bert(shared: Path, head: str, **changes: Any) -> tuple[Any, Any]:
    """A random model with a real tokenizer, for tests of how the data is read."""
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


class Oracle(torch.nn.Module):
    """Returns the right outputs for every batch of the evaluation data.

    Args:
        batches: evaluation batches with labels.
        outputs: (labels, batch) -> model outputs.
    """

    def __init__(self, batches: list[dict[str, torch.Tensor]], outputs: Any) -> None:
        super().__init__()
        self.answers = {batch["input_ids"].numpy().tobytes(): outputs(batch["labels"], batch) for batch in batches}

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return self.answers[input_ids.numpy().tobytes()]


def test_tags_of_every_word_are_read(shared: Path) -> None:
    columns = [parquet.read_table(path)["slots"] for path in (shared / "data" / "snips_slots").glob("*.parquet")]
    labels = sorted({tag for column in columns for tags in column.to_pylist() for tag in tags})
    named = {"id2label": dict(enumerate(labels)), "label2id": {name: index for index, name in enumerate(labels)}}
    model, tokenizer = small_bert(shared, "BertForTokenClassification", **named)
    data = read(shared, "token_classification", "snips_slots", model, tokenizer, 64, 700)

    def outputs(tags: torch.Tensor, _: Any) -> Any:
        return SimpleNamespace(logits=torch.nn.functional.one_hot(tags.clamp_min(0), len(labels)).float())

    oracle: Any = Oracle(data.evaluation.batches, outputs)
    score = task("token_classification").evaluate(oracle, data.evaluation, "cpu")
    tags = parquet.read_table(shared / "data" / "snips_slots" / "validation.parquet")["slots"].to_pylist()
    assert score.value == 1
    assert score.count == sum(map(len, tags))
    assert score.details["words_cut_off"] == 0
    assert score.details["entities"] == sum(tag.startswith("B-") for row in tags for tag in row)


@pytest.mark.parametrize(("data", "unanswerable"), [("squad_v1", False), ("squad_v2", True)])
def test_answers_are_found_at_their_tokens(shared: Path, data: str, unanswerable: bool) -> None:
    model, tokenizer = small_bert(shared, "BertForQuestionAnswering")
    found = read(shared, "question_answering", data, model, tokenizer, 128, 60)

    def outputs(places: torch.Tensor, batch: Any) -> Any:
        width = batch["input_ids"].shape[1]
        # A window without the answer points to the no-answer token, with a lower logit than a window with the answer has.
        start, end = (5.0 * torch.nn.functional.one_hot(places[:, side], width) for side in range(2))
        start[:, 0], end[:, 0] = start[:, 0].clamp(max=1), end[:, 0].clamp(max=1)
        return SimpleNamespace(start_logits=start, end_logits=end)

    oracle: Any = Oracle(found.evaluation.windows.batches, outputs)
    score = task("question_answering").evaluate(oracle, found.evaluation, "cpu")
    assert found.evaluation.unanswerable == unanswerable
    assert score.count == 60
    assert score.details["windows"] > 60
    assert score.details["doc_stride"] == 42
    # Tokens are coarser than characters ("Muslim" in "Muslims"), and a few answers are longer than 30 tokens.
    assert score.value > 0.95
    assert score.details["exact_match"] > 0.9
