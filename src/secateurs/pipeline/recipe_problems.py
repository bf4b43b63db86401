"""What pydantic finds wrong in a recipe, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

__all__ = ["explain"]


def explain(problem: Mapping[str, Any], model: type[BaseModel]) -> str:
    """The field, what is wrong with it, and what is allowed.

    Args:
        problem: one of the errors of a ``ValidationError``.
        model: the model that was validated.
    """
    field = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] == "missing":
        return f"{field} is missing"
    if problem["type"] == "extra_forbidden":
        return f"there is no field {field} (fields: {', '.join(model.model_fields)})"
    message = problem["msg"].removeprefix("Value error, ")
    if field == "recipe":  # the problem is a combination of fields, which the message names
        return message
    return f"{field}: {message} (given: {problem['input']!r})"
