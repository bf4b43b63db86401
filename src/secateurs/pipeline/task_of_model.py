"""The task of a model by its files: the class that it was trained with, or its sentence-transformers modules."""

from __future__ import annotations

import json
from typing import Any

from secateurs.artifacts import expanded, is_path
from secateurs.checkpoint.dense_files import model_file
from secateurs.errors import CheckpointError, RecipeError

__all__ = ["task_of_model"]

TASKS = {
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForImageClassification": "image-classification",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
}
"""End of the name of a transformers class -> task. Endings that several tasks share are not here."""


def task_of_model(source: str) -> str:
    """Read the task off ``modules.json`` or the ``architectures`` of ``config.json``. Nothing is guessed.

    Args:
        source: folder, or hub id.

    Raises:
        CheckpointError: there is no such folder.
        RecipeError: the files do not name a task, as those of a base model without a head do not.
    """
    if is_path(source) and not expanded(source).exists():
        raise CheckpointError(f"the model folder {source} does not exist; give a folder or a hub id like owner/name")
    if model_file(source, "modules.json"):
        return "embedding"
    path = model_file(source, "config.json")
    try:
        config = json.loads(path.read_bytes()) if path else {}
    except ValueError:
        config = {}
    classes = config.get("architectures") or []
    tasks = {_task(str(name), config) for name in classes}
    if len(tasks) == 1 and (task := tasks.pop()):
        return task
    stated = f"its class is {', '.join(map(str, classes))}" if classes else "its files name no class"
    raise RecipeError(f'the task of {source} is not known ({stated}); name it, as in task="text-classification"')


def _task(name: str, config: dict[str, Any]) -> str | None:
    """The task of a class; ``None`` for a class that serves several, or none."""
    if name.endswith("ForSequenceClassification"):
        several = config.get("problem_type") == "multi_label_classification"
        return "multi-label-classification" if several else "text-classification"
    if config.get("is_encoder_decoder") and name.endswith(("ForConditionalGeneration", "MTModel")):
        return "seq2seq"
    return next((task for ending, task in TASKS.items() if name.endswith(ending)), None)
