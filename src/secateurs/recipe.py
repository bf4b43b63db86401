"""``Recipe``: what a run is. The same fields in YAML, on the command line and in Python.

The model, task and data; the method with its hyper-parameters; the targets; the environment in which the speed-up is
measured; recovery. Every field has its default here and nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from secateurs.environment import Environment
from secateurs.errors import RecipeError
from secateurs.target import Sparsity, Speedup, Target

__all__ = ["ColumnNames", "Recipe", "assignments"]


class ColumnNames(BaseModel):
    """Which columns of the data hold what; found by their usual names when left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str | None = Field(None, description="the text, or the first of two; the words; the question")
    text_pair: str | None = Field(None, description="the second text; the context that answers the question")
    label: str | None = Field(None, description="class, class name or score; the tags of the words; the answers")


class Recipe(BaseModel):
    """A whole run.

    >>> Recipe(model="m", task="text-classification", data="d", speedup=[3, 2]).speedup
    (2.0, 3.0)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="a Hugging Face folder, or a hub id")
    name: str | None = Field(None, description="what reports call the model; default: the last part of ``model``")
    task: str = Field(
        description="text-classification, token-classification, question-answering, embedding or causal-lm"
    )
    data: str = Field(description="a folder or file (parquet, csv, jsonl, txt), or a hub id")
    columns: ColumnNames = Field(default_factory=lambda: ColumnNames.model_validate({}))

    method: str = Field(
        "ziplm",
        description="ziplm, cofi, flop, or a baseline: magnitude, random, uniform, agp, agp-unstructured, fac, np",
    )
    preset: str = Field("default", description="of the method; paper: the choices of the paper throughout")
    hyperparameters: dict[str, Any] = Field(default_factory=dict, description="fields of the method to override")

    speedup: tuple[float, ...] = Field((), description="targets, dense ms / pruned ms")
    sparsity: tuple[float, ...] = Field((), description="targets in place of speed-ups: removed part of what can go")
    tolerance: float = Field(0.05, gt=0, description="a result may be at most this much faster than asked")

    batch_size: int = Field(32, ge=1, description="sequences a forward pass, where the speed-up is measured")
    sequence_length: int = Field(
        128, ge=1, description="tokens a sequence; longer texts are cut, contexts and running text divided"
    )
    device: str = Field("cpu", description="cpu, cuda or cuda:N")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = Field(0, ge=0, description="CPU threads; 0 = what torch would take")
    clock: Literal["wall", "cpu"] = Field("wall", description="cpu: process time, true on a busy machine with 1 thread")
    runtime: str = "torch"
    latency_table: str | None = Field(None, description="a table measured elsewhere, instead of measuring here")

    calibration_samples: int = Field(1024, ge=1, le=1_000_000, description="texts for the Hessians and the search")
    evaluation_samples: int | None = Field(None, ge=1, description="evaluate on at most this many; default all")
    recover_epochs: float | None = Field(
        None, ge=0, description="epochs of distillation after shrinking; default: the method's, for ziplm 0 (one-shot)"
    )
    learning_rate: float | None = Field(
        None, gt=0, description="peak, linear to 0, for recovery; default: the method's, for ziplm 5e-5"
    )
    train_batch_size: int = Field(32, ge=1, description="rows that a process trains on at once")
    accumulate: int = Field(1, ge=1, description="so many batches to one step of the optimiser")
    trackers: tuple[str, ...] = Field((), description="that follow the training: tensorboard, wandb, mlflow, ...")
    seed: int = 0
    trust_remote_code: bool = Field(False, description="run code that lies beside the weights of the model")

    @field_validator("speedup", "sparsity", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) else value

    @field_validator("trackers", mode="before")
    @classmethod
    def _one_tracker(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("speedup")
    @classmethod
    def _targets(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        for target in value:
            if not target > 1:
                raise ValueError(f"a speed-up of {target:g} asks for nothing; give a number greater than 1")
        folders = {Speedup(target).folder for target in set(value)}
        if len(folders) < len(set(value)):
            raise ValueError("two targets share a folder name; let them differ by at least 0.01")
        return tuple(sorted(set(value)))

    @field_validator("sparsity")
    @classmethod
    def _fractions(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        for target in value:
            if not 0 < target < 1:
                raise ValueError(f"a sparsity of {target:g} is no part to remove; give a number between 0 and 1")
        if len({Sparsity(target).folder for target in set(value)}) < len(set(value)):
            raise ValueError("two targets share a folder name; let them differ by at least 0.01")
        return tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _one_kind_of_target(self) -> Recipe:
        if bool(self.speedup) == bool(self.sparsity):
            both = (
                "give speed-ups or sparsities, not both" if self.speedup else "give at least one speed-up (or sparsity)"
            )
            raise ValueError(both)
        return self

    @model_validator(mode="after")
    def _clock_fits(self) -> Recipe:
        if self.clock == "cpu" and self.device != "cpu":
            raise ValueError("clock cpu counts processor time; on a GPU use clock wall")
        return self

    @classmethod
    def of(cls, values: dict[str, Any]) -> Recipe:
        """Validate.

        Raises:
            RecipeError: one line with every field that is wrong.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            wrong = "; ".join(_explain(problem, cls) for problem in error.errors())
            raise RecipeError(f"the recipe is not valid: {wrong}") from None

    @classmethod
    def load(cls, path: str | Path, **changes: Any) -> Recipe:
        """Read YAML; keyword arguments win over the file.

        Raises:
            RecipeError: the file is missing, is no YAML mapping, or a field is wrong.
        """
        try:
            values = yaml.safe_load(Path(path).read_text())
        except FileNotFoundError:
            raise RecipeError(f"no recipe at {path}") from None
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            raise RecipeError(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict):
            raise RecipeError(f"{path} holds {type(values).__name__}, not a mapping of recipe fields")
        for name in ("columns", "hyperparameters"):  # single entries win, not whole mappings
            if isinstance(values.get(name), dict) and isinstance(changes.get(name), dict):
                changes[name] = {**values[name], **changes[name]}
        return cls.of({**values, **changes})

    def to_yaml(self) -> str:
        """What ``load`` reads: the fields that differ from their defaults."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_defaults=True)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Ascending, all of one kind."""
        return (*(Speedup(value) for value in self.speedup), *(Sparsity(value) for value in self.sparsity))

    @property
    def environment(self) -> Environment:
        """Where the speed-up must hold."""
        import torch

        return Environment(
            device=self.device,
            dtype=self.dtype,
            batch_size=self.batch_size,
            sequence_length=self.sequence_length,
            threads=self.threads or torch.get_num_threads(),
            runtime=self.runtime,
            clock=self.clock,
        )


def _explain(problem: Any, model: type[BaseModel]) -> str:
    """One problem in words: which field, what is wrong, what is allowed."""
    field = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] == "missing":
        return f"{field} is missing"
    if problem["type"] == "extra_forbidden":
        return f"there is no field {field} (fields: {', '.join(model.model_fields)})"
    message = problem["msg"].removeprefix("Value error, ")
    if field == "recipe":  # fields that do not fit each other: the message names them
        return message
    return f"{field}: {message} (given: {problem['input']!r})"


def assignments(pairs: list[str]) -> dict[str, Any]:
    """``["damping=0.1"] -> {"damping": 0.1}``; values are read as YAML.

    Raises:
        RecipeError: a pair has no name and value, or no YAML.
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
