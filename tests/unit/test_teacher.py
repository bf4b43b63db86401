"""The dense model that results are compared with stays as it was, whatever a method does to the live model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from secateurs.methods import method, names
from secateurs.pipeline.load import load
from secateurs.structure.cost import ParameterCost
from secateurs.structure.target import Budget
from tiny_run import recipe

ONE_SHOT = [name for name in names() if not method(name).trains]


@pytest.mark.parametrize("name", ONE_SHOT)
def test_a_method_without_training_leaves_the_teacher_alone(tmp_path: Path, name: str) -> None:
    """The teacher shares the memory of the live model, so a method that writes into a tensor would change it."""
    loaded = load(recipe(tmp_path, method=name, hyperparameters={}))
    teacher = loaded.teacher()
    before = {key: value.clone() for key, value in loaded.dense.state_dict().items()}
    folder = tmp_path / "stages"
    folder.mkdir()
    context = replace(loaded.context(folder), teacher=teacher)
    fitted = loaded.method.fit(context)
    cost = ParameterCost.of(loaded.model, loaded.structure)
    dense = float(cost(loaded.structure.sizes))
    fitted.apply(fitted.allocate(Budget(cost.fixed + 0.5 * (dense - cost.fixed), cost)), "target")
    changed = {key for key, value in loaded.model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_training_gets_a_teacher_of_its_own(tmp_path: Path) -> None:
    loaded = load(recipe(tmp_path, method="cofi", hyperparameters={"steps": 100}))
    before = {key: value.clone() for key, value in loaded.dense.state_dict().items()}
    teacher = loaded.teacher()
    for parameter in loaded.model.parameters():
        parameter.data.zero_()
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
