"""What earlier searches are good for."""

from __future__ import annotations

from pathlib import Path

from secateurs.methods._past import Past, Pasts


def past(limit: float, evaluations: int, budget: float = 200.0) -> Past:
    return Past(limit, budget, {"g": round(limit)}, {"g": [1.0, 0.0]}, 0.1 if evaluations else None, evaluations)


def test_only_real_searches_are_built_upon(tmp_path: Path) -> None:
    pasts = Pasts(tmp_path / "searches.json")
    pasts.add(past(100.0, 40))
    pasts.add(past(105.0, 0))  # solved for with the costs of the first
    for limit, close, near in ((103.0, 100.0, 100.0), (115.0, None, 100.0), (150.0, None, None)):
        assert getattr(pasts.close(limit, 200.0), "limit", None) == close
        assert getattr(pasts.near(limit, 203.0), "limit", None) == near
    assert pasts.exactly(105.0) == past(105.0, 0)


def test_they_outlive_the_process(tmp_path: Path) -> None:
    Pasts(tmp_path / "searches.json").add(past(100.0, 40))
    assert Pasts(tmp_path / "searches.json").exactly(100.0) == past(100.0, 40)


def test_another_target_is_searched_for_itself(tmp_path: Path) -> None:
    pasts = Pasts(tmp_path / "searches.json")
    pasts.add(past(100.0, 40, budget=200.0))
    assert pasts.near(99.0, 180.0) is None
    assert pasts.close(99.0, 180.0) is None
