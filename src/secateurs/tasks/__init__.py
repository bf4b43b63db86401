"""Registry of tasks. The file or folder ``<name>`` in this folder defines the task ``<name>``.

To add a task, add one file (or one folder, if the task needs helpers) with one subclass of ``Task``; no other file names
it. ``base.py`` defines the interface, ``batch.py`` what a batch is, ``answers.py`` how answers of two models compare,
``data`` reads data sets and makes batches, and ``metrics`` computes scores.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from secateurs.errors import RecipeError

if TYPE_CHECKING:
    from secateurs.tasks.base import Task

__all__ = ["check_name", "names", "task"]

NOT_TASKS = {"answers", "base", "batch", "data", "metrics", "roles", "task_data"}
"""Files and folders of this folder that do not define a task."""


def names() -> list[str]:
    """Names of all tasks, sorted. The call imports no task."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - NOT_TASKS)


def check_name(name: str) -> None:
    """Refuse a name that is no task's; torch is not imported.

    Args:
        name: name of the file or folder that defines the task.

    Raises:
        RecipeError: there is no task of that name.
    """
    if name not in names():
        known = ", ".join(names()).replace("_", "-")
        raise RecipeError(f"there is no task {name.replace('_', '-')!r}; the tasks are {known}")


def task(name: str) -> Task:
    """A new instance of the task with the given name.

    Args:
        name: name of the file or folder that defines the task.

    Raises:
        RecipeError: there is no task of that name.

    >>> task("causal_lm").name
    'causal_lm'
    """
    from secateurs.tasks.base import Task  # imports torch; a wrong name is refused without it

    check_name(name)
    module = importlib.import_module(f"{__name__}.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Task) and value.__module__.startswith(module.__name__)
    ]
    assert [cls.name for cls in found] == [name], f"{module.__name__} must define one Task, called {name!r}"
    return found[0]()
