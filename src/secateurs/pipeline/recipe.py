"""``Recipe``: the description of a run. YAML files, the command line and Python use the same fields.

A recipe names the model, task and data, the method and its hyperparameters, the targets, the environment in which the
speed-up is measured, and the training after shrinking. Every default stands here and nowhere else.

``secateurs prune`` generates one option per field: the description is the help text, and ``json_schema_extra`` holds hints
for the spelling of the option (``secateurs.cli.recipe_options`` lists them). This module does not import torch, so that the
command line starts quickly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from secateurs.errors import RecipeError
from secateurs.latency.environment import Clock, Environment, Regime, lengths
from secateurs.pipeline.column_names import ColumnNames
from secateurs.pipeline.method_values import without_method_values
from secateurs.pipeline.recipe_file import read_recipe
from secateurs.pipeline.recipe_problems import explain
from secateurs.pipeline.recipe_targets import Auto, as_speedups, check_one_kind, keeps, sparsities, speedups, targets_of
from secateurs.structure.target import Target

__all__ = ["LARGEST_SEED", "Recipe"]

LARGEST_SEED = 2**32 - 1
"""NumPy, whose generator a training seeds too, takes no larger seed."""


class Recipe(BaseModel):
    """Description of a run: every input of ``secateurs.run`` except the folder of the results.

    >>> Recipe(model="m", task="text-classification", data="d", speedup=[3, 2]).speedup
    (2.0, 3.0)
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = Field(
        description="Dense model: a folder in Hugging Face format, or a hub id.", json_schema_extra={"argument": True}
    )
    name: str | None = Field(
        None, description="Name of the model in reports; if it is not given, the last part of its path or id."
    )
    task: str = Field(
        description="Task: text-classification, multi-label-classification, token-classification, question-answering, "
        "embedding, causal-lm, seq2seq or image-classification."
    )
    data: str = Field(
        description="Data set: a folder (also of images by class), a file (parquet, csv, tsv, json, jsonl, txt, conll), or "
        "a hub id (owner/name or owner/name:config)."
    )
    columns: ColumnNames = Field(
        default_factory=lambda: ColumnNames.model_validate({}), description="Names of the data columns."
    )

    method: str = Field(
        "ziplm",
        description="Pruning method: ziplm, cofi, flop, or a baseline: uniform, magnitude, random-units, neuron-pruning, "
        "agp, agp-unstructured, fac.",
    )
    preset: str = Field(
        "default",
        description="Set of hyperparameters of the method: default; paper, as published (ziplm, flop); paper-small, "
        "paper-large or paper-squad, as published (cofi); quick, with a short training (cofi, flop, neuron-pruning).",
    )
    hyperparameters: dict[str, Any] = Field(
        default_factory=dict,
        description="Hyperparameter of the method, as name=value; replaces the value of the preset.",
        json_schema_extra={
            "option": "--set",
            "shortcuts": {
                "allow": "Hyperparameter of ziplm: units (the default) removes heads and neurons; rank may also replace a "
                "weight matrix by a product of two small matrices."
            },
        },
    )

    speedup: tuple[float | Auto, ...] = Field(
        (),
        description="Target speed-up: latency of the dense model / latency of the pruned model, greater than 1. Or auto: "
        "those of 1.25, 1.5, 2, 3, 4, 6 and 8 that can be reached, with the knee of the curve marked in the report.",
    )
    sparsity: tuple[float, ...] = Field(
        (),
        description="Target sparsity, between 0 and 1, instead of a speed-up: fraction of the prunable parameters to "
        "remove. Only for methods that train.",
    )
    keep: tuple[float, ...] = Field(
        (),
        description="Share of the dense model's quality to keep, such as 0.99, instead of a speed-up: the fastest model that "
        "keeps it with 95 % confidence, on texts on which nothing else was chosen, is found and timed. Quality is the "
        "metric, or the agreement with the dense answers where there are no labels. Only for methods that do not train.",
    )
    gradual: bool = Field(
        False,
        description="Prune each speed-up from the finished model of the one before it, the smallest first, and train it on "
        "the outputs of the dense model. Needs recover_epochs or recover_steps. Only for methods that do not train.",
    )
    tolerance: float = Field(
        0.05,
        gt=0,
        description="Accepted excess over the target speed-up while shapes are chosen, as a fraction: with 0.05 a target of "
        "2 accepts 2 to 2.1, or up to 2.5 % above what the contract aims at where processes differ much.",
    )

    minutes: float | None = Field(
        None,
        gt=0,
        description="Wall time of the run, in minutes. Texts, at most calibration_samples, and the training after shrinking "
        "are chosen so that the run ends at about that time.",
    )
    timing_processes: int = Field(
        10,
        ge=3,
        description="Fresh processes that time a finished model; the reported interval is over them.",
    )

    batch_size: int = Field(32, ge=1, description="Sequences per forward pass in timings.")
    sequence_length: int = Field(
        128,
        ge=1,
        description="Tokens per sequence. Longer texts are truncated; the contexts of questions and running text are "
        "divided into windows. Not used for images.",
    )
    regime: Regime = Field(
        "throughput",
        description="What is timed: throughput (a forward pass at the sequence length), or generation (a pass over a prompt, "
        "then steps of one token with the key-value cache; decoders only).",
    )
    prompt_length: int = Field(128, ge=1, description="Tokens of the prompt that is timed in the regime generation.")
    new_tokens: int = Field(
        128,
        ge=1,
        description="Steps that are timed in the regime generation: tokens after the first, which the prompt gives.",
    )
    device: str = Field("cpu", description="Device: cpu, cuda or cuda:N.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Data type of the timed models: float32, bfloat16 or float16."
    )
    threads: int = Field(0, ge=0, description="CPU threads in timings; 0 uses as many as torch does.")
    clock: Clock = Field(
        "wall",
        description="Clock of the timings: wall (elapsed time), or cpu (CPU time of the process, accurate on a busy "
        "machine; needs the device cpu and 1 thread).",
    )
    runtime: str = Field(
        "torch", description="Runtime that executes the timed models: torch, compiled, onnx, openvino or torch-export."
    )
    latency_table: str | None = Field(
        None,
        description="File with a latency table that `secateurs measure --table` wrote, possibly on another machine; if it "
        "is not given, the table is measured here.",
    )
    elsewhere: bool = Field(
        False,
        description="Accept a latency table of another machine or environment: models are pruned for it, and their "
        "speed-ups there are predicted, not measured.",
    )

    calibration_samples: int = Field(
        1024,
        ge=1,
        le=1_000_000,
        description="Number of texts or windows that weights are fitted to (ziplm: Hessians and refit). The texts of a "
        "search and of the reported divergence are read in addition.",
    )
    calibration_batch_size: int | None = Field(
        None,
        ge=1,
        description="Texts per forward pass in calibration, search and evaluation; if it is not given, as many as make "
        "4096 tokens at the sequence length.",
    )
    evaluation_samples: int | None = Field(
        None, ge=1, description="Largest number of samples in the evaluation; if it is not given, all are used."
    )
    metric: str | None = Field(
        None,
        description="Metric, where the task has a choice; seq2seq: perplexity of the references (the default), or rouge, "
        "chrf or bleu of generated texts.",
    )
    max_new_tokens: int = Field(
        128, ge=1, description="Most tokens that are generated per text, for metrics of generated texts."
    )
    recover_epochs: float | None = Field(
        None,
        ge=0,
        description="Epochs of distillation after shrinking; if it is not given, the method decides (ziplm: 0).",
    )
    recover_steps: int | None = Field(
        None, ge=0, description="Optimizer steps of distillation after shrinking, in the place of recover_epochs."
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="Peak learning rate after shrinking, with linear decay to 0; if it is not given, the method decides "
        "(ziplm: 5e-5).",
    )
    train_batch_size: int = Field(32, ge=1, description="Samples per batch in training, in each process.")
    accumulate: int = Field(1, ge=1, description="Batches per optimizer step in training (gradient accumulation).")
    trackers: tuple[str, ...] = Field(
        (),
        description="Experiment tracker of transformers that logs the training: tensorboard, wandb, mlflow, ...",
        json_schema_extra={"option": "--tracker"},
    )
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of all random choices, from 0 to 2**32 - 1.")
    trust_remote_code: bool = Field(
        False, description="Run Python code from the folder or hub repository of the model."
    )

    _read_speedups = field_validator("speedup", mode="before")(as_speedups)

    @field_validator("sparsity", "keep", "trackers", mode="before")
    @classmethod
    def _one_of_several(cls, value: object) -> object:
        return (value,) if isinstance(value, int | float | str) else value

    _check_speedups = field_validator("speedup")(speedups)
    _check_sparsities = field_validator("sparsity")(sparsities)
    _check_keeps = field_validator("keep")(keeps)

    @model_validator(mode="after")
    def _check_fields_together(self) -> Recipe:
        check_one_kind(self.speedup, self.sparsity, self.keep)
        if self.clock == "cpu" and self.device != "cpu":
            raise ValueError("clock cpu counts processor time; on a GPU use clock wall")
        return self

    @classmethod
    def of(cls, values: dict[str, Any]) -> Recipe:
        """Validate fields and make a recipe of them.

        Args:
            values: field name -> value.

        Raises:
            RecipeError: a field is wrong; the message names all wrong fields in one line.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            wrong = "; ".join(explain(problem, cls) for problem in error.errors())
            raise RecipeError(f"the recipe is not valid: {wrong}") from None

    @classmethod
    def load(cls, path: str | Path, **changes: Any) -> Recipe:
        """Read a recipe from a YAML file.

        Args:
            path: YAML file with a mapping of recipe fields.
            changes: fields that replace those of the file. In ``columns`` and ``hyperparameters`` single entries are
                replaced, and the other entries of the file are kept. A file with all hyperparameters of its method (that of
                a run folder) loses them, and the training after shrinking that its method decided, if the method or the
                preset is replaced.

        Raises:
            RecipeError: the file is missing, it is not a YAML mapping, or a field is wrong.
        """
        values = without_method_values(read_recipe(path), changes)
        for name in ("columns", "hyperparameters"):
            if isinstance(values.get(name), dict) and isinstance(changes.get(name), dict):
                changes[name] = {**values[name], **changes[name]}
        return cls.of({**values, **changes})

    def to_yaml(self, *, defaults: bool = False) -> str:
        """YAML text that ``load`` reads.

        Args:
            defaults: write all fields; otherwise those that differ from their defaults.
        """
        values = self.model_dump(mode="json") if defaults else self.to_dict()
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

    def to_dict(self) -> dict[str, Any]:
        """Fields that differ from their defaults, as JSON values."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Targets of the run in ascending order, all of one kind."""
        return targets_of(self.speedup, self.sparsity, self.keep)

    @property
    def environment(self) -> Environment:
        """Environment in which the speed-up is measured."""
        import torch

        return Environment(
            device=self.device,
            dtype=self.dtype,
            batch_size=self.batch_size,
            threads=self.threads or torch.get_num_threads(),
            runtime=self.runtime,
            clock=self.clock,
            **lengths(self.regime, self.sequence_length, self.prompt_length, self.new_tokens),
        )
