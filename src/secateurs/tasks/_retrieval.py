"""Search collections (documents, queries, judgements) and nDCG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from secateurs.errors import DataError
from secateurs.tasks._columns import texts_of
from secateurs.tasks._sources import READERS, read_file

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Collection", "find_collection", "ndcg"]

DOCUMENT_IDS = ("doc_id", "_id", "id", "corpus-id", "corpus_id", "document_id")
QUERY_IDS = ("query_id", "_id", "id", "query-id", "qid")
GAINS = ("relevance", "score", "gain", "label")
CODE_GAINS = {1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0}


@dataclass(frozen=True)
class Collection:
    """Documents to search, queries, and what is relevant to each.

    Args:
        documents: their texts.
        queries: those to evaluate on; each has a relevant document.
        relevance: for every query, document index -> gain.
        other_queries: queries to calibrate on that are not evaluated; empty if the collection has none.
        gain: how gains are defined, in words.
    """

    documents: list[str]
    queries: list[str]
    relevance: list[dict[int, float]]
    other_queries: list[str]
    gain: str


def find_collection(folder: Path) -> Collection | None:
    """Read ``corpus`` with ``queries`` and ``qrels``, or with ``claims_*`` (SciFact); ``None`` if it is neither.

    Raises:
        DataError: a file or column is missing, or no query has a relevant document.
    """
    corpus = _file(folder, "corpus")
    if corpus is None:
        return None
    rows = read_file(corpus)
    numbers = {str(key): index for index, key in enumerate(rows[_column(rows, DOCUMENT_IDS, corpus)][:])}
    documents = _document_texts(rows, corpus)
    claims = _file(folder, "claims_validation")
    found = _claims(folder, claims, documents, numbers) if claims else _judged(folder, documents, numbers)
    if not found.queries:
        raise DataError(f"no query of {folder} has a relevant document in {corpus.name}")
    return found


def ndcg(ranked: Int[Tensor, "queries k"], relevance: Sequence[dict[int, float]]) -> list[float]:
    """Normalised discounted cumulative gain of the first ``k`` documents, with linear gains.

    ``DCG = sum_i gain_i / log2(i + 1)`` over ranks ``i = 1..k``, divided by that of the best order (Jarvelin and
    Kekalainen, Cumulated gain-based evaluation of IR techniques, 2002, in the discount that trec_eval uses).

    Args:
        ranked: document indices, best first.
        relevance: for every query, document index -> gain.
    """
    k = ranked.shape[1]
    discounts = (1 / torch.log2(torch.arange(k, dtype=torch.float64) + 2)).tolist()
    values: list[float] = []
    for documents, gains in zip(ranked.tolist(), relevance, strict=True):
        best = sorted(gains.values(), reverse=True)[:k]
        ideal = sum(gain * discount for gain, discount in zip(best, discounts, strict=False))
        values.append(
            sum(gains.get(d, 0.0) * discount for d, discount in zip(documents, discounts, strict=True)) / ideal
        )
    return values


def _judged(folder: Path, documents: list[str], numbers: dict[str, int]) -> Collection:
    queries, judgements = _file(folder, "queries"), _file(folder, "qrels") or _file(folder / "qrels", "test")
    if queries is None or judgements is None:
        raise DataError(f"{folder} has a corpus but no {'queries' if queries is None else 'qrels'} file beside it")
    rows, judged = read_file(queries), read_file(judgements)
    names = [str(key) for key in rows[_column(rows, QUERY_IDS, queries)][:]]
    texts = texts_of(rows, _column(rows, ("text", "query"), queries), str(queries))
    gains, how = _gains(judged)
    relevance: dict[str, dict[int, float]] = {}
    query_keys = judged[_column(judged, QUERY_IDS, judgements)][:]
    document_keys = judged[_column(judged, DOCUMENT_IDS, judgements)][:]
    for query, document, gain in zip(query_keys, document_keys, gains, strict=True):
        if gain > 0:
            if str(document) not in numbers:
                raise DataError(f"{judgements} judges the document {document!r}, which is not in the corpus")
            relevance.setdefault(str(query), {})[numbers[str(document)]] = gain
    kept = [i for i, name in enumerate(names) if name in relevance]
    rest = [text for name, text in zip(names, texts, strict=True) if name not in relevance]
    return Collection(documents, [texts[i] for i in kept], [relevance[names[i]] for i in kept], rest, how)


def _gains(judged: Dataset) -> tuple[list[float], str]:
    if "relevance_code" in judged.column_names:
        # Cranfield counts backwards and has -1 for judgements of no known degree.
        codes = judged["relevance_code"][:]
        return [CODE_GAINS.get(code, 0.0) for code in codes], "5 - relevance_code; codes outside 1..4 dropped"
    name = next((name for name in GAINS if name in judged.column_names), None)
    if name is None:
        return [1.0] * len(judged), "1 for every judged document"
    return [float(value) for value in judged[name]], f"{name}; values of 0 and less dropped"


def _claims(folder: Path, path: Path, documents: list[str], numbers: dict[str, int]) -> Collection:
    queries, relevance = _cited(path, numbers)
    train = _file(folder, "claims_train")
    others = _cited(train, numbers)[0] if train is not None else []
    return Collection(documents, queries, relevance, others, "1 for every cited document")


def _cited(path: Path, numbers: dict[str, int]) -> tuple[list[str], list[dict[int, float]]]:
    """Claims come in one row a piece of evidence: the rows of one claim are put together."""
    rows = read_file(path)
    keys = rows[_column(rows, ("claim_id",), path)][:]
    texts, cited = rows[_column(rows, ("claim",), path)][:], rows[_column(rows, ("cited_doc_ids",), path)][:]
    claims: dict[str, tuple[str, dict[int, float]]] = {}
    for key, text, ids in zip(keys, texts, cited, strict=True):
        _, gains = claims.setdefault(str(key), (text, {}))
        for document in ids or ():
            if str(document) not in numbers:
                raise DataError(f"{path} cites the document {document!r}, which is not in the corpus")
            gains[numbers[str(document)]] = 1.0
    kept = [(text, gains) for text, gains in claims.values() if gains]
    return [text for text, _ in kept], [gains for _, gains in kept]


def _document_texts(rows: Dataset, path: Path) -> list[str]:
    bodies = texts_of(rows, _column(rows, ("text", "abstract", "document", "content", "passage"), path), str(path))
    if "title" not in rows.column_names:
        return bodies
    titles = [title or "" for title in rows["title"]]
    # Some collections repeat the title at the head of the text.
    return [
        body if not title or body.startswith(title) else f"{title}. {body}"
        for title, body in zip(titles, bodies, strict=True)
    ]


def _file(folder: Path, stem: str) -> Path | None:
    return next((path for suffix in READERS if (path := folder / f"{stem}{suffix}").is_file()), None)


def _column(rows: Dataset, names: tuple[str, ...], path: Path) -> str:
    found = next((name for name in names if name in rows.column_names), None)
    if found is None:
        raise DataError(
            f"{path} needs a column called {' or '.join(names)}; its columns are {', '.join(rows.column_names)}"
        )
    return found
