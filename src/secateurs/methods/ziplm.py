"""ZipLM (Kurtic, Frantar, Alistarh 2023, 2302.04089): inference-aware one-shot structured pruning.

calibrate -> order and level database (structured OBS) -> search under the time budget -> final fit -> mask.

``--preset paper`` keeps the paper's choices: dense inputs, PAD included, no damping, no bias compensation, the relative
layer error as prior, and the random coefficient search on the task loss. The default differs where we measured better;
``docs/methods/ziplm.md`` lists each difference with its figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import nn

from secateurs.allocation import Profile
from secateurs.artefact import write
from secateurs.errors import RecipeError
from secateurs.factorize import alternatives
from secateurs.families import discover
from secateurs.job import Job
from secateurs.mask import Mask
from secateurs.methods._candidates import Stitched, projections
from secateurs.methods._context import in_context
from secateurs.methods._one_shot import OneShot, OneShotPruner
from secateurs.methods._searches import FITTED, Searches
from secateurs.methods._splitting import MixedLevels
from secateurs.stages.calibrate import calibrate
from secateurs.stages.importance import Importance
from secateurs.stages.levels import Level, LevelDatabase
from secateurs.stages.stitch import Stitch
from secateurs.structure import Structure
from secateurs.target import Budget

__all__ = ["METHOD", "PRESETS", "ZipLM"]


@dataclass(frozen=True)
class ZipLM(OneShot):
    """One-shot structured pruning to a time budget.

    Args:
        allow: what may be done to a sub-block: ``units``, heads or neurons go; ``rank``, or its matrices are split into
            factors of low rank, whichever costs less quality for its time.
        inputs: ``dense`` fits every projection to what the dense model feeds it (the paper); ``sequential`` fits them
            again for the chosen profile, in order, to what the already pruned layers produce.
        damping: fraction of the mean diagonal added to each Hessian.
        refit_damping: the same for the solution on all columns that the sequential fit starts from; it leans on the
            dense weights.
        drift_damping: the same for the correction of what feeds a group, which leans on no correction; ``None`` = none.
        compensate: refit biases too, where the projection has one.
        padding: let PAD tokens count.
        weigh: how much a token counts in Hessians and fits: ``gradient``, by what an error there does to the outputs
            (``secateurs.stages.importance``); ``even``, all alike (the paper, and wherever ranks are allowed).
        objective: ``divergence`` measures candidates by the divergence from the dense outputs; ``loss`` by the task
            loss, with the paper's prior and coefficient search.
        ratio: each feed-forward level keeps this much of the one before it (0.9 in the paper).
        snap: round widths to the multiple of the latency table: 8 on the CPU, 64 on a GPU, or what `measure --table FILE
            --probe` found to be free.
        search_samples: texts on which candidates are compared, long ones preferred; as many again accept or reject them.
        probes: levels measured a group, the rest is interpolated.
        rounds: times the sensitivities are measured again around the incumbent.
        steps: local moves (``divergence``), or redraws of the coefficients (``loss``; 1000 in the paper).
        finalists: near-optimal choices that are really fitted to find the best (``divergence`` with ``sequential`` inputs,
            and 1024 texts besides those of the search); 0 takes the one that the search found.
        inits: random coefficient vectors to start from (``loss``; 100 in the paper).
        probability: that a coefficient is redrawn (``loss``; 0.1 in the paper).
    """

    name: ClassVar[str] = "ziplm"

    allow: Literal["units", "rank"] = "units"
    inputs: Literal["dense", "sequential"] = "sequential"
    damping: float = 1e-2
    refit_damping: float = 1e-1
    drift_damping: float | None = 1e-1
    compensate: bool = True
    padding: bool = False
    weigh: Literal["gradient", "even"] = "gradient"
    objective: Literal["divergence", "loss"] = "divergence"
    ratio: float = 0.93
    snap: bool = True
    search_samples: int = 384
    probes: int = 9
    rounds: int = 1
    steps: int = 40
    finalists: int = 10
    inits: int = 100
    probability: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise RecipeError(f"ziplm: ratio must lie between 0 and 1, not {self.ratio:g}")
        if (least := min(self.damping, self.refit_damping, self.drift_damping or 0.0)) < 0:
            raise RecipeError(f"ziplm: damping must not be negative, not {least:g}")
        lowest = {"probes": 3, "search_samples": 2, "rounds": 0, "steps": 0, "finalists": 0, "inits": 1}
        for field, least in lowest.items():
            if (value := getattr(self, field)) < least:
                raise RecipeError(f"ziplm: {field} must be at least {least}, not {value}")

    @property
    def weighs(self) -> bool:
        """Whether tokens have weights. Errors of splittings, which stand on one menu with those of levels, know none."""
        return self.weigh == "gradient" and self.allow == "units"

    def structure(self, model: nn.Module) -> Structure:
        """Heads and feed-forward neurons, and the ranks of their matrices if those are allowed; hidden size stays, so the
        teacher's layers match one to one."""
        return alternatives(model) if self.allow == "rank" else discover(model)

    def forwards(self, structure: Structure, samples: int, rows: int, batch: int) -> dict[str, float]:
        """Work in forward passes of one sequence: ``prepare`` once, ``target`` for each target."""
        searched = min(self.search_samples, samples // 2)
        weighing = 3.0 if self.weighs else 0.0  # forward and backward
        gathered = samples * (2.5 + weighing)  # with the Gram matrices
        if self.objective == "loss":
            return {"prepare": gathered, "target": (self.inits + self.steps) * samples * 0.6}
        # A probe starts at its own layer: half a pass on average; around an incumbent the model is smaller too.
        sweep = self.probes * len(structure.without_alternatives()) * searched * 0.5
        finalists = self.finalists * FITTED if samples - 2 * searched >= FITTED else 0
        refitted = (5.0 + weighing) * (samples + finalists) if self.inputs == "sequential" else 0.0
        return {
            "prepare": gathered + sweep,
            "target": (self.rounds * 0.6 * sweep + self.steps * searched * 0.5) + refitted,
        }

    def prepare(self, job: Job) -> ZipLMPruner:
        """Calibrate and build the level database, or read it where an earlier run of this folder left it."""
        return ZipLMPruner(self, job)


class ZipLMPruner(OneShotPruner):
    """The level database of one model, and the searches over it."""

    def __init__(self, how: ZipLM, job: Job) -> None:
        self.how, self.whole = how, job.structure
        self.job = job = replace(job, structure=job.structure.without_alternatives())
        self.stitch = Stitch(job.model, job.structure)
        self.database = self._database()
        errors = {group.name: self.database.errors(group.name) for group in job.structure}
        self.mixed = MixedLevels(self.database, self.stitch, self.whole, job, padding=how.padding)
        fit = self._fit if how.inputs == "sequential" else None
        if how.allow == "rank":
            self.searches = Searches(how, job, Stitched(self.stitch, self.mixed), errors, self.mixed.offer, fit)
        else:
            self.searches = Searches(how, job, Stitched(self.stitch, self.database), errors, fit=fit)

    def choose(self, budget: Budget) -> Mask:
        """See ``secateurs.job.Pruner``. A budget that was searched before, in this run or the one it resumes, is not
        searched again; next to one that was, the answer is solved for with what was measured there."""
        return self.mask(self.searches.find(budget))

    def mask(self, profile: Profile) -> Mask:
        """The units of a profile, and the ranks of what it splits."""
        return self.mixed.mask(profile)

    def install(self, mask: Mask, folder: str) -> Mask:
        """Put the final weights into the model at full size, zeros in the removed columns."""
        job = self.job
        self.stitch.reset_all()
        levels = self._in_context(mask, job.batches) if self.how.inputs == "sequential" else self.mixed.levels(mask)
        for name, level in levels.items():
            self.stitch.mask(name, level.units, level.weight, level.bias, level.feeders)
        self.searches.stitched.invalidate()
        kept = {name: level.units for name, level in levels.items()}
        return Mask.from_units(self.whole, kept | {name: mask.units(name) for name in mask if name not in kept})

    def _fit(self, profile: Profile, batches: Sequence[Any]) -> None:
        """The last fit of a profile, left in the live model."""
        self.stitch.reset_all()
        self._in_context(self.mask(profile), batches)

    def _in_context(self, mask: Mask, batches: Sequence[Any]) -> dict[str, Level]:
        how, counts = self.how, mask.counts
        return in_context(
            self.stitch,
            self.database,
            {group.name: counts[group.name] for group in self.job.structure},
            replace(self.job, batches=batches),
            damping=how.damping,
            towards=how.refit_damping,
            correct=how.drift_damping,
            padding=how.padding,
            weigh=how.weighs,
            ranks={
                group.product: counts[group.name]
                for group in self.whole.alternatives
                if counts[group.name] < group.size
            },
        )

    def _database(self) -> LevelDatabase:
        job, how = self.job, self.how
        path = job.folder / "levels.safetensors"
        dense = projections(self.stitch)
        if path.is_file():
            return LevelDatabase.load(path, job.structure, dense, damping=how.damping, compensate=how.compensate)
        moments = calibrate(
            job.model,
            job.structure,
            job.batches,
            device=job.device,
            weigh=Importance(job.model, job.structure, job.task.full_signal, job.seed) if how.weighs else None,
            padding=how.padding,
            track=job.track,
        )
        database = LevelDatabase.build(
            job.structure, dense, moments, damping=how.damping, compensate=how.compensate, track=job.track
        )
        write(path, database.save)
        return database


METHOD = ZipLM

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "inputs": "dense",
        "damping": 0.0,
        "compensate": False,
        "padding": True,
        "weigh": "even",
        "objective": "loss",
        "ratio": 0.9,
        "snap": False,
        "steps": 1000,
        "inits": 100,
        "probability": 0.1,
    }
}
