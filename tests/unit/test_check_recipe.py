"""A mistake in a recipe is answered before torch is imported, which takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
from secateurs import cli
try:
    cli.main()
finally:
    slow = {"torch", "transformers", "datasets", "numpy"} & sys.modules.keys()
    if slow:
        print("imported", *slow)
"""

MISTAKES = {
    "--task summarise": "there is no task 'summarise'; the tasks are causal-lm",
    "--method random_unit": "there is no method 'random-unit'; the methods are agp, agp-unstructured",
    "--preset best": "the method ziplm has no preset 'best'",
    "--method neuron-pruning --set rank=4": "the method neuron-pruning has no hyper-parameter 'rank'",
    "--method cofi --set ascent=up": "cofi: ascent",
    "--method flop --set ramp=9": "flop: ramp",
    "--method fac --set teach=pupils": "fac: teach",
    "--method agp-unstructured": "agp-unstructured makes zeros",
    "--sparsity 0.5": "not both",
    "--speedup two": "a speed-up of 'two' is neither a number nor auto",
    "--speedup auto": "auto chooses the speed-ups itself: give auto, or numbers",
    "--keep 0.99": "keep finds the speed-up itself: give keep, or speed-ups, or sparsities",
    "--minutes 0": "minutes: ",
    "--minutes 5 --recover-epochs 1": "give minutes or recover_epochs, not both",
    "--recover-epochs 1 --recover-steps 5": "recover_epochs and recover_steps both say how long",
    "--gradual": "gradual trains each model before it is pruned further: say for how long",
    "--gradual --method cofi --preset quick": "cofi trains its masks instead: use ziplm",
    "--seed -1": "seed: ",
    "--data ./nowhere": "the data ./nowhere does not exist",
    "--latency-table nowhere": "no latency table at nowhere",
    "--tracker wandb": "this run has none",
    "--out {full}": "is not empty",
    "--out {full} --resume": "holds no run",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_without_torch(tmp_path: Path, mistake: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    right = "prune owner/model --task embedding --data owner/data --speedup 2 --out out"
    arguments = f"{right} {mistake.format(full='full')}".split()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert MISTAKES[mistake] in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
