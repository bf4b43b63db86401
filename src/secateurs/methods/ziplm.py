"""ZipLM (Kurtic, Frantar, Alistarh 2023, 2302.04089): inference-aware one-shot structured pruning.

calibrate -> order and level database (structured OBS) -> search under the time budget -> refit -> mask.

``--preset paper`` keeps the paper's choices: dense inputs, PAD included, no damping, no bias compensation, the relative
layer error as prior, and the random coefficient search on the task loss. The default differs where we measured better;
``docs/methods/ziplm.md`` lists each difference with its figures.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from secateurs.artefact import read_json, write, write_json
from secateurs.cost import LatencyTable
from secateurs.errors import RecipeError, TargetUnreachable
from secateurs.families import discover
from secateurs.job import Job
from secateurs.mask import Mask
from secateurs.methods._candidates import Objective, Stitched, menus, projections, table_of, task_loss
from secateurs.methods._past import Past, Pasts
from secateurs.stages.calibrate import calibrate
from secateurs.stages.levels import Level, LevelDatabase
from secateurs.stages.refit import refit
from secateurs.stages.search import Found, Menu, Profile, coefficient_search, refine, sensitivities
from secateurs.stages.stitch import Stitch
from secateurs.structure import Structure
from secateurs.target import Budget

__all__ = ["METHOD", "PRESETS", "ZipLM"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ZipLM:
    """One-shot structured pruning to a time budget.

    Args:
        inputs: ``dense`` fits every projection to what the dense model feeds it (the paper); ``sequential`` refits the
            chosen profile in order, on what the already pruned layers produce.
        damping: fraction of the mean diagonal added to each Hessian.
        refit_damping: the same for the refit, which leans on the weights of the database.
        compensate: refit biases too, where the projection has one.
        padding: let PAD tokens count.
        fisher: weight every token by the squared gradient of a sampled label at the projection's output.
        objective: ``divergence`` measures candidates by the divergence from the dense outputs; ``loss`` by the task
            loss, with the paper's prior and coefficient search.
        ratio: each feed-forward level keeps this much of the one before it (0.9 in the paper).
        snap: round widths to the multiple the latency table shows to be free.
        search_samples: texts on which candidates are compared; as many again accept or reject them.
        probes: levels measured a group, the rest is interpolated.
        rounds: times the sensitivities are measured again around the incumbent.
        steps: local moves (``divergence``), or redraws of the coefficients (``loss``; 1000 in the paper).
        inits: random coefficient vectors to start from (``loss``; 100 in the paper).
        probability: that a coefficient is redrawn (``loss``; 0.1 in the paper).
    """

    name: ClassVar[str] = "ziplm"

    inputs: Literal["dense", "sequential"] = "sequential"
    damping: float = 1e-2
    refit_damping: float = 1e-1
    compensate: bool = True
    padding: bool = False
    fisher: bool = False
    objective: Literal["divergence", "loss"] = "divergence"
    ratio: float = 0.93
    snap: bool = True
    search_samples: int = 384
    probes: int = 9
    rounds: int = 2
    steps: int = 60
    inits: int = 100
    probability: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise RecipeError(f"ziplm: ratio must lie between 0 and 1, not {self.ratio:g}")
        if min(self.damping, self.refit_damping) < 0:
            raise RecipeError(f"ziplm: damping must not be negative, not {min(self.damping, self.refit_damping):g}")
        if self.probes < 3:
            raise RecipeError(f"ziplm: probes must be at least 3, not {self.probes}")

    def structure(self, model: nn.Module) -> Structure:
        """Heads and feed-forward neurons; hidden size stays, so the teacher's layers match one to one."""
        return discover(model)

    def forwards(self, structure: Structure, samples: int) -> dict[str, float]:
        """Work in forward passes of one sequence: ``prepare`` once, ``target`` for each target."""
        searched = min(self.search_samples, samples // 2)
        gathered = samples * (5.0 if self.fisher else 2.5)  # forward, Gram matrices and, for the weights, backward
        if self.objective == "loss":
            return {"prepare": gathered, "target": (self.inits + self.steps) * samples * 0.6}
        # A probe starts at its own layer: half a pass on average; around an incumbent the model is smaller too.
        sweep = self.probes * len(structure) * searched * 0.5
        refitted = 3.0 * samples if self.inputs == "sequential" else 0.0
        return {
            "prepare": gathered + sweep,
            "target": (self.rounds * 0.6 * sweep + self.steps * searched * 0.5) + refitted,
        }

    def prepare(self, job: Job) -> ZipLMPruner:
        """Calibrate and build the level database, or read it where an earlier run of this folder left it."""
        return ZipLMPruner(self, job)


class ZipLMPruner:
    """The level database of one model, and the search over it."""

    def __init__(self, how: ZipLM, job: Job) -> None:
        self.how, self.job = how, job
        self.details: dict[str, Any] = {}
        self.stitch = Stitch(job.model, job.structure)
        self.database = self._database()
        self.stitched = Stitched(self.stitch, self.database)
        self.errors = {group.name: self.database.errors(group.name) for group in job.structure}
        self.past = Pasts(job.folder / "searches.json")
        self._objectives: tuple[Objective, Objective] | None = None

    def prune(self, budget: Budget) -> Mask:
        """See ``secateurs.job.Pruner``. A budget that was searched before, in this run or the one it resumes, is not
        searched again; one close to it starts from what was learned there."""
        table = table_of(budget)
        limit = budget.limit - table.fixed
        if limit <= 0:
            raise TargetUnreachable(
                f"{budget.limit:.2f} ms is less than the {table.fixed:.2f} ms no cut can remove", table.largest_speedup
            )
        started = time.perf_counter()
        past = self.past.exactly(limit)
        if past is None:
            past = self._search(table, limit)
            self.past.add(past)
        searched = time.perf_counter()
        mask = self.install(past.profile)
        self.details = {
            "objective": past.value,
            "evaluations": past.evaluations,
            "seconds": {"search": searched - started, "refit": time.perf_counter() - searched},
        }
        return mask

    def _search(self, table: LatencyTable, limit: float) -> Past:
        offered = menus(self.job.structure, table, self.errors, self.how.ratio, self.how.snap)
        near = self.past.near(limit)
        if self.how.objective == "loss":
            found = self._paper(offered, limit, near)
        else:
            found = self._measured(offered, limit, near)
        return Past(
            limit,
            found.profile,
            {name: list(map(float, costs)) for name, costs in found.costs.items()},
            found.held_out,
            found.evaluations,
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
            fisher_loss=job.task.fisher_loss if how.fisher else None,
            padding=how.padding,
            seed=job.seed,
            track=job.track,
        )
        database = LevelDatabase.build(
            job.structure, dense, moments, damping=how.damping, compensate=how.compensate, track=job.track
        )
        write(path, database.save)
        return database

    def _measured(self, offered: Mapping[str, Menu], limit: float, near: Past | None) -> Found:
        """Our search: measured sensitivities, measured again around the incumbent, local moves."""
        search, held_out = self._search_objectives()
        how, job = self.how, self.job

        def settle(profile: Mapping[str, int]) -> None:
            search.settle(profile)
            held_out.settle(profile)

        if near is None:
            settle(job.structure.sizes)
            costs = self._sensitivities(search, offered)
        else:
            costs = {name: np.asarray(values) for name, values in near.costs.items()}
        return refine(
            search,
            held_out,
            offered,
            costs,
            limit,
            settle=settle,
            rounds=how.rounds if near is None else 0,
            probes=how.probes,
            steps=how.steps if near is None else how.steps // 2,
            seed=job.seed,
            track=job.track,
        )

    def _paper(self, offered: Mapping[str, Menu], limit: float, near: Past | None) -> Found:
        """The paper's search: layer errors as prior, random coefficients, task loss (or the divergence without labels)."""
        how, job = self.how, self.job
        self.stitched.apply(job.structure.sizes)
        if all("labels" in batch for batch in job.batches) or job.task.has_loss_without_labels:
            evaluate = task_loss(self.stitched, job, job.batches)
        else:
            logger.warning("the calibration data has no labels: the search uses the divergence from the dense outputs")
            evaluate = Objective(self.stitched, job, job.batches)
        errors = {name: np.asarray(menu.error) for name, menu in offered.items()}
        return coefficient_search(
            evaluate,
            offered,
            errors if near is None else {name: np.asarray(values) for name, values in near.costs.items()},
            limit,
            # Close to an earlier budget its coefficients, which are in the costs, are kept.
            inits=how.inits if near is None else 0,
            steps=how.steps if near is None else 0,
            probability=how.probability,
            seed=job.seed,
            track=job.track,
        )

    def _search_objectives(self) -> tuple[Objective, Objective]:
        """Search texts and held-out texts: two disjoint samples of the calibration batches."""
        if self._objectives is None:
            batches = list(self.job.batches)
            order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(self.job.seed)).tolist()
            halves: tuple[list[Any], list[Any]] = ([], [])
            for position, index in enumerate(order):
                half = halves[position % 2]
                if sum(len(batch["input_ids"]) for batch in half) < self.how.search_samples:
                    half.append(batches[index])
            searched, held = halves
            # With a single batch there is nothing to hold out.
            build = partial(Objective, self.stitched, self.job)
            self._objectives = build(searched), build(held or searched)
        return self._objectives

    def _sensitivities(self, search: Objective, offered: Mapping[str, Menu]) -> dict[str, np.ndarray]:
        """Around the dense model: they serve every target, so they are measured once and kept."""
        path = self.job.folder / "sensitivities.json"
        kept = {name: list(menu.kept) for name, menu in offered.items()}
        if path.is_file():
            stored = read_json(path)
            if stored["kept"] == kept and stored["method"] == asdict(self.how):
                return {name: np.asarray(costs) for name, costs in stored["costs"].items()}
        costs = sensitivities(search, offered, self.job.structure.sizes, probes=self.how.probes, track=self.job.track)
        listed = {name: values.tolist() for name, values in costs.items()}
        write_json(path, {"method": asdict(self.how), "kept": kept, "costs": listed})
        return costs

    def install(self, profile: Profile) -> Mask:
        """Put the final weights into the model at full size, zeros in the removed columns."""
        job = self.job
        levels: dict[str, Level] = {name: self.database.level(name, kept) for name, kept in profile.items()}
        if self.how.inputs == "sequential":
            self.stitched.apply(profile)
            levels = refit(
                self.stitch,
                levels,
                job.batches,
                device=job.device,
                damping=self.how.refit_damping,
                padding=self.how.padding,
                track=job.track,
            )
        for name, level in levels.items():
            self.stitch.mask(name, level.units, level.weight, level.bias)
        self.stitched.profile = dict.fromkeys(profile, -1)  # neither dense nor at a level of the database
        return Mask.from_units(job.structure, {name: level.units for name, level in levels.items()})


METHOD = ZipLM

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "inputs": "dense",
        "damping": 0.0,
        "compensate": False,
        "padding": True,
        "fisher": False,
        "objective": "loss",
        "ratio": 0.9,
        "snap": False,
        "steps": 1000,
        "inits": 100,
        "probability": 0.1,
    }
}
