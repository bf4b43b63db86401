"""``ColumnNames``: the part of a recipe that names the columns of the data."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ColumnNames"]


class ColumnNames(BaseModel):
    """Names of the data columns. A column that is not named is found by its usual names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str | None = Field(
        None,
        description="Column with the text, the first text of a pair, the list of words, the question, or the image.",
        json_schema_extra={"option": "--text-column"},
    )
    text_pair: str | None = Field(
        None,
        description="Column with the second text of a pair, or the context that contains the answer.",
        json_schema_extra={"option": "--text-pair-column"},
    )
    label: str | None = Field(
        None,
        description="Column with the class, the similarity score, the list of tags, or the answers; none ignores all labels.",
        json_schema_extra={"option": "--label-column"},
    )
    classes: Literal["name", "number"] | None = Field(
        None,
        description="How classes of the data are matched with classes of the model: name or number. If it is not given, "
        "names decide where there are any, and what would have to be guessed is refused.",
        json_schema_extra={"option": "--classes"},
    )
