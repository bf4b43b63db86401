"""The one training loop: ``transformers.Trainer``, which minimises an ``Objective``.

The Trainer does data loading, gradient accumulation, mixed precision, several processes, checkpoints and the resumption of
killed runs. The ``Objective`` supplies everything in which trainings differ.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

from secateurs.distributed import first
from secateurs.errors import RecipeError, SecateursError
from secateurs.progress import Track, silent
from secateurs.training.checkpoints import last_complete_checkpoint, without_shared_tensors, writing_checkpoint
from secateurs.training.elastic import ElasticSteps
from secateurs.training.objective import CONSTANT_RATE, Objective
from secateurs.training.optimizer import build_optimizer
from secateurs.training.schedules import noam
from secateurs.training.trackers import LOGGING_STEPS, logging_to

__all__ = ["Training", "train"]


@dataclass(frozen=True)
class Training:
    """Length and settings of a training.

    Args:
        epochs: passes over the training split; unused if ``steps`` is set.
        steps: optimiser steps of the full training; 0 = ``epochs`` decides.
        learning_rate: peak learning rate of AdamW.
        batch_size: rows per batch, in each process.
        accumulate: batches per optimiser step.
        warmup: linear warm-up, as a fraction of all steps.
        schedule: learning rate after the warm-up: ``linear`` decays to 0 at the end, ``noam`` decays as
            ``1 / sqrt(step)``.
        clip: largest common norm of the clipped gradients; larger gradients are scaled down to it.
        bf16: train under bfloat16 autocast.
        checkpoint_steps: optimiser steps between two checkpoints, from which a killed run resumes; 0 = no checkpoints.
        trackers: names of transformers' integrations that log the loss and the learning rate.
        logs: folder for trackers that write files; ``None`` = beside the checkpoints.
        elastic: corrects the number of steps to a time, in one process; ``None`` = the length is fixed.
    """

    epochs: float
    steps: int = 0
    learning_rate: float = 5e-5
    batch_size: int = 32
    accumulate: int = 1
    warmup: float = 0.05
    schedule: Literal["linear", "noam"] = "linear"
    clip: float = 1.0
    bf16: bool = False
    checkpoint_steps: int = 500
    trackers: tuple[str, ...] = ()
    logs: Path | None = None
    elastic: ElasticSteps | None = None


def train(
    model: nn.Module,
    objective: Objective,
    data: Any,
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
    settings: Training,
    folder: Path,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    track: Track = silent,
) -> dict[str, float]:
    """Train ``objective.trained_module(model)`` in place, and leave it in evaluation mode.

    Args:
        model: the model, on ``device``.
        objective: the loss, and how it is optimised.
        data: training rows: a dataset or a sequence of dicts; ``None`` = the data has no training split.
        collate: turns rows into a batch.
        settings: length and settings of the training.
        folder: folder of the checkpoints; a killed run continues from the last complete one.
        seed: seed of the order of the rows.
        device: device of the model.
        track: shows progress.

    Returns:
        ``steps``: optimiser steps done; ``loss``: mean training loss.

    Raises:
        RecipeError: there is no training data.
        CheckpointError: a checkpoint cannot be written.
        SecateursError: the loss became NaN or infinite.
    """
    if data is None or len(data) == 0:
        raise RecipeError(f"{objective.name} needs a training split; the data has none")
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    # Texts of similar lengths need less padding. Images have one size, and to ask each for its length would decode it.
    of_texts = getattr(model, "main_input_name", "input_ids") == "input_ids"
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        max_steps=settings.elastic.most if settings.elastic else settings.steps or -1,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulate,
        train_sampling_strategy="group_by_length" if of_texts else "random",
        warmup_steps=settings.warmup,
        weight_decay=0.0,
        lr_scheduler_type="linear",
        bf16=settings.bf16,
        max_grad_norm=settings.clip,
        seed=seed,
        data_seed=seed,
        logging_strategy="steps" if settings.trackers else "no",
        logging_steps=LOGGING_STEPS,
        save_strategy="steps" if settings.checkpoint_steps else "no",
        save_steps=settings.checkpoint_steps or 500,
        save_total_limit=1,
        report_to=list(settings.trackers),
        run_name=f"{folder.parent.name} {objective.name}",
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=torch.device(device).type == "cpu",
        dataloader_pin_memory=False,
        label_names=["labels"],
    )
    trained = objective.trained_module(model).train()
    try:
        with logging_to(settings.logs):
            trainer = _ObjectiveTrainer(
                objective,
                model=trained,
                args=arguments,
                train_dataset=data,
                data_collator=collate,
                callbacks=[_StepCallback(objective, track, settings.elastic)],
                schedule=settings.schedule,
                elastic=settings.elastic,
            )
        trainer.remove_callback(PrinterCallback)  # a library must not print
        result = trainer.train(resume_from_checkpoint=first(lambda: last_complete_checkpoint(folder)))
    finally:
        transformers_logging.set_verbosity(verbosity)
        trained.eval()
    return {"steps": float(result.global_step), "loss": float(result.training_loss)}


class _ObjectiveTrainer(Trainer):
    """``Trainer`` that minimises an ``Objective`` instead of the model's own loss.

    Args:
        objective: the loss, and how it is optimised.
        schedule: see ``Training.schedule``.
        elastic: see ``Training.elastic``.
        **options: arguments of ``Trainer``.
    """

    def __init__(self, objective: Objective, schedule: str, elastic: ElasticSteps | None, **options: Any) -> None:
        super().__init__(**options)
        self.objective, self.schedule, self.elastic = objective, schedule, elastic
        # Otherwise the Trainer rescales the loss by the number of tokens, which only fits losses summed by the model.
        self.model_accepts_loss_kwargs = False

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            assert self.model is not None
            self.optimizer = build_optimizer(self.objective.parameter_groups(self.model), self.args.learning_rate)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if self.elastic is not None:
            num_training_steps = self.elastic.planned
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
            if self.schedule == "noam":
                warmup = self.args.get_warmup_steps(num_training_steps)
                scheduler.lr_lambdas = [functools.partial(noam, warmup=warmup)] * len(scheduler.lr_lambdas)
            scheduler.lr_lambdas = [
                _constant if group.get(CONSTANT_RATE) else _at(schedule, self.elastic)
                for group, schedule in zip(scheduler.optimizer.param_groups, scheduler.lr_lambdas, strict=True)
            ]
        return scheduler

    def _clip_grad_norm(self, model: nn.Module) -> Tensor | float | None:
        return self.accelerator.clip_grad_norm_(self.objective.clipped_parameters(model), self.args.max_grad_norm)

    def _get_train_sampler(self, *given: Any, **named: Any) -> Sampler[int]:
        return _EpochOrder(super()._get_train_sampler(*given, **named), self)

    def _save_checkpoint(self, *given: Any, **named: Any) -> None:
        assert self.args.output_dir is not None
        with writing_checkpoint(Path(self.args.output_dir), self.objective.name):
            super()._save_checkpoint(*given, **named)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.model is not None and not isinstance(self.model, PreTrainedModel):
            state_dict = without_shared_tensors(self.model.state_dict() if state_dict is None else state_dict)
        super()._save(output_dir, state_dict)

    def log(self, logs: dict[str, float], *given: Any, **named: Any) -> None:
        super().log({**logs, **self.objective.logged_values()}, *given, **named)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        loss = self.objective.loss(model, inputs, self.state.global_step)
        if not math.isfinite(loss.item()):
            raise SecateursError(
                f"the loss became {loss.item()} at step {self.state.global_step} of {self.objective.name}; "
                "lower --learning-rate, or train in float32"
            )
        return (loss, None) if return_outputs else loss


class _EpochOrder(Sampler[int]):
    """Order of the rows of an epoch, drawn from the seed and the epoch alone: a run resumed within an epoch continues in it.

    Args:
        sampler: the Trainer's sampler, which groups rows by length and draws from its ``generator``.
        trainer: the Trainer, for its seed and epoch.
    """

    def __init__(self, sampler: Any, trainer: Trainer) -> None:
        self.sampler, self.trainer = sampler, trainer

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        epoch = int((self.trainer.state.epoch or 0) + 1e-6)  # fractional: 2.5 in the middle of the third epoch
        self.sampler.generator = torch.Generator().manual_seed(self.trainer.args.seed * 1_000_003 + epoch)
        return iter(self.sampler)


class _StepCallback(TrainerCallback):
    """Calls ``Objective.after_step`` after every optimiser step, and advances the progress bar.

    Args:
        objective: the objective of the training.
        track: shows progress.
        elastic: see ``Training.elastic``.
    """

    def __init__(self, objective: Objective, track: Track, elastic: ElasticSteps | None) -> None:
        self.objective, self.track, self.elastic = objective, track, elastic
        self.ticks: Iterator[int] = iter(())

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        if self.elastic is not None:
            self.elastic.begin(state.global_step)
        left = (self.elastic.end if self.elastic else state.max_steps) - state.global_step
        self.ticks = iter(self.track(range(left), self.objective.name, total=left))
        next(self.ticks, None)  # an item is taken when its step begins

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        self.objective.after_step(given["model"], state.global_step, state.max_steps)
        if self.elastic is not None and self.elastic.after_step(state.global_step):
            control.should_training_stop = True
        next(self.ticks, None)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        for _ in self.ticks:
            pass


def _at(schedule: Callable[[int], float], elastic: ElasticSteps | None) -> Callable[[int], float]:
    """The schedule at the virtual step of an elastic training."""
    return schedule if elastic is None else lambda step: schedule(round(elastic.virtual(step)))


def _constant(step: int) -> float:
    """The factor of a constant learning rate."""
    return 1.0
