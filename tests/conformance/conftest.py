"""Every task with a small model and data of its kind. Tasks are found by the registry."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from secateurs.tasks import names, task
from secateurs.tasks.base import Columns, Task, TaskData
from tiny import WORDS, tiny_processor, write_rows
from tiny_tasks import SETTINGS, small_model


@pytest.fixture(scope="module", autouse=True)
def _objects_that_stay() -> None:
    """Hide what lives now from the garbage collector: it visits a million objects of transformers again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", params=names())
def task_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def subject(task_name: str) -> Task:
    return task(task_name)


@pytest.fixture
def model(subject: Task) -> Any:
    return small_model(subject.auto_class)


@pytest.fixture(scope="module")
def folder(task_name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that no test changes."""
    path, subject = tmp_path_factory.mktemp("data"), task(task_name)
    texts = [" ".join(WORDS[i % 9 : i % 9 + 3 + i % 11]) for i in range(60)]
    write_rows(path / "train.parquet", **subject.example(texts))
    write_rows(path / "validation.parquet", **subject.example(texts[:20]))
    write_rows(path / "unlabelled" / "all.parquet", **subject.example(texts, labelled=False))
    return path


@pytest.fixture(scope="module")
def data(task_name: str, folder: Path) -> TaskData:
    """What the task reads for a model like ``model``. No test changes it."""
    subject = task(task_name)
    model = small_model(subject.auto_class)
    return subject.read(str(folder), model, tiny_processor(model), columns=Columns(), **SETTINGS)
