"""No text has two roles, for every task and size; the asked number is honoured; too little data is said."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from secateurs.errors import DataError
from secateurs.pipeline.load import load
from secateurs.tasks import names, task
from secateurs.tasks.base import Columns, TaskData
from secateurs.tasks.data.batches import TextRows
from secateurs.tasks.data.draw_roles import draw_roles
from secateurs.tasks.data.encode import Encode
from secateurs.tasks.roles import Role, Roles, RoleSizes
from tiny import WORDS, tiny_tokenizer, write_rows
from tiny_models import tiny_model
from tiny_run import recipe


def sentences(count: int, seed: int = 0) -> list[str]:
    """Different sentences of 4 to 9 words."""
    chance = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(chance.choices(WORDS, k=chance.randint(4, 9)))] = None
    return list(found)


def rows_of(role: Role) -> set[tuple[int, ...]]:
    """The tokens of every text of a role, without padding."""
    return {
        tuple(ids[mask.bool()].tolist())
        for batch in role.batches
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    }


def check_disjoint(roles: Roles) -> None:
    everything = [rows_of(role) for role in roles.by_name.values()]
    assert sum(map(len, everything)) == len(set().union(*everything)), "two roles share a text"
    assert [len(rows) for rows in everything] == [role.rows for role in roles.by_name.values()], "a role repeats a text"


def read(name: str, source: Path, sizes: RoleSizes, **options: Any) -> TaskData:
    auto = task(name).auto_class
    model_type = {"AutoModelForCausalLM": "llama", "AutoModelForSeq2SeqLM": "bart"}.get(auto, "bert")
    model = tiny_model(model_type, auto=auto, num_labels=2, pad_token_id=0)
    settings = {"columns": Columns(), "batch_size": 8, "sequence_length": 12, "seed": 0, **options}
    return task(name).read(str(source), model, tiny_tokenizer(), roles=sizes, **settings)


def pool(texts: list[str], pairs: list[str] | None = None) -> TextRows:
    keys = ("input_ids", "attention_mask")
    return TextRows(Encode(tiny_tokenizer(), 12, keys), texts, pairs)


def draw(rows: TextRows, sizes: RoleSizes, held_out: TextRows | None = None, **how: Any) -> tuple[Roles, Any]:
    return draw_roles(
        rows, held_out, sizes, split="train", held_out_split="test", **{"batch_size": 8, "seed": 0, **how}
    )


@pytest.mark.parametrize("sizes", [RoleSizes(20, 8, 8, 8), RoleSizes(100, 30, 30, 20), RoleSizes(2000, 700, 700, 256)])
@pytest.mark.parametrize("evaluated", [True, False])
@pytest.mark.parametrize(
    "name", [name for name in names() if task(name).inputs == "input_ids"]
)  # images: test_tasks_image_classification
def test_roles_are_disjoint_for_every_task(tmp_path: Path, name: str, evaluated: bool, sizes: RoleSizes) -> None:
    texts = sentences(600)
    subject = task(name)
    write_rows(tmp_path / "train.parquet", **subject.example(texts[:500], labelled=evaluated))
    if evaluated:
        write_rows(tmp_path / "validation.parquet", **subject.example(texts[450:]))
    data = read(name, tmp_path, sizes)
    roles = data.roles
    check_disjoint(roles)
    assert set(roles.by_name) == {"fit", "search", "accept", "report"}
    assert data.train is not None
    trained = {tuple(data.train[index]["input_ids"]) for index in range(len(data.train))}  # pyright: ignore
    if name != "causal_lm":  # whose last lines are held out, whatever they say
        assert not trained & rows_of(roles.report), "the report role was trained on"
    if sum((sizes.fit, sizes.search, sizes.accept)) < 300:
        assert (roles.fit.rows, roles.search.rows, roles.accept.rows) == (sizes.fit, sizes.search, sizes.accept)
        assert not any("fewer" in note for note in roles.notes)
    else:
        assert any("fewer texts than asked for" in note for note in roles.notes)
        assert roles.fit.rows > roles.search.rows


def test_texts_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    given = recipe(tmp_path)
    found = [load(given.model_copy(update={"batch_size": size})).data.roles for size in (1, 256)]
    for one, other in zip(*(roles.by_name.values() for roles in found), strict=True):
        for left, right in zip(one.batches, other.batches, strict=True):
            torch.testing.assert_close(left, right)
    small = load(given.model_copy(update={"calibration_batch_size": 3})).data.roles
    assert max(len(batch["input_ids"]) for batch in small.fit.batches) == 3
    for name, role in small.by_name.items():
        assert rows_of(role) == rows_of(found[0].by_name[name])


def test_equal_texts_have_one_role_and_are_used_once() -> None:
    texts = sentences(100)
    roles, train = draw(pool(texts * 5), RoleSizes(40, 10, 10, 10))
    check_disjoint(roles)
    assert [role.rows for role in roles.by_name.values()] == [40, 10, 10, 10]
    trained = {tuple(train[index]["input_ids"]) for index in range(len(train))}
    assert not trained & rows_of(roles.report)
    assert len(train) == 450


def test_texts_that_differ_behind_their_truncation_are_equal() -> None:
    same = "the cat sat on the mat and the dog ran over the"
    texts = [f"{same} {word}" for word in WORDS] + sentences(60)
    roles, _ = draw(pool(texts), RoleSizes(20, 10, 10, 10))
    check_disjoint(roles)


def test_neighbours_have_one_role() -> None:
    """Documents of one query, questions about one context: a text tells much about its neighbour."""
    queries, documents = sentences(40, 1), sentences(400, 2)
    rows = pool([queries[i // 10] for i in range(400)], documents)
    roles, train = draw(rows, RoleSizes(60, 20, 20, 20))
    check_disjoint(roles)
    firsts = [{row[: row.index(3)] for row in rows_of(role)} for role in roles.by_name.values()]
    assert sum(map(len, firsts)) == len(set().union(*firsts))
    asked = {tuple(train[index]["input_ids"]) for index in range(len(train))}
    assert not asked & rows_of(roles.report)


@pytest.mark.parametrize("held_out", [True, False])
def test_a_quarter_at_most_chooses_the_speedup(held_out: bool) -> None:
    """``keep`` asks for thousands of texts; few of them must not leave the fit without any."""
    texts = sentences(500)
    other = pool(sentences(300, 3)) if held_out else None
    roles, _ = draw(pool(texts), RoleSizes(100, 20, 20, 4096, choose=4096), other)
    check_disjoint(roles)
    assert [(name, role.rows) for name, role in roles.by_name.items()] == [
        ("fit", 100), ("search", 20), ("accept", 20), ("choose", 125), ("report", 300 if held_out else 125)
    ]  # fmt: skip


def test_a_speedup_is_not_chosen_on_shared_texts() -> None:
    with pytest.raises(DataError, match="too few texts to choose on some that nothing else is done with"):
        draw(pool(sentences(3)), RoleSizes(40, 10, 10, 10, choose=10))


def test_few_contexts_are_divided_and_it_is_said() -> None:
    rows = pool([WORDS[i % 2] for i in range(100)], sentences(100))
    roles, _ = draw(rows, RoleSizes(40, 10, 10, 10))
    check_disjoint(roles)
    assert roles.fit.rows == 40
    assert any("neighbouring texts may have different roles" in note for note in roles.notes)


@pytest.mark.parametrize("count", range(1, 30))
def test_tiny_data_are_shared_or_reduced_and_it_is_said(count: int) -> None:
    roles, train = draw(pool(sentences(count)), RoleSizes(20, 10, 10, 10))
    assert all(role.rows for role in roles.by_name.values())
    assert len(roles.by_name) == 4
    if any("share them" in note for note in roles.notes):
        assert count < 8
        assert len(train) == count
    else:
        check_disjoint(roles)
        assert any("fewer texts than asked for" in note for note in roles.notes)
        assert len(train) < count


def test_a_role_without_texts_is_refused() -> None:
    """An evaluation split without texts gave a report role without batches, which the dry run indexed."""
    with pytest.raises(DataError, match=r"^test has no text to report the divergence on"):
        draw(pool(sentences(60)), RoleSizes(20, 10, 10, 10), held_out=pool([]))
    with pytest.raises(DataError, match=r"^train has no text to calibrate on"):
        draw(pool([]), RoleSizes(20, 10, 10, 10), held_out=pool(sentences(60)))
    with pytest.raises(DataError, match=r"^train has no text to calibrate on"):
        draw(pool([]), RoleSizes(report=10))
    roles, _ = draw(pool([]), RoleSizes(report=10), held_out=pool(sentences(60)))  # the method uses no texts
    assert roles.report.rows == 10


def test_the_evaluation_split_is_reported_on_even_without_labels(tmp_path: Path) -> None:
    texts = sentences(120)
    write_rows(tmp_path / "train.parquet", text=texts[:100])
    write_rows(tmp_path / "test.parquet", text=texts[100:])
    data = read("text_classification", tmp_path, RoleSizes(40, report=16))
    assert data.evaluation is None
    assert (data.roles.report.split, data.roles.report.rows) == ("test", 16)
    assert len(data.train) == 100  # pyright: ignore
    tokenizer = tiny_tokenizer()
    ids = tokenizer(texts[100:], truncation=True, max_length=12)["input_ids"]
    assert rows_of(data.roles.report) <= set(map(tuple, ids))  # pyright: ignore


def test_without_an_evaluation_split_the_texts_are_taken_out_of_training() -> None:
    roles, train = draw(pool(sentences(100)), RoleSizes(40, report=16))
    assert roles.report.split == "texts taken out of train"
    assert len(train) == 84


def test_training_texts_that_are_evaluated_are_left_out() -> None:
    texts = sentences(100)
    roles, train = draw(pool(texts), RoleSizes(40, report=16), pool(texts[90:]))
    assert (len(train), roles.report.rows) == (90, 10)
    assert roles.notes == ("10 texts of train are also in test and are used for evaluation only",)
    same, everything = draw(pool(texts), RoleSizes(40, report=16), pool(texts))
    assert len(everything) == 100
    assert "nothing is held out" in same.notes[0]


def test_the_seed_determines_the_roles() -> None:
    texts = sentences(200)
    first, again, other = (draw(pool(texts), RoleSizes(40, 10, 10, 10), seed=seed)[0] for seed in (0, 0, 1))
    for one, two in pairwise((first, again)):
        assert str(one) == str(two)
        assert [rows_of(role) for role in one.by_name.values()] == [rows_of(role) for role in two.by_name.values()]
    assert rows_of(first.fit) != rows_of(other.fit)
