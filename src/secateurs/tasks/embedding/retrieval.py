"""Search collections: documents, queries and relevance judgements (qrels).

Three layouts are read: ``corpus``, ``queries`` and ``qrels`` files in one folder; the layout of BEIR, with ``qrels/test``;
and the layout of SciFact, with ``claims_*`` files that cite documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secateurs.errors import DataError
from secateurs.tasks.data.columns import texts_of
from secateurs.tasks.data.layouts import READERS
from secateurs.tasks.data.sources import read_file

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Collection", "find_collection"]

DOCUMENT_IDS = ("doc_id", "_id", "id", "corpus-id", "corpus_id", "document_id")
QUERY_IDS = ("query_id", "_id", "id", "query-id", "qid")
GAINS = ("relevance", "score", "gain", "label")
CODE_GAINS = {1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0}
"""Relevance code of Cranfield -> gain. The best code is 1."""


@dataclass(frozen=True)
class Collection:
    """Documents, queries, and the relevant documents of every query.

    Args:
        documents: texts of the documents.
        queries: texts of the queries for evaluation; each has at least one relevant document.
        relevance: for every query, the gains of its relevant documents by document index.
        other_queries: texts of queries that are used for calibration only; may be empty.
        gain: definition of the gains, in words.
    """

    documents: list[str]
    queries: list[str]
    relevance: list[dict[int, float]]
    other_queries: list[str]
    gain: str


def find_collection(folder: Path) -> Collection | None:
    """Read a search collection from a folder.

    Returns:
        The collection, or ``None`` if the folder has no ``corpus`` file.

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
    found = _from_claims(folder, claims, documents, numbers) if claims else _from_qrels(folder, documents, numbers)
    if not found.queries:
        raise DataError(f"no query of {folder} has a relevant document in {corpus.name}")
    return found


def _from_qrels(folder: Path, documents: list[str], numbers: dict[str, int]) -> Collection:
    queries, qrels = _file(folder, "queries"), _file(folder, "qrels") or _file(folder / "qrels", "test")
    if queries is None or qrels is None:
        raise DataError(f"{folder} has a corpus but no {'queries' if queries is None else 'qrels'} file next to it")
    rows, judgements = read_file(queries), read_file(qrels)
    names = [str(key) for key in rows[_column(rows, QUERY_IDS, queries)][:]]
    texts = texts_of(rows, _column(rows, ("text", "query"), queries), str(queries))
    gains, how = _gains(judgements)
    relevance: dict[str, dict[int, float]] = {}
    query_keys = judgements[_column(judgements, QUERY_IDS, qrels)][:]
    document_keys = judgements[_column(judgements, DOCUMENT_IDS, qrels)][:]
    for query, document, gain in zip(query_keys, document_keys, gains, strict=True):
        if gain > 0:
            if str(document) not in numbers:
                raise DataError(f"{qrels} judges the document {document!r}, which is not in the corpus")
            relevance.setdefault(str(query), {})[numbers[str(document)]] = gain
    kept = [i for i, name in enumerate(names) if name in relevance]
    rest = [text for name, text in zip(names, texts, strict=True) if name not in relevance]
    return Collection(documents, [texts[i] for i in kept], [relevance[names[i]] for i in kept], rest, how)


def _gains(judgements: Dataset) -> tuple[list[float], str]:
    """The gain of every judgement, and the definition of the gains in words."""
    if "relevance_code" in judgements.column_names:
        # Cranfield's best code is 1; its code -1 marks judgements of unknown degree.
        codes = judgements["relevance_code"][:]
        return [CODE_GAINS.get(code, 0.0) for code in codes], "5 - relevance_code; codes outside 1..4 dropped"
    name = next((name for name in GAINS if name in judgements.column_names), None)
    if name is None:
        return [1.0] * len(judgements), "1 for every judged document"
    return [float(value) for value in judgements[name]], f"{name}; values of 0 and less dropped"


def _from_claims(folder: Path, path: Path, documents: list[str], numbers: dict[str, int]) -> Collection:
    queries, relevance = _cited(path, numbers)
    train = _file(folder, "claims_train")
    others = _cited(train, numbers)[0] if train is not None else []
    return Collection(documents, queries, relevance, others, "1 for every cited document")


def _cited(path: Path, numbers: dict[str, int]) -> tuple[list[str], list[dict[int, float]]]:
    """Claims, and the documents that they cite with gain 1.

    A file has one row per piece of evidence, so the rows of one claim are merged. Claims without citation are dropped.
    """
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
    # Some collections repeat the title at the start of the text.
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
