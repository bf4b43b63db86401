"""Options of ``secateurs prune``, generated from the fields of ``Recipe``.

Each field becomes one option: the name of the field with dashes, its description and default as help text. The values are
checked by ``Recipe``. A bool becomes a flag, a tuple an option that may be given several times, a mapping an option
``name=value``, and a nested model one option per field of it. ``json_schema_extra`` of a field may hold hints:

- ``argument``: the field is a positional argument (``True``);
- ``option``: the spelling of the option, where it differs from the name of the field;
- ``shortcuts``: for a mapping, key -> help text. Each key becomes an option of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import GenericAlias, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import typer
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from secateurs.errors import RecipeError
from secateurs.pipeline.recipe import Recipe

__all__ = ["RecipeOption", "recipe_options", "recipe_values", "with_recipe_options"]

PANEL = "Recipe (these options replace fields of --config)"
"""Heading of the generated options in the help."""


@dataclass(frozen=True)
class RecipeOption:
    """One option, or argument, of ``secateurs prune``.

    Args:
        path: place of the value in the recipe, such as ``("columns", "text")``.
        kind: Python type that typer converts the text to.
        is_mapping: the text is ``name=value``.
        info: spelling and help text, as typer takes them.
    """

    path: tuple[str, ...]
    kind: type | GenericAlias
    is_mapping: bool
    info: Any  # typer.Option() and typer.Argument() are annotated to return Any

    @property
    def name(self) -> str:
        """Name of the parameter of the command."""
        return "_".join(self.path)

    @property
    def parameter(self) -> inspect.Parameter:
        """Parameter of the command; ``None`` means that the option was not given."""
        annotation = self.kind | None
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=self.info, annotation=annotation)


def recipe_options(model: type[BaseModel] = Recipe, path: tuple[str, ...] = ()) -> list[RecipeOption]:
    """Options for all fields of a pydantic model, in the order of the fields.

    Args:
        model: the model.
        path: place of the model in the recipe, if it is nested.
    """
    options = []
    for name, field in model.model_fields.items():
        kind = _without_none(field.annotation)
        hints = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            options += recipe_options(kind, (*path, name))
            continue
        options.append(_option(field, kind, hints, (*path, name)))
        shortcuts = hints.get("shortcuts")
        for key, text in shortcuts.items() if isinstance(shortcuts, dict) else ():
            info = typer.Option(None, _spelling(key), help=str(text), show_default=False, rich_help_panel=PANEL)
            options.append(RecipeOption((*path, name, key), str, False, info))
    return options


def with_recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the ``**options`` in the signature of a command by one parameter per recipe option.

    Args:
        command: function that takes ``**options``; its other parameters stay.

    Returns:
        The same function.
    """
    own = [
        parameter
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    generated = [option.parameter for option in recipe_options()]
    command.__signature__ = inspect.Signature([*generated, *own])  # pyright: ignore[reportFunctionMemberAccess]
    return command


def recipe_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Recipe fields that were given on the command line.

    Args:
        given: name of an option's parameter -> value; ``None`` or an empty sequence if the option was not given.

    Returns:
        Field of ``Recipe`` -> value, with nested mappings for nested fields.

    Raises:
        RecipeError: a ``name=value`` option is malformed.
    """
    values: dict[str, Any] = {}
    for option in recipe_options():
        value = given[option.name]
        if value is None or value in ([], ()):
            continue
        place = values
        for part in option.path[:-1]:
            place = place.setdefault(part, {})
        place[option.path[-1]] = _assignments(value) if option.is_mapping else value
    return values


def _option(field: FieldInfo, kind: Any, hints: Mapping[str, Any], path: tuple[str, ...]) -> RecipeOption:
    """Option for one field that is not a nested model."""
    spelling = hints.get("option", _spelling(path[-1]))
    settings: dict[str, Any] = {}
    origin = get_origin(kind) or kind
    sentences = [field.description or ""]
    if origin in (tuple, dict):
        several = get_args(kind)[0]
        if get_origin(several) in (Union, UnionType):  # numbers, or a word in their place
            settings["parser"], several = _number_or_word, str
        kind = GenericAlias(list, (several,))  # of a mapping: the names, which are texts as name=value is
        sentences.append("May be given several times.")
    elif origin is Literal:
        kind = str  # the recipe checks the value, so that the error message is the same as for a file
    elif origin is bool:
        spelling = f"{spelling}/--no-{spelling.removeprefix('--')}"
    sentences += _default(field)
    settings |= {"help": " ".join(sentences), "show_default": False}
    if hints.get("argument"):
        info = typer.Argument(None, **settings)
    else:
        info = typer.Option(None, spelling, **settings, rich_help_panel=PANEL)
    return RecipeOption(path, kind, origin is dict, info)


def _default(field: FieldInfo) -> list[str]:
    """Sentence about the default. There is none if no value is the default: the description then says what happens."""
    default = field.get_default(call_default_factory=True, validated_data={})
    if field.is_required() or default is None or default in ((), {}):
        return []
    if isinstance(default, bool):
        default = "on" if default else "off"
    return [f"Default: {default}."]


def _spelling(name: str) -> str:
    return "--" + name.replace("_", "-")


def _number_or_word(text: str) -> float | str:
    """A number, or the text itself, which the recipe checks."""
    try:
        return float(text)
    except ValueError:
        return text


def _without_none(annotation: Any) -> Any:
    """``T`` for ``T | None``."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    [kind] = [part for part in get_args(annotation) if part is not type(None)]
    return kind


def _assignments(pairs: Sequence[str]) -> dict[str, Any]:
    """``["damping=0.1"] -> {"damping": 0.1}``; dashes in names become underscores, and values are read as YAML.

    Raises:
        RecipeError: a pair has no ``=``, or its value is not YAML.
    """
    values = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise RecipeError(f"--set takes name=value, not {pair!r}")
        try:
            values[name.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise RecipeError(f"--set {pair}: the value is not readable as YAML") from None
    return values
