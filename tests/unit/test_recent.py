"""What is remembered, and what is forgotten first."""

from __future__ import annotations

from secateurs.oneshot.recent import Recent


def test_what_was_used_longest_ago_is_forgotten_first() -> None:
    made: list[str] = []
    recent = Recent[str, str](len, 5)

    def get(key: str) -> str:
        def make() -> str:
            made.append(key)
            return key

        return recent.get(key, make)

    assert [get("aa"), get("bb"), get("aa"), get("cc"), get("aa")] == ["aa", "bb", "aa", "cc", "aa"]
    assert made == ["aa", "bb", "cc"]  # six bytes: "bb" went
    assert get("bb") == "bb"
    assert made == ["aa", "bb", "cc", "bb"]


def test_one_value_is_kept_however_large() -> None:
    recent = Recent[int, str](len, 1)
    value = recent.get(0, lambda: "long")
    assert recent.get(0, lambda: "other") is value
    assert recent.get(1, lambda: "longer") == "longer"
    assert recent.get(0, lambda: "other") == "other"
