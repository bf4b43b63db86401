"""Recovery: train the shrunk model to do what its dense teacher does, with ``transformers.Trainer``.

Loss, per batch: ``divergence(student, teacher)`` of the task signal (KL of the logits, cosine of embeddings) plus
SquareHead (Kurtic et al., 2310.06927, eq. 2): for every layer the squared distance of student and teacher hidden
states over non-padded tokens, relative to the teacher's squared norm. Depth and hidden size do not change, so layers
match one to one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging as transformers_logging

from secateurs.errors import CheckpointError, RecipeError, SecateursError

__all__ = ["Recovery", "recover", "square_head"]

logger = logging.getLogger(__name__)

EPSILON = torch.finfo(torch.bfloat16).eps


@dataclass(frozen=True)
class Recovery:
    """How long and how to train.

    Args:
        epochs: passes over the training split.
        learning_rate: peak of AdamW, linear to 0.
        batch_size: sequences a step.
        warmup: fraction of the steps.
        logits: weight of the signal's divergence.
        hidden: weight of the SquareHead term.
        task: weight of the task's own loss (needs labels).
        bf16: train in bf16 autocast.
        checkpoint_steps: steps between checkpoints a killed run can be taken up from; 0 = none.
    """

    epochs: float
    learning_rate: float = 5e-5
    batch_size: int = 32
    warmup: float = 0.05
    logits: float = 1.0
    hidden: float = 1.0
    task: float = 0.0
    bf16: bool = False
    checkpoint_steps: int = 500


def square_head(
    student: tuple[Float[Tensor, "batch sequence hidden"], ...],
    teacher: tuple[Float[Tensor, "batch sequence hidden"], ...],
    tokens: Bool[Tensor, "batch sequence"],
) -> Float[Tensor, ""]:
    """``mean over layers of ||s_k - t_k||^2 / (||t_k||^2 + eps)`` over the tokens that count.

    Index 0 (the embeddings) is left out: pruning does not change it. Differs from the source in taking the mean over
    layers instead of their sum, so that the weight does not depend on depth.
    """
    terms = []
    for ours, theirs in zip(student[1:], teacher[1:], strict=True):
        wanted = theirs[tokens].float()
        terms.append((ours[tokens].float() - wanted).pow(2).mean() / (wanted.pow(2).mean() + EPSILON))
    return torch.stack(terms).mean()


def recover(
    student: nn.Module,
    teacher: nn.Module,
    task: Any,
    data: Any,
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
    how: Recovery,
    folder: Path,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    callbacks: tuple[Any, ...] = (),
) -> dict[str, float]:
    """Train ``student`` in place.

    Args:
        student: the shrunk model.
        teacher: the dense model, on the same device.
        task: whose ``signal`` and ``divergence`` are matched.
        data: rows for the trainer.
        collate: rows -> batch.
        how: see ``Recovery``.
        folder: for checkpoints; a run killed during recovery goes on from the last of them.

    Returns:
        ``steps`` and the mean training ``loss``.

    Raises:
        RecipeError: there is no training data.
        CheckpointError: a checkpoint cannot be written.
        SecateursError: the loss became NaN.
    """
    if data is None or len(data) == 0:
        raise RecipeError("recovery needs a training split; the data has none. Give one, or use --recover-epochs 0")
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
    student.train()
    teacher.eval()
    try:
        trainer = _Distiller(
            model=student, args=arguments, train_dataset=data, data_collator=collate, callbacks=list(callbacks)
        )
        trainer.prepare_distillation(teacher, task, how)
        last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
        result = trainer.train(resume_from_checkpoint=last)
    except OSError as error:
        raise CheckpointError(
            f"recovery could not write a checkpoint under {folder}: {error.strerror or error}"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        student.eval()
    return {"steps": float(result.global_step), "loss": float(result.training_loss)}


class _Distiller(Trainer):
    """``Trainer`` with the distillation loss; the loop is not ours."""

    def prepare_distillation(self, teacher: nn.Module, task: Any, how: Recovery) -> None:
        self.teacher, self.task, self.how = teacher, task, how
        # Without this Trainer rescales the loss by tokens, which only fits losses summed by the model itself.
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any) -> Any:
        features = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**features, output_hidden_states=True)
        with torch.no_grad():
            wanted = self.teacher(**features, output_hidden_states=True)
        tokens = inputs["attention_mask"].bool()
        loss = outputs.hidden_states[0].new_zeros((), dtype=torch.float32)
        if self.how.logits:
            divergence = self.task.divergence(self.task.signal(outputs, inputs), self.task.signal(wanted, inputs))
            loss = loss + self.how.logits * divergence.mean()
        if self.how.hidden:
            loss = loss + self.how.hidden * square_head(outputs.hidden_states, wanted.hidden_states, tokens)
        if self.how.task:
            loss = loss + self.how.task * self.task.loss(outputs, inputs)
        if not math.isfinite(loss.item()):
            raise SecateursError(
                f"the loss became {loss.item()} at step {self.state.global_step} of recovery; "
                "lower --learning-rate, or train in float32"
            )
        return (loss, outputs) if return_outputs else loss
