"""Text to copy, shared by the page and the card: the code that loads a model, and the recipe as YAML."""

from __future__ import annotations

import json
from typing import Any

import yaml

from secateurs.report.values import RunResult

__all__ = ["loading_code", "recipe_yaml"]


def loading_code(
    report: RunResult, path: str, *, remote_code: bool = False, plain: bool = False, library: str | None = None
) -> str:
    """The Python code that loads one pruned model.

    Args:
        report: the run.
        path: folder of the model, as written in the code.
        remote_code: load with the code in the folder of the model, for machines without Secateurs.
        plain: the folder needs no code but that of transformers.
        library: name of the library that the model is made for; ``None`` = sentence-transformers for embedding models.

    Returns:
        Two or three lines of Python.
    """
    with_hooks = not (remote_code or plain)
    first = "import secateurs  # registers the pruned shapes with transformers\n" if with_hooks else ""
    arguments = json.dumps(path, ensure_ascii=False) + (", trust_remote_code=True" if remote_code else "")
    if report.pipeline_tag == "sentence-similarity":
        return f"{first}from sentence_transformers import SentenceTransformer\nmodel = SentenceTransformer({arguments})"
    if library == "sentence-transformers" and report.pipeline_tag == "text-classification":
        return f"{first}from sentence_transformers import CrossEncoder\nmodel = CrossEncoder({arguments})"
    cls = report.auto_class
    return f"{first}from transformers import {cls}\nmodel = {cls}.from_pretrained({arguments})"


def recipe_yaml(report: RunResult) -> str:
    """The recipe of the run as a YAML file that can be run again."""
    return yaml.safe_dump(_plain(report.recipe), sort_keys=False, allow_unicode=True, width=100)


def _plain(value: Any) -> Any:
    """Convert to the types of YAML: tuples to lists, paths and enumerations to strings."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if value is None or type(value) in {bool, int, float, str} else str(value)
