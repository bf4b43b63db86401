"""What every task says about its data before the work, and the rows it skips; the classifiers are tested in their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from secateurs.errors import DataError
from secateurs.tasks import task
from secateurs.tasks.base import Columns, TaskData
from secateurs.tasks.roles import RoleSizes
from tiny import WORDS, tiny_tokenizer, write_rows

TEXTS = [" ".join(WORDS[i % 9 : i % 9 + 3 + i % 4]) for i in range(20)]
CONTEXT = "the small cat sat on the big mat and the red dog ran over it ."


def model(name: str) -> Any:
    sizes = {
        "vocab_size": 40,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    torch.manual_seed(0)
    if name == "causal_lm":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, pad_token_id=0)).eval()
    return getattr(transformers, type(task(name)).auto_class).from_config(transformers.BertConfig(**sizes)).eval()


def read(name: str, source: Path, **options: Any) -> TaskData:
    settings = {"columns": Columns(), "batch_size": 4, "sequence_length": 32, "roles": RoleSizes(10), "seed": 0}
    return task(name).read(str(source), model(name), tiny_tokenizer(), **{**settings, **options})


def said(data: TaskData) -> list[str]:
    return [f"{what} {found}" for what, found in data.understood]


def answers(count: int) -> list[dict[str, list[Any]]]:
    return [{"text": ["red dog"], "answer_start": [CONTEXT.index("red dog")]} for _ in range(count)]


def test_questions(tmp_path: Path) -> None:
    given = answers(200)
    given[7]["answer_start"] = [2]
    given[9] = {"text": [], "answer_start": []}
    asked = ["was it"] * 199 + [" "]
    write_rows(tmp_path / "train.parquet", id=list(range(200)), question=asked, context=[CONTEXT] * 200, answers=given)
    write_rows(tmp_path / "dev.parquet", question=["was it"] * 3, context=[CONTEXT] * 3, answers=answers(3))
    assert said(read("question_answering", tmp_path)) == [
        "split train: 199 rows, for calibration and training",
        "split dev: 3 rows, for evaluation",
        "skipped 1 of 200 train rows, which cannot be used",
        "columns question is 'question', context is 'context', column of answers is 'answers'; not used: id",
        "answers train: 198 questions with an answer, 1 without",
        "answers dev: 3 questions with an answer, 0 without",
        "skipped 1 of 199 train rows, which cannot be used",
    ]


def test_few_misplaced_answers_and_empty_questions_are_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = answers(200)
    given[7]["answer_start"] = [2]
    asked = ["was it"] * 199 + [" "]
    write_rows(tmp_path / "train.parquet", question=asked, context=[CONTEXT] * 200, answers=given)
    write_rows(tmp_path / "dev.parquet", question=["was it"] * 3, context=[CONTEXT] * 3, answers=answers(3))
    assert " 198 train questions" in read("question_answering", tmp_path).description
    assert "1 of 200 rows skipped, which have no 'question' (the first is row 199 of" in caplog.text
    assert "1 of 199 rows skipped, which have an answer that is not at its stated character" in caplog.text


def test_questions_without_answers(tmp_path: Path) -> None:
    rows = {"question": ["was it"] * 6, "context": [CONTEXT] * 6}
    write_rows(tmp_path / "all.parquet", **rows)
    data = read("question_answering", tmp_path)
    assert "none to evaluate (no answers)" in data.description
    assert "evaluation none without labels: the divergence from the dense model is reported" in said(data)
    write_rows(tmp_path / "all.parquet", **rows, gold=answers(6))
    with pytest.raises(DataError, match="'gold' holds answers with their positions: choose --label-column gold"):
        read("question_answering", tmp_path)
    assert read("question_answering", tmp_path, columns=Columns(label="gold")).evaluation is not None
    assert read("question_answering", tmp_path, columns=Columns(label="none")).evaluation is None


def test_answers_beside_their_starts(tmp_path: Path) -> None:
    rows = {"question": ["was it"] * 6, "context": [CONTEXT] * 6, "answer_start": [CONTEXT.index("red dog")] * 6}
    write_rows(tmp_path / "all.parquet", **rows, answer_text=["red dog"] * 6)
    assert read("question_answering", tmp_path).evaluation is not None
    write_rows(tmp_path / "all.parquet", **rows, title=["a"] * 6, span=["red dog"] * 6)
    with pytest.raises(DataError, match="choose --label-column span"):
        read("question_answering", tmp_path)


def test_spans_of_characters_are_no_tags(tmp_path: Path) -> None:
    spans = [[{"start": 0, "end": 3, "label": "B-pet"}]] * 20
    write_rows(tmp_path / "all.parquet", text=TEXTS, entities=spans)
    with pytest.raises(
        DataError, match=r"'entities' .* holds spans of characters; write one tag for every word of 'text'"
    ):
        read("token_classification", tmp_path)
    assert read("token_classification", tmp_path, columns=Columns(label="none")).evaluation is None


def test_few_rows_without_words_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_rows(tmp_path / "train.parquet", tokens=[["a"]] * 120 + [[]], tags=[["LABEL_0"]] * 120 + [[]])
    read("token_classification", tmp_path)
    assert "1 of 121 rows skipped, which have no 'tokens' (the first is row 120 of" in caplog.text


def test_data_without_labels_are_reported_before_the_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_rows(tmp_path / "train.parquet", text=TEXTS, mark=[i / 7 for i in range(20)])
    assert read("text_classification", tmp_path).evaluation is None
    assert "no split has labels (columns of train: text, mark)" in caplog.text


def test_documents_and_queries(tmp_path: Path) -> None:
    write_rows(tmp_path / "corpus.parquet", doc_id=list(range(20)), text=TEXTS)
    write_rows(tmp_path / "queries.parquet", query_id=[1, 2, 3], text=["the cat", "a dog", "a mat"])
    write_rows(tmp_path / "qrels.parquet", query_id=[1, 1, 2], doc_id=[0, 4, 7])
    assert said(read("embedding", tmp_path)) == [
        "corpus 20 documents, for calibration, training and search",
        "queries 2 with relevant documents, for evaluation",
        "queries 1 others, for calibration and training",
        "relevance 3 relevant documents; gain: 1 for every judged document",
    ]


def test_pairs_for_an_embedder(tmp_path: Path) -> None:
    columns = {"sentence1": TEXTS, "sentence2": TEXTS}
    write_rows(tmp_path / "train.parquet", **columns, score=[i / 4 for i in range(20)], genre=["news"] * 20)
    assert said(read("embedding", tmp_path)) == [
        "split train: 16 rows, for calibration and training",
        "split rows held out of train: 4 rows, for evaluation",
        "columns texts are 'sentence1' and 'sentence2', score is 'score'; not used: genre",
    ]
    write_rows(tmp_path / "train.parquet", **columns, score=[i % 5 for i in range(20)])
    assert all(score in range(5) for score in read("embedding", tmp_path).evaluation.scores)
    write_rows(tmp_path / "train.parquet", **columns, label=[i % 3 for i in range(20)])
    assert said(read("embedding", tmp_path))[2:] == [
        "columns texts are 'sentence1' and 'sentence2', there is no score; not used: label",
        "evaluation the column 'label' holds no scores (fractions, or numbers in a column called score): embeddings are "
        "compared with those of the dense model",
    ]


@pytest.mark.parametrize("documents", [False, True])
def test_running_text(tmp_path: Path, documents: bool) -> None:
    texts = ["a cat\n" + text for text in TEXTS * 3] if documents else TEXTS * 3
    write_rows(tmp_path / "train.parquet", text=texts, url=["u"] * 60)
    write_rows(tmp_path / "valid.parquet", text=texts, url=["u"] * 60)
    assert said(read("causal_lm", tmp_path, sequence_length=8)) == [
        "split train: 60 rows, for calibration and training",
        "split valid: 60 rows, for evaluation",
        "columns text is 'text'; not used: url",
        f"text rows are {'documents' if documents else 'the lines of one text'}; their text is divided into windows of 8 "
        "tokens",
    ]


def test_parts_of_texts_are_asked_about(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet", prompt=TEXTS * 3, completion=TEXTS * 3)
    with pytest.raises(
        DataError, match="join them in one column, or choose --text-column prompt; --text-column completion"
    ):
        read("causal_lm", tmp_path, sequence_length=8)
    data = read("causal_lm", tmp_path, sequence_length=8, columns=Columns(text="completion"))
    assert "columns text is 'completion'; not used: prompt" in said(data)
