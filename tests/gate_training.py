"""Trains the gates of a tiny model in double precision, in one process or in one of several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateurs.gates.gates import Gated, Gates
from secateurs.gates.layer_matching import LayerMatching
from secateurs.gates.learner import freeze_embeddings
from secateurs.gates.mask_learning import GatedStudent, GatePace, MaskLearning, Removal
from secateurs.gates.student_loss import DistillationLoss
from secateurs.structure.cost import ParameterCost
from secateurs.structure.families import discover
from secateurs.structure.layers import layer_paths
from secateurs.structure.target import Sparsity
from secateurs.tasks import task
from secateurs.training.trainer import Training, train
from tiny_models import tiny_model

__all__ = ["trained_gates"]


def trained_gates(folder: Path, rows: int, accumulate: int = 1) -> dict[str, Tensor]:
    """The state of student, gates and multipliers after two epochs of 48 rows.

    Args:
        folder: folder of checkpoints.
        rows: rows per batch, in each process.
        accumulate: batches per step.
    """
    model, teacher = (_classifier().double() for _ in range(2))
    freeze_embeddings(model)
    structure = discover(model)
    gates = Gates(structure)
    with torch.no_grad():
        for parameter in gates.parameters():
            parameter.fill_(0.5)
    budget = Sparsity(0.6).budget(ParameterCost.of(model, structure))
    width = model.config.hidden_size
    layers = [[group.name for group in structure.layers[path]] for path in layer_paths(model, structure)]
    student = GatedStudent(
        Gated(model, structure, gates), Removal(budget, structure.sizes), LayerMatching(width, width), layers
    )
    student.double()  # in float32 Adam amplifies the rounding of gradients that are almost 0
    # Layers are not compared: each process chooses which of them to compare by its own rows.
    loss = DistillationLoss(teacher, task("text_classification"), 2.0, output_weight=0.1, layer_weight=0.0)
    objective = MaskLearning(student, loss, GatePace(3, 0.05, 0.05, "adam"), lambda step: None, 1)
    generator = torch.Generator().manual_seed(0)
    data = [{"input_ids": torch.randint(5, 30, (7,), generator=generator)} for _ in range(48)]
    how = Training(2.0, learning_rate=1e-3, batch_size=rows, accumulate=accumulate)
    train(model, objective, data, _collate, how, folder)
    return {name: value.clone() for name, value in student.state_dict().items()}


def _classifier() -> Any:
    return tiny_model("bert", auto="AutoModelForSequenceClassification", num_labels=2)


def _collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    ids = torch.stack([row["input_ids"] for row in rows])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
