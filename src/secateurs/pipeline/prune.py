"""``prune``: a run in one line of Python. It makes a ``Recipe`` of its arguments and calls ``run``."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from secateurs.artifacts import expanded
from secateurs.pipeline.recipe import Recipe
from secateurs.pipeline.run import run
from secateurs.pipeline.task_of_model import task_of_model
from secateurs.progress import Track, silent
from secateurs.report.report import Report

__all__ = ["prune"]


def prune(
    model: str | PathLike[str],
    data: str | PathLike[str],
    *,
    task: str | None = None,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    track: Track = silent,
    **fields: Any,
) -> Report:
    """Prune a model: ``secateurs.prune("path/to/model", "path/to/data", speedup=2)``.

    A script needs no ``if __name__ == "__main__"`` around the call: timings run in processes of their own, which do not
    import the script.

    Args:
        model: folder in Hugging Face format, or hub id.
        data: folder, file or hub id of the data set.
        task: name of the task. If it is not given, it is read off the files of the model, where they name it.
        out: folder for the models and the report, new or empty. The default is ``pruned/<name of the model>`` in the working
            directory.
        resume: continue an earlier call with the same arguments, which was interrupted.
        track: shows progress; by default nothing is shown.
        fields: other fields of ``secateurs.Recipe``, such as ``speedup`` (a number or several), ``sequence_length``,
            ``batch_size`` or ``method``.

    Returns:
        The report; ``report.models`` has one entry per target, and the folder of a model is ``out / model.path``.

    Raises:
        SecateursError: one line that says what is wrong and what to do.
    """
    source = str(model)
    recipe = Recipe.of({**fields, "model": source, "data": str(data), "task": task or task_of_model(source)})
    name = recipe.name or expanded(source).resolve().name
    folder = expanded(out) if out is not None else Path("pruned", name)
    return run(recipe, folder, resume=resume, track=track)
