"""Embeddings: pooling, search collections and the three metrics."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from secateurs.errors import CheckpointError, DataError, UnsupportedModelError
from secateurs.tasks import task
from secateurs.tasks.base import Columns, TaskData
from secateurs.tasks.embedding.pooling import SentenceFiles, pool
from secateurs.tasks.embedding.retrieval import find_collection
from secateurs.tasks.roles import RoleSizes
from tiny import WORDS, tiny_tokenizer, write_rows

TEXTS = [" ".join(WORDS[i : i + 3 + i % 4]) for i in range(20)]


def model(seed: int = 0) -> BertModel:
    torch.manual_seed(seed)
    small = {
        "vocab_size": 40,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    return BertModel(BertConfig(**small, max_position_embeddings=32, initializer_range=0.5)).eval()


def read(source: Path, **options: Any) -> TaskData:
    settings = {"columns": Columns(), "batch_size": 4, "sequence_length": 16, "roles": RoleSizes(100), "seed": 0}
    return task("embedding").read(str(source), model(), tiny_tokenizer(), **{**settings, **options})


def sentence_folder(folder: Path, pooling: dict[str, Any], extra: list[str] | None = None) -> Path:
    """A sentence-transformers folder in the layout of version 2."""
    model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    kinds |= {f"{3 + i}_{kind}": kind for i, kind in enumerate(extra or [])}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16, "do_lower_case": False}))
    return folder


def test_pooling_ignores_padding() -> None:
    hidden = torch.tensor([[[1.0, 5.0], [3.0, 1.0], [100.0, 100.0]]])
    mask = torch.tensor([[1, 1, 0]])

    def unit(*values: float) -> list[float]:
        return [value / math.hypot(*values) for value in values]

    expected = {"cls": (1.0, 5.0), "max": (3.0, 5.0), "mean": (2.0, 3.0), "lasttoken": (3.0, 1.0)}
    for mode, values in expected.items():
        assert pool(hidden, mask, (mode,))[0].tolist() == pytest.approx(unit(*values))
    assert pool(hidden, mask, ("cls", "mean"))[0].tolist() == pytest.approx(unit(1.0, 5.0, 2.0, 3.0))


@pytest.mark.parametrize("mode", ["cls_token", "max_tokens", "mean_tokens", "lasttoken"])
def test_embeddings_equal_those_of_sentence_transformers(tmp_path: Path, mode: str) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    pooling = {"word_embedding_dimension": 8, **{f"pooling_mode_{name}": name == mode for name in modes}}
    folder = sentence_folder(tmp_path / "model", pooling)
    expected = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(
        TEXTS, convert_to_tensor=True
    )
    embedding = task("embedding")
    encoder, tokenizer = embedding.load(str(folder), dtype="float32", device="cpu")
    data = write_rows(tmp_path / "data" / "test.parquet", text=TEXTS * 5)
    read = embedding.read(
        str(data),
        encoder,
        tokenizer,
        columns=Columns(),
        batch_size=4,
        sequence_length=16,
        roles=RoleSizes(1),
        seed=0,
    )
    held_out = embedding.reference(encoder, read.evaluation, "cpu")
    by_text = {tuple(tokenizer(text)["input_ids"]): vector for text, vector in zip(TEXTS, expected, strict=True)}
    ids = [
        tuple(row[: int(mask.sum())].tolist())
        for batch in held_out.texts.batches
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    for place, key in zip(held_out.texts.order, ids, strict=True):
        torch.testing.assert_close(held_out.dense[place], by_text[key], atol=1e-5, rtol=0)


def test_the_files_of_sentence_transformers_are_copied_to_the_pruned_model(tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    pooling = {"word_embedding_dimension": 8, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    source = sentence_folder(tmp_path / "dense", pooling)
    target = tmp_path / "pruned"
    model().save_pretrained(target)
    tiny_tokenizer().save_pretrained(target)
    task("embedding").save_extras(str(source), target)
    before, after = (
        sentence_transformers.SentenceTransformer(str(folder), device="cpu") for folder in (source, target)
    )
    torch.testing.assert_close(torch.tensor(after.encode(TEXTS)), torch.tensor(before.encode(TEXTS)))
    assert SentenceFiles.find(str(target)).modes == ("cls",)


def test_a_transformer_in_a_subfolder_is_found_and_moves_to_the_top_folder(tmp_path: Path) -> None:
    source = sentence_folder(tmp_path / "dense", {"pooling_mode": "lasttoken"})
    (source / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (source / name).rename(source / "0_Transformer" / name)
    modules = json.loads((source / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (source / "modules.json").write_text(json.dumps(modules))
    embedding = task("embedding")
    encoder, _ = embedding.load(str(source), dtype="float32", device="cpu")
    torch.testing.assert_close(encoder.state_dict(), model().state_dict())
    embedding.save_extras(str(source), tmp_path / "pruned")
    assert json.loads((tmp_path / "pruned" / "modules.json").read_text())[0]["path"] == ""


def test_unsupported_modules_and_pooling_modes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="has a Dense module"):
        SentenceFiles.find(str(sentence_folder(tmp_path / "a", {"pooling_mode_mean_tokens": True}, ["Dense"])))
    with pytest.raises(UnsupportedModelError, match="pools by weightedmean_tokens"):
        SentenceFiles.find(str(sentence_folder(tmp_path / "b", {"pooling_mode_weightedmean_tokens": True})))
    folder = sentence_folder(tmp_path / "c", {})
    (folder / "1_Pooling" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"1_Pooling/config\.json"):
        SentenceFiles.find(str(folder))


def test_a_plain_encoder_is_pooled_by_the_mean_and_has_no_extra_files(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "plain")
    assert SentenceFiles.find(str(tmp_path / "plain")) == SentenceFiles()
    (tmp_path / "target").mkdir()
    task("embedding").save_extras(str(tmp_path / "plain"), tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    write_rows(
        tmp_path / "corpus.parquet", doc_id=[7, 8, 9], title=["the cat", "", None], text=["the cat sat", "dog", "moon"]
    )
    write_rows(tmp_path / "queries.parquet", query_id=[1, 2, 3], text=["a cat", "a dog", "nothing"])
    write_rows(
        tmp_path / "qrels.parquet",
        query_id=[1, 1, 2, 2, 3],
        doc_id=[7, 9, 8, 9, 9],
        relevance_code=[1, 4, 2, -1, -1],
    )
    return tmp_path


def test_a_collection_with_relevance_codes_of_cranfield(collection: Path) -> None:
    found = find_collection(collection)
    assert found is not None
    assert found.documents == ["the cat sat", "dog", "moon"]
    assert (found.queries, found.other_queries) == (["a cat", "a dog"], ["nothing"])
    assert found.relevance == [{0: 4.0, 2: 1.0}, {1: 3.0}]


def test_a_collection_in_the_layout_of_beir(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "x", "title": "T", "text": "body"}\n{"_id": "y", "title": "", "text": "b"}\n'
    )
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "one"}\n{"_id": "q2", "text": "two"}\n')
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tx\t2\nq1\ty\t0\n")
    found = find_collection(tmp_path)
    assert found is not None
    assert found.documents == ["T. body", "b"]
    assert (found.queries, found.relevance, found.other_queries) == (["one"], [{0: 2.0}], ["two"])


def test_rows_of_a_claim_are_merged_and_training_claims_are_for_calibration(tmp_path: Path) -> None:
    write_rows(tmp_path / "corpus.parquet", doc_id=[4, 5], title=["T", "U"], abstract=[["one.", "two."], ["three."]])
    write_rows(
        tmp_path / "claims_validation.parquet",
        claim_id=[1, 1, 2],
        claim=["a", "a", "b"],
        cited_doc_ids=[[5], [5, 4], []],
    )
    write_rows(tmp_path / "claims_train.parquet", claim_id=[3], claim=["c"], cited_doc_ids=[[4]])
    found = find_collection(tmp_path)
    assert found is not None
    assert found.documents == ["T. one. two.", "U. three."]
    assert (found.queries, found.relevance, found.other_queries) == (["a"], [{1: 1.0, 0: 1.0}], ["c"])


def test_incomplete_collections_are_refused(collection: Path) -> None:
    (collection / "qrels.parquet").unlink()
    with pytest.raises(DataError, match="no qrels file"):
        find_collection(collection)
    write_rows(collection / "qrels.parquet", query_id=[1], doc_id=[99], relevance=[1])
    with pytest.raises(DataError, match="99, which is not in the corpus"):
        find_collection(collection)
    write_rows(collection / "qrels.parquet", query_id=[1], relevance=[1])
    with pytest.raises(DataError, match="needs a column called doc_id"):
        find_collection(collection)


def test_search_finds_a_document_by_its_own_text(tmp_path: Path) -> None:
    write_rows(tmp_path / "corpus.parquet", doc_id=list(range(20)), text=TEXTS)
    write_rows(tmp_path / "queries.parquet", query_id=[0, 1], text=[TEXTS[4], TEXTS[11]])
    write_rows(tmp_path / "qrels.parquet", query_id=[0, 1], doc_id=[4, 11])
    data = read(tmp_path)
    score = task("embedding").evaluate(model(), data.evaluation, "cpu")
    assert (score.name, score.value, score.count) == ("ndcg@10", pytest.approx(1.0), 2)
    assert sum(len(batch["input_ids"]) for batch in data.roles.fit.batches) == 20  # the queries are documents too
    assert not data.calibration_labels
    assert read(tmp_path, evaluation_samples=1).evaluation.relevance in ([{4: 1.0}], [{11: 1.0}])


def test_scored_pairs_are_ranked_by_cosine(tmp_path: Path) -> None:
    embedding, encoder, tokenizer = task("embedding"), model(), tiny_tokenizer()
    left, right = TEXTS[:10], TEXTS[10:]

    def vector(text: str) -> torch.Tensor:
        batch = dict(tokenizer([text], return_tensors="pt"))
        with torch.no_grad():
            return embedding.compared_outputs(encoder(**batch), batch)[0]

    cosines = [float(vector(a) @ vector(b)) for a, b in zip(left, right, strict=True)]
    write_rows(tmp_path / "train.parquet", sentence1=left, sentence2=right, score=[0.5] * 10)
    for scores, expected in (([math.exp(c) for c in cosines], 1.0), ([-c for c in cosines], -1.0)):
        write_rows(tmp_path / "validation.parquet", sentence1=left, sentence2=right, score=scores)
        score = embedding.evaluate(encoder, read(tmp_path).evaluation, "cpu")
        assert (score.name, score.value, score.count) == ("spearman", pytest.approx(expected), 10)


def test_without_judgements_embeddings_are_compared_with_the_dense_model(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet", text=TEXTS)
    embedding, dense = task("embedding"), model()
    data = read(tmp_path)
    with pytest.raises(ValueError, match="reference"):
        embedding.evaluate(dense, data.evaluation, "cpu")
    evaluation = embedding.reference(dense, data.evaluation, "cpu")
    same, other = (embedding.evaluate(encoder, evaluation, "cpu") for encoder in (dense, model(seed=1)))
    assert (same.name, same.count) == ("cosine to dense", 4)
    assert same.value == pytest.approx(1.0)
    assert other.value < 0.9


def test_integer_labels_are_not_used_as_similarity_scores(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet", sentence1=TEXTS, sentence2=TEXTS, label=[0, 1] * 10)
    assert "compare with the dense model" in read(tmp_path).description


def test_divergence_is_one_minus_cosine() -> None:
    student, teacher = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, -1.0]])
    assert task("embedding").divergence(student, teacher).tolist() == pytest.approx([1 - math.sqrt(0.5), 2.0])


def test_the_embedding_task_has_no_loss() -> None:
    embedding = task("embedding")
    assert not embedding.has_loss
    with pytest.raises(DataError, match="distillation"):
        embedding.loss(SimpleNamespace(), {})
