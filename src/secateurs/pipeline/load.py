"""``load``: everything that a recipe names, read and checked before any work is done."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateurs.checkpoint.dense_files import stored_pad_token_id
from secateurs.checkpoint.stored_dtype import stored_dtype
from secateurs.context import PruneContext
from secateurs.errors import RecipeError
from secateurs.latency.environment import Environment
from secateurs.latency.runtimes import runtime_for
from secateurs.latency.timer import timer_for
from secateurs.latency.workload import check
from secateurs.methods import method as find_method
from secateurs.methods.base import Finetuning, Method
from secateurs.pipeline.check_recipe import check_recipe, finetuning
from secateurs.pipeline.recipe import Recipe
from secateurs.progress import Track, silent
from secateurs.structure.structure import Structure
from secateurs.surgery.shared_copy import shared_copy
from secateurs.tasks import task as find_task
from secateurs.tasks.base import Columns, Task, TaskData
from secateurs.training.trackers import check_trackers

__all__ = ["Loaded", "load", "with_texts"]

REPORT_TEXTS = 256
"""Texts on which the reported divergence is taken."""

TOKENS_PER_BATCH = 4096
"""Tokens of a calibration batch, where the recipe does not give the number of its texts."""


@dataclass(frozen=True)
class Loaded:
    """Everything that a recipe names, in memory.

    Args:
        recipe: the recipe.
        task: the task, bound to the model.
        method: the method with its hyper-parameters.
        dense: the dense model, float32, in evaluation mode.
        model: the model that the method prunes: the dense one, or what ``Method.prepare_model`` made of it.
        tokenizer: tokenizer of the model.
        data: texts of every role, evaluation and training data.
        structure: what the method may remove.
        environment: where the speed-up must hold.
        finetuning: training after shrinking, by the recipe or else by the method.
        dtype: dtype in which the dense model is stored, and the pruned models are saved.
        pad_token_id: padding token in the config of the dense model; ``None`` if it names none.
    """

    recipe: Recipe
    task: Task
    method: Method
    dense: Any
    model: nn.Module
    tokenizer: Any
    data: TaskData
    structure: Structure
    environment: Environment
    finetuning: Finetuning
    dtype: torch.dtype = torch.float32
    pad_token_id: int | None = None

    def teacher(self) -> Any:
        """The dense model, safe from what the method does to the live one.

        Training writes into the tensors of the live model. A method without training swaps them for others. A gradual run
        prunes copies.
        """
        if self.dense is not self.model or self.recipe.gradual:
            return self.dense
        return copy.deepcopy(self.dense) if self.method.trains else shared_copy(self.dense)

    @property
    def trains(self) -> bool:
        """Whether any weights are trained; ``minutes`` trains wherever there are rows to train on."""
        fills = self.recipe.minutes is not None and self.data.train is not None
        return self.method.trains or bool(self.finetuning) or fills

    def context(self, folder: Path, track: Track = silent) -> PruneContext:
        """What the method is given.

        Args:
            folder: folder of its artifacts.
            track: shows progress.
        """
        return PruneContext(
            model=self.model,
            structure=self.structure,
            fit=self.data.roles.fit.batches,
            task=self.task,
            folder=folder,
            seed=self.recipe.seed,
            device=torch.device(self.recipe.device),
            track=track,
            train=self.data.train,
            collate=self.data.collate,
            train_batch_size=self.recipe.train_batch_size,
            accumulate=self.recipe.accumulate,
            trackers=self.recipe.trackers,
            search=self.data.roles.search.batches,
            accept=self.data.roles.accept.batches,
        )


def load(recipe: Recipe) -> Loaded:
    """Read model and data, and refuse what cannot work.

    Raises:
        SecateursError: one line that says what is missing or does not fit.
    """
    check_recipe(recipe)
    task = find_task(recipe.task.replace("-", "_"))
    task.check_metric(recipe.metric)
    method = find_method(recipe.method.replace("-", "_"), recipe.preset, **recipe.hyperparameters)
    training = finetuning(recipe, method)
    if recipe.trackers:
        check_trackers(recipe.trackers)
    environment = recipe.environment
    check(environment)
    timer_for(environment)
    runtime_for(environment)
    dense, tokenizer = task.load(
        recipe.model, dtype=torch.float32, device=recipe.device, trust_remote_code=recipe.trust_remote_code
    )
    check(environment, dense)
    model = method.prepare_model(dense)
    structure = method.structure(model)
    if recipe.gradual and structure.low_rank_options:
        raise RecipeError(
            "gradual removes heads and neurons, and allow=rank may replace their matrices, whose time is that of both: "
            "leave out one of them"
        )
    data = _read(recipe, task, method, dense, tokenizer, recipe.calibration_samples)
    if (training or method.trains) and data.train is None:
        what = f"the method {recipe.method}" if method.trains else "recovery"
        raise RecipeError(
            f"{what} needs a training split, and {recipe.data} has none (rows: {data.description}); "
            f"give data with one, or use {'--method ziplm' if method.trains else '--recover-epochs 0'}"
        )
    dtype = stored_dtype(recipe.model, subfolder=task.subfolder)
    pad = stored_pad_token_id(recipe.model, subfolder=task.subfolder, trust_remote_code=recipe.trust_remote_code)
    loaded = Loaded(recipe, task, method, dense, model, tokenizer, data, structure, environment, training, dtype, pad)
    method.check(loaded.context(Path()))
    return loaded


def with_texts(loaded: Loaded, samples: int) -> Loaded:
    """The same with fewer texts to fit and search, as if ``calibration_samples`` had been that number.

    Args:
        loaded: everything that the recipe names.
        samples: number of texts to fit.
    """
    data = _read(loaded.recipe, loaded.task, loaded.method, loaded.dense, loaded.tokenizer, samples)
    return replace(loaded, data=data)


def _read(recipe: Recipe, task: Task, method: Method, dense: Any, tokenizer: Any, samples: int) -> TaskData:
    """Read the data, and draw the texts of every role."""
    sizes = replace(method.role_sizes(samples), report=REPORT_TEXTS)
    if recipe.keep:
        sizes = replace(sizes, choose=task.texts_to_choose, report=task.texts_to_report)
    return task.read(
        recipe.data,
        dense,
        tokenizer,
        columns=Columns(**recipe.columns.model_dump()),
        batch_size=recipe.calibration_batch_size or max(1, TOKENS_PER_BATCH // recipe.sequence_length),
        sequence_length=recipe.sequence_length,
        roles=sizes,
        seed=recipe.seed,
        evaluation_samples=recipe.evaluation_samples,
        metric=recipe.metric,
        max_new_tokens=recipe.max_new_tokens,
    )
