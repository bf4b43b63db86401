"""Every task with a small model and data of its kind. Tasks are found by the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from secateurs.tasks import names, task
from secateurs.tasks.base import Columns, Task, TaskData
from tiny import WORDS, tiny_processor, write_rows
from tiny_tasks import SETTINGS, small_model


@pytest.fixture(params=names())
def subject(request: pytest.FixtureRequest) -> Task:
    return task(request.param)


@pytest.fixture
def model(subject: Task) -> Any:
    return small_model(subject.auto_class)


@pytest.fixture
def folder(subject: Task, tmp_path: Path) -> Path:
    texts = [" ".join(WORDS[i % 9 : i % 9 + 3 + i % 11]) for i in range(60)]
    write_rows(tmp_path / "train.parquet", **subject.example(texts))
    write_rows(tmp_path / "validation.parquet", **subject.example(texts[:20]))
    write_rows(tmp_path / "unlabelled" / "all.parquet", **subject.example(texts, labelled=False))
    return tmp_path


@pytest.fixture
def data(subject: Task, model: Any, folder: Path) -> TaskData:
    return subject.read(str(folder), model, tiny_processor(model), columns=Columns(), **SETTINGS)
