"""Several processes, or several batches to a step, learn the masks that one process learns from all their rows at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from secateurs.cost import ParameterCost
from secateurs.families import discover
from secateurs.layers import layer_paths
from secateurs.methods._distillation import Distillation
from secateurs.methods._mask_learning import MaskLearner, MaskLearning, Pace, Removal
from secateurs.stages.gates import Gated, Gates
from secateurs.stages.layer_matching import LayerMatching
from secateurs.stages.train import Training, train
from secateurs.target import Sparsity
from secateurs.tasks import task
from tiny_models import tiny_model

out, rows, accumulate = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
model = tiny_model("bert", auto="AutoModelForSequenceClassification", num_labels=2).double()
teacher = tiny_model("bert", auto="AutoModelForSequenceClassification", num_labels=2).double()
for module in model.modules():
    if isinstance(module, torch.nn.Embedding):
        module.requires_grad_(False)
structure = discover(model)
gates = Gates(structure)
with torch.no_grad():
    for parameter in gates.parameters():
        parameter.fill_(0.5)
budget = Sparsity(0.6).budget(ParameterCost.of(model, structure))
width = model.config.hidden_size
layers = [[group.name for group in structure.layers[path]] for path in layer_paths(model, structure)]
learner = MaskLearner(
    Gated(model, structure, gates), Removal(budget, structure.sizes), LayerMatching(width, width), layers
)
learner.double()  # in float32 Adam blows up the rounding of gradients that are next to nothing
# Without the layers: which of them are compared is chosen on the rows seen at once, half of them here.
how = Distillation(teacher, task("text_classification"), 2.0, 0.1, 0.0)
generator = torch.Generator().manual_seed(0)
data = [{"input_ids": torch.randint(5, 30, (7,), generator=generator)} for _ in range(48)]


def collate(rows):
    ids = torch.stack([row["input_ids"] for row in rows])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


objective = MaskLearning(learner, how, Pace(3, 0.05, 0.05, "adam"), lambda step: None, 1)
how = Training(2.0, learning_rate=1e-3, batch_size=rows, accumulate=accumulate)
train(model, objective, data, collate, how, out / "checkpoints")
rank = 0
if torch.distributed.is_initialized():
    rank = torch.distributed.get_rank()
state = {name: value.clone() for name, value in learner.state_dict().items()}
save_file(state, out / f"rank-{rank}.safetensors")
"""


def learn(folder: Path, processes: int, rows: int, accumulate: int = 1) -> list[dict[str, torch.Tensor]]:
    """Run the script, under torchrun if there are several processes; what every process ended with."""
    folder.mkdir()
    script = folder / "learn.py"
    script.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    given = [str(script), str(folder), str(rows), str(accumulate)]
    command = [sys.executable, *(launcher if processes > 1 else []), *given]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [load_file(folder / f"rank-{rank}.safetensors") for rank in range(processes)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What one process learns from 8 rows at once."""
    (learned,) = learn(tmp_path_factory.mktemp("alone") / "one", 1, 8)
    assert (learned["gated.gates.fine"] - 0.5).abs().min() > 1e-3
    return learned


def same(learned: dict[str, torch.Tensor], alone: dict[str, torch.Tensor]) -> None:
    for name, value in alone.items():
        if name.endswith("key.bias"):  # attention does not depend on it: its gradient is rounding, which Adam blows up
            continue
        torch.testing.assert_close(
            learned[name], value, atol=1e-8, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_two_processes_learn_what_one_with_all_rows_learns(alone: dict[str, torch.Tensor], tmp_path: Path) -> None:
    if not torch.distributed.is_available():
        pytest.skip("this torch is built without torch.distributed")
    first, second = learn(tmp_path / "two", 2, 4)
    assert all(torch.equal(first[name], second[name]) for name in alone)
    same(first, alone)


def test_two_batches_to_a_step_learn_what_one_batch_learns(alone: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Both halves see the same sample of the gates: with two samples the gates would end elsewhere."""
    (halves,) = learn(tmp_path / "halves", 1, 4, accumulate=2)
    same(halves, alone)
