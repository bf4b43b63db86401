"""``secateurs.cli.demo_corpus``: the collection made of the docstrings of the standard library."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import parquet

from secateurs.cli import demo_corpus
from secateurs.errors import DataError
from secateurs.tasks.embedding.retrieval import find_collection


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_corpus.build(tmp_path_factory.mktemp("demo"), num_documents=1000, num_queries=100)


def test_the_embedding_task_reads_it(folder: Path) -> None:
    found = find_collection(folder)
    assert found is not None
    assert (len(found.documents), len(found.queries)) == (1000, 100)
    assert all(len(gains) == 1 for gains in found.relevance)
    assert len(set(found.documents)) == 1000


def test_the_document_does_not_contain_the_query(folder: Path) -> None:
    found = find_collection(folder)
    assert found is not None
    for query, gains in zip(found.queries, found.relevance, strict=True):
        assert query.rstrip(".").lower() not in found.documents[next(iter(gains))].lower()


REST = "It is done by hand, word after word, until none of them is left over: number {}."


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library of thirty functions. Importing it fails, so that a test sees whether it is imported."""
    functions = [
        f'def f{i}():\n    """Sort all the words of\n    sentence {i}.\n\n    {REST.format(i)}\n    """\n'
        for i in range(30)
    ]
    (tmp_path / "lib" / "package").mkdir(parents=True)
    (tmp_path / "lib" / "package" / "module.py").write_text("raise RuntimeError\n" + "".join(functions))
    monkeypatch.setattr(demo_corpus.sysconfig, "get_path", lambda name: str(tmp_path / "lib"))
    return tmp_path / "lib"


def test_a_docstring_is_cut_at_its_first_blank_line(library: Path) -> None:
    found = list(demo_corpus.docstrings())
    assert len(found) == 30
    assert found[7] == ("Sort all the words of sentence 7.", REST.format(7))


def test_docstrings_that_make_no_query_are_skipped(library: Path) -> None:
    rest = REST.format("x")
    (library / "package" / "module.py").write_text(
        f'def g():\n    """Sort a few of the words.\n\n    Sort a few of the words: {rest}\n    """\n'
        f'def h():\n    """Too short.\n\n    {rest}\n    """\n'
        'def i():\n    """There is a summary and nothing else."""\n'
        f'def j():\n    text = """No docstring but a text.\n\n    {rest}\n    """\n'
    )
    assert list(demo_corpus.docstrings()) == []


def test_the_seed_chooses_the_documents(library: Path, tmp_path: Path) -> None:
    def texts(name: str, seed: int) -> list[str]:
        path = demo_corpus.build(tmp_path / name, num_documents=20, num_queries=5, seed=seed)
        return parquet.read_table(path / "corpus.parquet")["text"].to_pylist()

    assert texts("a", 0) == texts("b", 0) != texts("c", 1)
    assert len(texts("d", 0)) == 20


def test_a_python_without_sources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_corpus.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match="no docstrings in"):
        demo_corpus.build(tmp_path / "out")
