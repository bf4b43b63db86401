"""Which cached searches serve a new budget."""

from __future__ import annotations

from pathlib import Path

from secateurs.methods.ziplm.search_cache import CachedSearch, SearchCache


def cached(limit: float, evaluations: int, budget: float = 200.0) -> CachedSearch:
    return CachedSearch(
        limit, budget, {"g": round(limit)}, {"g": [1.0, 0.0]}, 0.1 if evaluations else None, evaluations
    )


def test_only_searches_that_ran_models_serve_other_budgets(tmp_path: Path) -> None:
    cache = SearchCache(tmp_path / "searches.json")
    cache.add(cached(100.0, 40))
    cache.add(cached(105.0, 0))  # solved with the costs of the first one
    for limit, close, similar in ((103.0, 100.0, 100.0), (115.0, None, 100.0), (150.0, None, None)):
        assert getattr(cache.close(limit, 200.0), "limit", None) == close
        assert getattr(cache.similar(limit, 203.0), "limit", None) == similar
    assert cache.exactly(105.0) == cached(105.0, 0)


def test_searches_are_on_disk(tmp_path: Path) -> None:
    SearchCache(tmp_path / "searches.json").add(cached(100.0, 40))
    assert SearchCache(tmp_path / "searches.json").exactly(100.0) == cached(100.0, 40)


def test_a_search_does_not_serve_another_target(tmp_path: Path) -> None:
    cache = SearchCache(tmp_path / "searches.json")
    cache.add(cached(100.0, 40, budget=200.0))
    assert cache.similar(99.0, 180.0) is None
    assert cache.close(99.0, 180.0) is None
