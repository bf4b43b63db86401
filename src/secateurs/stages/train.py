"""The one training loop: ``transformers.Trainer``, with whatever is to be minimised.

What differs is an ``Objective``. Data loading, accumulation, mixed precision, several processes, checkpoints and taking
up a killed run are the Trainer's.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

from secateurs.errors import CheckpointError, RecipeError, SecateursError

__all__ = ["Objective", "Training", "train"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """How long and how to train.

    Args:
        epochs: passes over the training split.
        learning_rate: peak of AdamW, linear to 0.
        batch_size: sequences a step.
        warmup: fraction of the steps.
        bf16: train in bf16 autocast.
        checkpoint_steps: steps between checkpoints a killed run can be taken up from; 0 = none.
    """

    epochs: float
    learning_rate: float = 5e-5
    batch_size: int = 32
    warmup: float = 0.05
    bf16: bool = False
    checkpoint_steps: int = 500


class Objective(Protocol):
    """What is minimised."""

    @property
    def name(self) -> str:
        """For messages: "recovery", "pruning"."""
        ...

    def loss(self, model: nn.Module, inputs: dict[str, Tensor], step: int) -> Tensor:
        """The loss of one batch; ``model`` may be wrapped for several processes, and must be called as it is."""
        ...


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
    """Train ``model`` in place, and leave it in evaluation mode.

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
        learning_rate=how.learning_rate,
        per_device_train_batch_size=how.batch_size,
        train_sampling_strategy="group_by_length",  # short texts do not wait for long ones
        warmup_steps=how.warmup,
        weight_decay=0.0,
        lr_scheduler_type="linear",
        bf16=how.bf16,
        seed=seed,
        data_seed=seed,
        logging_strategy="no",
        save_strategy="steps" if how.checkpoint_steps else "no",
        save_steps=how.checkpoint_steps or 500,
        save_total_limit=1,
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=torch.device(device).type == "cpu",
        dataloader_pin_memory=False,
        label_names=["labels"],
    )
    model.train()
    try:
        trainer = _Minimiser(
            objective,
            model=model,
            args=arguments,
            train_dataset=data,
            data_collator=collate,
            callbacks=[_Progress(objective.name, track)],
        )
        trainer.remove_callback(PrinterCallback)  # a library does not print
        result = trainer.train(resume_from_checkpoint=_last_whole_checkpoint(folder))
    except OSError as error:
        raise CheckpointError(
            f"{objective.name} could not write a checkpoint under {folder}: {error.strerror or error}"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        model.eval()
    return {"steps": float(result.global_step), "loss": float(result.training_loss)}


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

    def __init__(self, objective: Objective, **options: Any) -> None:
        super().__init__(**options)
        self.objective = objective
        # Without this Trainer rescales the loss by tokens, which only fits losses summed by the model itself.
        self.model_accepts_loss_kwargs = False

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            assert self.model is not None
            # Fused: one pass over the weights instead of ten, most of a step on a CPU with a large vocabulary.
            self.optimizer = torch.optim.AdamW(
                self.model.parameters(), lr=self.args.learning_rate, weight_decay=0.0, fused=True
            )
        return self.optimizer

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


class _Progress(TrainerCallback):
    """Shows how far the training is."""

    def __init__(self, name: str, track: Callable[..., Iterable[Any]]) -> None:
        self.name, self.track = name, track
        self.ticks: Iterator[Any] = iter(())

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        left = state.max_steps - state.global_step
        self.ticks = iter(self.track(range(left), self.name, total=left))
        next(self.ticks, None)  # the step that begins

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        next(self.ticks, None)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        for _ in self.ticks:
            pass
