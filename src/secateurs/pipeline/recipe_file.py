"""Read the YAML file of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from secateurs.artifacts import expanded
from secateurs.errors import RecipeError

__all__ = ["read_recipe"]


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The fields in a YAML file.

    Args:
        path: YAML file with a mapping of recipe fields.

    Raises:
        RecipeError: the file is missing, or is not a YAML mapping.
    """
    try:
        values = yaml.safe_load(expanded(path).read_text())
    except FileNotFoundError:
        raise RecipeError(f"no recipe at {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path} holds {type(values).__name__}, not a mapping of recipe fields")
    return values
