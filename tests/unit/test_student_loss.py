"""Dropout of a student: on while it learns labels, off while it learns the outputs of a teacher, which has none."""

from __future__ import annotations

import copy

import pytest
import torch

from secateurs.gates.gates import Gated, Gates
from secateurs.gates.mask_learning import GatedStudent, Removal
from secateurs.gates.student_loss import DistillationLoss, LabelLoss, StudentLoss, StudentObjective
from secateurs.structure.cost import ParameterCost
from secateurs.structure.families import discover
from secateurs.structure.target import Sparsity
from secateurs.tasks import task
from tiny_models import tiny_model


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("labels", [False, True])
def test_dropout_with_labels_only(labels: bool, gated: bool) -> None:
    model = tiny_model("bert", auto="AutoModelForSequenceClassification", num_labels=2, hidden_dropout_prob=0.5).float()
    solved = task("text_classification")
    teacher = copy.deepcopy(model).eval()
    how: StudentLoss = LabelLoss(solved) if labels else DistillationLoss(teacher, solved, 1.0, 1.0, 0.0)
    ids = torch.arange(12).reshape(2, 6)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1])}
    modes = []
    model.classifier.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    if gated:
        structure = discover(model)
        budget = Sparsity(0.5).budget(ParameterCost.of(model, structure))
        student = GatedStudent(Gated(model, structure, Gates(structure)), Removal(budget, structure.sizes), None, [])
        student.train()(batch, how.teacher_outputs(batch), how, 0.0, 0)
    else:
        objective = StudentObjective("test", how, None, [])
        objective.loss(objective.trained_module(model).train(), batch, 0)
    assert modes == [labels]
