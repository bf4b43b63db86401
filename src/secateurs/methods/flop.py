"""FLOP (Wang, Wohlwend, Lei 2020, 1910.04732): the rank of every matrix is learned together with the weights.

W = P Q -> prune (weights, gates of components, multipliers) -> fold the gates into P -> mask -> two small matrices, or one

Every matrix of attention and feed-forward blocks becomes a sum of rank-1 components with a gate each. The loop, the
penalty and the end are CoFi's, which took them from here. The target is a sparsity, relative to the *dense* model, or,
beyond the paper, a speed-up. ``docs/methods/flop.md`` lists where this differs from the authors' code, and why.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from secateurs.errors import RecipeError
from secateurs.factorize import factorize, matrices
from secateurs.job import Job, Recovering
from secateurs.methods._components import components, strongest_first
from secateurs.methods._mask_learning import Ascent
from secateurs.methods._rank_learning import RankPruner
from secateurs.structure import Structure

__all__ = ["FLOP", "METHOD", "PRESETS"]


@dataclass(frozen=True)
class FLOP:
    """Ranks learned together with the weights.

    Args:
        matrices: which are factorised: ``all``, ``attention``, ``feed-forward``, or patterns of paths, separated by commas.
        init: of the factors: ``aware``: of what the matrix does to the calibration texts; ``svd``: of the matrix alone (the
            authors); ``scratch``: random at the break-even rank, to be trained by ``prepruning`` first.
        rank: components at the start; 0 = all there are.
        teach: ``outputs``: what the dense model answers; ``labels``: the task's own loss (the paper).
        temperature: softens the outputs that are compared.
        drop: part of a component that a gate takes away at the start: ``log_alpha = log((1 - drop) / drop)``.
        keep: which components stay: those that are rather ``open`` than shut, by one common shift that meets the target; or
            of each pair as many as are ``expected`` to be open (the authors).
        prepruning: passes over the training split before there are gates.
        epochs: passes while ranks are learned, the ramp among them.
        ramp: of those, passes in which the target rises; 50 steps at least, if that leaves half of them.
        steps: so many steps in place of ``epochs``, with the same part of them for the ramp; 0 = epochs count.
        rate: peak of the learning rate of the weights.
        schedule: ``linear`` to 0 (gates and multipliers: constant), or ``noam`` (theirs follow it too).
        warmup: fraction of the steps.
        clip: norm to which the gradients of the weights are clipped.
        gate_rate: learning rate of the gates; raised where the ramp is too short to close them with it.
        multiplier_rate: learning rate of the multipliers.
        ascent: multipliers climb by the ``gradient``, or with ``adam`` (the authors).
        stiffness: where the quadratic multiplier starts.
        beta: constant in front of the quadratic term.
        freeze_embeddings: leave embeddings as they are.
        finetuning: passes after shrinking, with the same loss.
        finetuning_steps: so many steps in their place; 0 = passes count.
        finetuning_rate: peak of their learning rate.
        looks: times the masks are compared with the dense model after the ramp; the closest within the target is taken.
        rewind: keep of what was learned the ranks alone: weights go back to where they started, to the strongest components
            of each matrix (``np``: to the inputs that were kept), and learn, without noise, in ``finetuning``.
    """

    name: ClassVar[str] = "flop"
    trains: ClassVar[bool] = True
    by_parameters: ClassVar[bool] = True
    by_time: ClassVar[bool] = True

    matrices: str = "all"
    init: Literal["aware", "svd", "scratch"] = "aware"
    rank: int = 0
    teach: Literal["outputs", "labels"] = "outputs"
    temperature: float = 2.0
    drop: float = 0.05
    keep: Literal["open", "expected"] = "open"
    prepruning: float = 0.0
    epochs: float = 4.0
    ramp: float = 0.5
    steps: int = 0
    rate: float = 1e-4
    schedule: Literal["linear", "noam"] = "linear"
    warmup: float = 0.05
    clip: float = 1.0
    gate_rate: float = 0.05
    multiplier_rate: float = 10.0
    ascent: Ascent = "gradient"
    stiffness: float = 500.0
    beta: float = 1.0
    freeze_embeddings: bool = True
    finetuning: float = 2.0
    finetuning_steps: int = 0
    finetuning_rate: float = 1e-4
    looks: int = 4
    rewind: bool = False

    def __post_init__(self) -> None:
        for field in (
            "epochs",
            "rate",
            "gate_rate",
            "multiplier_rate",
            "temperature",
            "clip",
            "finetuning_rate",
            "beta",
        ):
            if not (value := getattr(self, field)) > 0:
                raise RecipeError(f"{self.name}: {field} must be above 0, not {value:g}")
        for field in ("rank", "prepruning", "ramp", "steps", "warmup", "stiffness", "finetuning", "finetuning_steps"):
            if (value := getattr(self, field)) < 0:
                raise RecipeError(f"{self.name}: {field} must not be negative, not {value:g}")
        if not 0 < self.drop < 1:
            raise RecipeError(f"{self.name}: drop must lie between 0 and 1, not {self.drop:g}")
        if self.ramp >= self.epochs:
            raise RecipeError(f"{self.name}: ramp ({self.ramp:g} epochs) must be shorter than epochs ({self.epochs:g})")
        if self.looks < 1:
            raise RecipeError(f"{self.name}: looks must be at least 1, not {self.looks}")
        if self.init == "scratch" and self.rewind:
            raise RecipeError(
                f"{self.name}: random factors are no place to rewind to; use init=aware or svd, or no rewind"
            )
        if self.init == "scratch" and not self.prepruning:
            raise RecipeError(
                f"{self.name}: random factors know nothing yet; with init=scratch give prepruning, in epochs"
            )

    @property
    def recovering(self) -> Recovering:
        """The final fine-tuning."""
        return Recovering(self.finetuning, self.finetuning_steps, self.finetuning_rate)

    def rebuilt(self, model: nn.Module) -> nn.Module:
        """A copy with a pair of factors in the place of every matrix, for the moment those of the matrix alone.

        Raises:
            RecipeError: a pattern names no matrix, or the rank is larger than one.
            UnsupportedModelError: there are no matrices.
        """
        paths = matrices(model, self.matrices)
        copied = copy.deepcopy(model)
        factorize(copied, paths, init="scratch" if self.init == "scratch" else "svd", rank=self.rank or None)
        strongest_first(copied, self.matrices)
        return copied

    def structure(self, model: nn.Module) -> Structure:
        """The components of all pairs and, where all matrices are chosen, the widths of adaptive embeddings."""
        return components(model, self.matrices)

    def check(self, job: Job) -> None:
        """See ``secateurs.job.Method``: labels need a loss."""
        if self.teach == "labels" and not job.task.has_loss:
            task = job.task.name.replace("_", "-")
            raise RecipeError(f"{self.name}: {task} has no loss of its own; use teach=outputs, which needs no labels")

    def forwards(self, structure: Structure, samples: int, rows: int, batch: int) -> dict[str, float]:
        """See ``secateurs.job.Method``; at full rank a step of the student is half as much again as a dense one."""
        read = self.steps * batch if self.steps else self.epochs * rows
        step = 5.0 if self.teach == "outputs" else 4.0
        prepared = 2.0 * samples if self.init == "aware" else 0.0
        return {"prepare": prepared, "target": step * (read + self.prepruning * rows) + self.looks * samples}

    def prepare(self, job: Job) -> RankPruner:
        """Factors for the calibration texts, if they are to be; every target is then learned from the same ones."""
        return RankPruner(self, job)


METHOD = FLOP

PRESETS: dict[str, dict[str, Any]] = {
    # enwik8 with an SRU, batches of 64 x 256 characters: Noam's schedule with c = 2 (3 for gates and multipliers),
    # d = 3056, w = 16,000 has these peaks; 64,000 steps of ramp are 11.6 passes.
    "paper": {
        "init": "svd",
        "teach": "labels",
        "drop": 0.5,
        "keep": "expected",
        "epochs": 100.0,
        "ramp": 11.6,
        "rate": 2.9e-4,
        "schedule": "noam",
        "warmup": 0.03,
        "clip": 0.3,
        "gate_rate": 4.3e-4,
        "multiplier_rate": 4.3e-4,
        "ascent": "adam",
        "stiffness": 0.0,
        "freeze_embeddings": False,
        "finetuning": 0.0,
        "looks": 90,
    },
    # Half an hour for a small encoder on two cores.
    "quick": {"steps": 600, "epochs": 3.0, "ramp": 0.5, "finetuning_steps": 300, "looks": 3},
}
