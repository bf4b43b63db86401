"""Division of one split: rows that belong together are not on both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset

from secateurs.tasks import task
from secateurs.tasks.base import Columns, TaskData
from secateurs.tasks.data.splits import divide
from secateurs.tasks.roles import RoleSizes
from tiny import WORDS, tiny_tokenizer, write_rows

CONTEXT = "cat sat on the big mat"


def divided(queries: list[str], together: str | None = "query") -> tuple[list[str], list[str]]:
    rows = Dataset.from_dict({"query": queries, "row": list(range(len(queries)))})
    found = divide("here", {"all": rows}, usable=lambda rows: True, seed=0, together=lambda rows: together)
    assert found.held_out is not None
    assert sorted(found.rows["row"][:] + found.held_out["row"][:]) == list(range(len(queries)))
    return found.rows["query"][:], found.held_out["query"][:]


def test_rows_with_the_same_value_are_on_one_side() -> None:
    kept, held = divided([f"q{i // 4}" for i in range(400)])
    assert not set(kept) & set(held)
    assert len(held) == 80
    kept, held = divided([f"q{i}" if i % 2 else "often" for i in range(400)])
    assert set(held) & {"often"} == set()
    assert len(held) == 80
    kept, held = divided(["a"] * 60 + ["b"] * 40)  # neither fits into a fifth of the rows: the rarer one
    assert (set(kept), set(held)) == ({"a"}, {"b"})


def test_without_repeated_values_the_division_is_that_of_rows() -> None:
    names = [f"q{i}" for i in range(50)]
    assert divided(names) == divided(names, together=None)
    assert [len(side) for side in divided(["same"] * 50)] == [40, 10]  # one value cannot be divided


def model(name: str) -> Any:
    sizes = {
        "vocab_size": 40,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    torch.manual_seed(0)
    return getattr(transformers, type(task(name)).auto_class).from_config(transformers.BertConfig(**sizes)).eval()


def read(name: str, source: Path) -> TaskData:
    settings: dict[str, Any] = {"batch_size": 4, "sequence_length": 32, "roles": RoleSizes(10), "seed": 0}
    return task(name).read(str(source), model(name), tiny_tokenizer(), columns=Columns(), **settings)


def firsts(rows: list[dict[str, Any]] | Any) -> set[tuple[int, ...]]:
    """The first texts (or questions) of rows, as tokens."""
    return {tuple(row["input_ids"][: list(row["input_ids"]).index(3)]) for row in rows}


def held_out(batches: list[dict[str, torch.Tensor]]) -> list[dict[str, Any]]:
    return [{"input_ids": ids.tolist()} for batch in batches for ids in batch["input_ids"]]


QUERIES = [f"{WORDS[i // 4]} {WORDS[(i // 4 + 3) % 25]}" for i in range(80)]


@pytest.mark.parametrize(
    "columns",
    [
        {"query": QUERIES, "positive": ["a cat"] * 80, "negative": ["a dog"] * 80},
        {"query": QUERIES, "passage": [f"a {WORDS[i % 7]}" for i in range(80)], "label": [i % 2 for i in range(80)]},
        {"premise": QUERIES, "hypothesis": ["a cat"] * 80, "label": [i % 2 for i in range(80)]},
    ],
    ids=["triplets", "pairs", "entailment"],
)
def test_no_query_is_in_training_and_in_evaluation(tmp_path: Path, columns: dict[str, list[Any]]) -> None:
    write_rows(tmp_path / "train.parquet", **columns)
    data = read("text_classification", tmp_path)
    train, evaluated = firsts([data.train[i] for i in range(len(data.train))]), firsts(held_out(data.evaluation))
    assert len(evaluated) == 4
    assert not train & evaluated
    assert not firsts(held_out(data.roles.fit.batches)) & evaluated
    assert f"rows with the same {next(iter(columns))!r} are on the same side" in data.summary()


def test_no_context_is_in_training_and_in_evaluation(tmp_path: Path) -> None:
    contexts = [f"the {word} {CONTEXT}" for word in WORDS[2:22] for _ in range(4)]
    write_rows(
        tmp_path / "train.parquet",
        question=[f"was {WORDS[i % 5]}" for i in range(80)],
        context=contexts,
        answers=[{"text": ["big mat"], "answer_start": [text.index("big mat")]} for text in contexts],
    )
    data = read("question_answering", tmp_path)
    evaluated, train = set(data.evaluation.data.contexts), set(data.train.data.contexts)
    assert (len(evaluated), len(train)) == (4, 16)
    assert not evaluated & train
    assert "rows with the same 'context' are on the same side" in data.summary()


def test_no_first_text_of_an_embedder_is_on_both_sides(tmp_path: Path) -> None:
    scores = [i / 80 for i in range(80)]
    write_rows(tmp_path / "train.parquet", sentence1=QUERIES, sentence2=["a cat"] * 80, score=scores)
    data = read("embedding", tmp_path)
    train = {tuple(data.train[i]["input_ids"]) for i in range(len(data.train))}
    evaluated = {tuple(row["input_ids"]) for row in held_out(data.evaluation.first.batches)}
    assert len(evaluated) == 4
    assert not train & evaluated
