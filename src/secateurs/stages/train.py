"""The one training loop: ``transformers.Trainer``, with whatever is to be minimised.

What differs is the ``Objective``. Data loading, accumulation, mixed precision, several processes, checkpoints and taking
up a killed run are the Trainer's.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

from secateurs.errors import CheckpointError, RecipeError, SecateursError
from secateurs.numerics.noam import noam
from secateurs.objective import OWN_RATE, Objective
from secateurs.optimizer import build_optimizer
from secateurs.processes import first
from secateurs.trackers import EVERY, logging_to

__all__ = ["Training", "train"]

logger = logging.getLogger(__name__)

FULL = 1 << 20
"""Bytes; a disk with less to spare has none for a checkpoint."""


@dataclass(frozen=True)
class Training:
    """How long and how to train.

    Args:
        epochs: passes over the training split.
        steps: so many steps of the optimiser in place of the epochs; 0 = epochs count.
        learning_rate: peak of AdamW.
        batch_size: rows at once, in each process.
        accumulate: so many batches to a step.
        warmup: fraction of the steps.
        schedule: of the learning rate after the warm-up: ``linear`` to 0, or ``noam``: with the root of the step.
        clip: norm that the clipped gradients are scaled down to.
        bf16: train in bf16 autocast.
        checkpoint_steps: steps between checkpoints a killed run can be taken up from; 0 = none.
        trackers: names of transformers' integrations that are told loss and rates.
        logs: where trackers that write files put them; ``None`` = beside the checkpoints.
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


def train(
    model: nn.Module,
    objective: Objective,
    data: Any,
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
    how: Training,
    folder: Path,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    track: Callable[..., Iterable[Any]] = lambda items, title, total=None: items,
) -> dict[str, float]:
    """Train ``model`` in place (or what its objective puts around it), and leave it in evaluation mode.

    Args:
        model: on ``device``.
        objective: what is minimised.
        data: rows for the trainer.
        collate: rows -> batch.
        how: see ``Training``.
        folder: for checkpoints; a run killed while it trains goes on from the last of them.
        track: shows progress.

    Returns:
        ``steps`` and the mean training ``loss``.

    Raises:
        RecipeError: there is no training data.
        CheckpointError: a checkpoint cannot be written.
        SecateursError: the loss became NaN.
    """
    if data is None or len(data) == 0:
        raise RecipeError(f"{objective.name} needs a training split; the data has none")
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=how.epochs,
        max_steps=how.steps or -1,
        learning_rate=how.learning_rate,
        per_device_train_batch_size=how.batch_size,
        gradient_accumulation_steps=how.accumulate,
        train_sampling_strategy="group_by_length",  # short texts do not wait for long ones
        warmup_steps=how.warmup,
        weight_decay=0.0,
        lr_scheduler_type="linear",
        bf16=how.bf16,
        max_grad_norm=how.clip,
        seed=seed,
        data_seed=seed,
        logging_strategy="steps" if how.trackers else "no",
        logging_steps=EVERY,
        save_strategy="steps" if how.checkpoint_steps else "no",
        save_steps=how.checkpoint_steps or 500,
        save_total_limit=1,
        report_to=list(how.trackers),
        run_name=f"{folder.parent.name} {objective.name}",
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=torch.device(device).type == "cpu",
        dataloader_pin_memory=False,
        label_names=["labels"],
    )
    learner = objective.learner(model).train()
    try:
        with logging_to(how.logs):
            trainer = _Minimiser(
                objective,
                model=learner,
                args=arguments,
                train_dataset=data,
                data_collator=collate,
                callbacks=[_AfterStep(objective, track)],
                schedule=how.schedule,
            )
        trainer.remove_callback(PrinterCallback)  # a library does not print
        result = trainer.train(resume_from_checkpoint=first(lambda: _last_whole_checkpoint(folder)))
    finally:
        transformers_logging.set_verbosity(verbosity)
        learner.eval()
    return {"steps": float(result.global_step), "loss": float(result.training_loss)}


@contextmanager
def _writing(folder: Path, what: str) -> Iterator[None]:
    """A checkpoint that cannot be written is the user's to know of, whatever the libraries that write it raise."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch says of a full disk that a position is wrong
        full = shutil.disk_usage(folder).free < FULL if folder.is_dir() else False
        reason = "no space is left" if full else getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise CheckpointError(
            f"{what} could not write a checkpoint under {folder}: {reason}; free some space, then use --resume"
        ) from error


def _last_whole_checkpoint(folder: Path) -> str | None:
    """The last checkpoint that was written to its end; what a kill left of a later one is removed."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    for path in sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text())  # the Trainer writes it last
        except (OSError, ValueError):
            shutil.rmtree(path)
        else:
            return str(path)
    return None


class _Minimiser(Trainer):
    """``Trainer`` with an objective in place of the model's own loss; the loop is not ours."""

    def __init__(self, objective: Objective, schedule: str, **options: Any) -> None:
        super().__init__(**options)
        self.objective, self.schedule = objective, schedule
        # Without this Trainer rescales the loss by tokens, which only fits losses summed by the model itself.
        self.model_accepts_loss_kwargs = False

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            assert self.model is not None
            self.optimizer = build_optimizer(self.objective.groups(self.model), self.args.learning_rate)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
            if self.schedule == "noam":
                warmup = self.args.get_warmup_steps(num_training_steps)
                scheduler.lr_lambdas = [functools.partial(noam, warmup=warmup)] * len(scheduler.lr_lambdas)
            scheduler.lr_lambdas = [
                _unchanged if group.get(OWN_RATE) else schedule
                for group, schedule in zip(scheduler.optimizer.param_groups, scheduler.lr_lambdas, strict=True)
            ]
        return scheduler

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        return self.accelerator.clip_grad_norm_(self.objective.clipped(model), self.args.max_grad_norm)

    def _get_train_sampler(self, *given: Any, **named: Any) -> Sampler[int]:
        return _Order(super()._get_train_sampler(*given, **named), self)

    def _save_checkpoint(self, *given: Any, **named: Any) -> None:
        assert self.args.output_dir is not None
        with _writing(Path(self.args.output_dir), self.objective.name):
            super()._save_checkpoint(*given, **named)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not isinstance(self.model, PreTrainedModel):
            # safetensors refuses tensors of two names; the second name is tied again to the first when it is read.
            seen: set[int] = set()
            whole = self.model.state_dict() if state_dict is None else state_dict  # pyright: ignore[reportOptionalMemberAccess]
            state_dict = {
                name: value
                for name, value in whole.items()
                if not (value.data_ptr() in seen or seen.add(value.data_ptr())) or value.numel() == 0
            }
        super()._save(output_dir, state_dict)

    def log(self, logs: dict[str, float], *given: Any, **named: Any) -> None:
        super().log({**logs, **self.objective.figures()}, *given, **named)

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


class _Order(Sampler[int]):
    """The order of an epoch follows from the seed and the epoch alone, so that a run taken up within one goes on in it."""

    def __init__(self, lengths: Any, trainer: Trainer) -> None:
        self.lengths, self.trainer = lengths, trainer

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        epoch = int((self.trainer.state.epoch or 0) + 1e-6)  # counted in steps: 2.5 in the middle of the third
        self.lengths.generator = torch.Generator().manual_seed(self.trainer.args.seed * 1_000_003 + epoch)
        return iter(self.lengths)


class _AfterStep(TrainerCallback):
    """Lets the objective act after every step, and shows how far the training is."""

    def __init__(self, objective: Objective, track: Callable[..., Iterable[Any]]) -> None:
        self.objective, self.track = objective, track
        self.ticks: Iterator[Any] = iter(())

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        left = state.max_steps - state.global_step
        self.ticks = iter(self.track(range(left), self.objective.name, total=left))
        next(self.ticks, None)  # the step that begins

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.objective.stepped(given["model"], state.global_step, state.max_steps)
        next(self.ticks, None)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        for _ in self.ticks:
            pass


def _unchanged(step: int) -> float:
    return 1.0
