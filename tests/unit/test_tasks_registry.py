"""The registry finds tasks by the names of their files and folders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import secateurs.tasks
from secateurs.errors import RecipeError
from secateurs.tasks import names, task


def test_every_other_file_and_folder_is_a_task() -> None:
    folder = Path(secateurs.tasks.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    folders = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert set(names()) == (files | folders) - {"answers", "base", "batch", "data", "metrics", "roles", "task_data"}
    assert names() == sorted(names())
    assert {"causal_lm", "embedding", "text_classification"} <= set(names())


@pytest.mark.parametrize("name", ["sorting", "base", "batch", "data", "metrics", "Causal_LM", ""])
def test_an_unknown_task_lists_the_known_ones(name: str) -> None:
    with pytest.raises(RecipeError, match="the tasks are " + ", ".join(names()).replace("_", "-")):
        task(name)


def test_listing_the_tasks_imports_nothing_heavy() -> None:
    code = (
        "import sys; from secateurs.tasks import names; names(); "
        "print([m for m in ('transformers', 'datasets', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
