"""ZipLM (Kurtic, Frantar, Alistarh 2023, 2302.04089) step by step.

    fit         calibrate -> level database (structured OBS)
    allocate    options of every group -> responses -> search -> finalists
    apply       sequential refit -> zeros in the removed columns
    finetune    distillation of every layer, if the recipe asks for it

``fit`` runs once. The other steps run for every target, and ``allocate`` again for every correction of the contract.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from secateurs.context import PruneContext
from secateurs.errors import TargetUnreachable
from secateurs.latency.table import LatencyTable
from secateurs.methods.base import OneShotFitted
from secateurs.methods.ziplm.finalists import Finalists
from secateurs.methods.ziplm.mixed_levels import MixedLevels
from secateurs.methods.ziplm.search import AllocationSearch, searches_by_gradient
from secateurs.methods.ziplm.search_cache import CachedSearch
from secateurs.methods.ziplm.settings import FINALIST_TEXTS, FINALISTS_FROM, ZipLMSettings
from secateurs.numerics.hessian import Moments
from secateurs.oneshot.calibrate import calibrate
from secateurs.oneshot.candidates import CandidateModel
from secateurs.oneshot.dense_record import DenseRecord
from secateurs.oneshot.level_options import LevelOptions, SearchResult, level_options
from secateurs.oneshot.levels import Level, LevelDatabase, Projection
from secateurs.oneshot.sequential_refit import Refit, sequential_refit
from secateurs.oneshot.stitch import Stitch
from secateurs.oneshot.stored_moments import StoredMoments
from secateurs.oneshot.token_weights import TokenWeights
from secateurs.oneshot.walk_state import FirstStates
from secateurs.oneshot.windows import windows
from secateurs.structure.allocation import Allocation
from secateurs.structure.cost import Cost
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.structure.target import Budget
from secateurs.tasks.base import Batch, main_input

__all__ = ["FittedZipLM", "level_database"]

logger = logging.getLogger(__name__)


class FittedZipLM(OneShotFitted):
    """The level database of one model, and the searches over it.

    Args:
        settings: hyper-parameters.
        context: model, texts and task.
    """

    def __init__(self, settings: ZipLMSettings, context: PruneContext) -> None:
        self.settings, self.structure = settings, context.structure
        self.context = context = replace(context, structure=context.structure.without_low_rank_options())
        self.stitch = Stitch(context.model, context.structure)
        self.token_weights = (
            TokenWeights(context.model, context.structure, context.task.all_compared_outputs, context.seed)
            if settings.weighs_tokens
            else None
        )
        record = None
        if settings.inputs == "sequential":
            drifts = settings.drift_damping is not None
            record = DenseRecord(context.model, context.structure, input_drifts=drifts)
        self.database = level_database(settings, context, self.stitch, self.token_weights, record)
        self.starts = FirstStates(padding=settings.padding, record=record)
        self.levels = MixedLevels(self.database, self.stitch, self.structure, context, padding=settings.padding)
        self.candidates = CandidateModel(self.stitch, self.levels)
        self.search = AllocationSearch(settings, context, self.candidates)

    def allocate(self, budget: Budget) -> Allocation:
        """See ``Fitted.allocate``. A cached search answers the same budget, and almost the same budget, without a new one.

        Raises:
            TargetUnreachable: no choice of levels fits.
        """
        limit = budget.limit - budget.cost.fixed
        if limit <= 0:
            raise TargetUnreachable(
                f"the budget of {budget.limit:.2f} is less than the {budget.cost.fixed:.2f} that no cut can remove",
                budget.cost.largest_speedup,
            )
        cached = self.search.cache.exactly(limit)
        options = self.options(budget.cost)
        if cached is None:
            cached = self.search.solve_from_cache(options, limit, budget.limit) or self.new_search(
                options, limit, budget
            )
            self.search.cache.add(cached)
        return self.levels.allocation(cached.profile)

    @cached_property
    def errors(self) -> dict[str, Tensor]:
        """Group name -> relative error of every level. Computed once, because the contract allocates several times.

        Zeros where no search asks for them: responses price the levels.
        """
        if searches_by_gradient(self.settings, self.context.structure):
            return {group.name: torch.zeros(group.size + 1) for group in self.context.structure}
        return {group.name: self.database.errors(group.name) for group in self.context.structure}

    def options(self, cost: Cost) -> dict[str, LevelOptions]:
        """What every group may choose from, priced by ``cost``."""
        settings, context = self.settings, self.context
        options = level_options(
            context.structure, cost, self.errors, settings.ratio, settings.snap, context.dense_sizes
        )
        if settings.allow == "units":
            return options
        assert isinstance(cost, LatencyTable), "ranks are priced in milliseconds"
        return self.levels.add_low_rank(options, cost)

    def new_search(self, options: Mapping[str, LevelOptions], limit: float, budget: Budget) -> CachedSearch:
        """Search, and let the finalists compete; a search for a similar budget replaces the measurements."""
        similar = self.search.cache.similar(limit, budget.limit)
        if self.settings.objective == "loss":
            found = self.search.by_loss(options, limit, similar)
        else:
            found = (
                self.search.by_gradient(self.database, options, limit)
                if searches_by_gradient(self.settings, self.context.structure)
                else self.search.by_divergence(options, limit, similar)
            )
            if similar is None and self.settings.inputs == "sequential" and self.settings.finalists >= 2:
                found = self.best_finalist(found, options, limit)
        costs = {name: list(map(float, values)) for name, values in found.costs.items()}
        return CachedSearch(limit, budget.limit, found.allocation, costs, found.held_out, found.evaluations)

    def best_finalist(self, found: SearchResult, options: Mapping[str, LevelOptions], limit: float) -> SearchResult:
        """Refit near-optimal allocations on the texts to fit, and take the best one on the texts of the search."""
        context, tries = self.context, self.settings.finalists
        count = sum(len(main_input(batch)) for batch in context.fit)
        if count < FINALISTS_FROM:
            logger.info("no finalists: they need %d texts to fit; calibrate on more texts", FINALISTS_FROM)
            return found
        texts = context.fit[: max(1, round(len(context.fit) * FINALIST_TEXTS / count))]
        objective = self.search.objective
        finalists = Finalists(found, options, limit, tries=tries, seed=context.seed)
        for choice in context.track(finalists, "fit finalists", total=tries):
            self.refit(self.levels.allocation(choice), texts)
            finalists.tell(float(objective.installed().mean()))
            self.candidates.invalidate()
        return finalists.best

    def apply(self, allocation: Allocation, folder: str) -> Mask:
        """See ``Fitted.apply``. The refit may keep other units than the level database, but as many."""
        if self.settings.inputs == "sequential":
            levels = self.refit(allocation, self.context.fit)
        else:
            self.stitch.reset_all()
            levels = self.levels.levels(allocation)
        for name, level in levels.items():
            self.stitch.mask(name, level)
        self.candidates.invalidate()
        kept = {name: torch.arange(count) for name, count in allocation.items()}
        return Mask.from_units(self.structure, kept | {name: level.units for name, level in levels.items()})

    def refit(self, allocation: Allocation, batches: Sequence[Batch]) -> dict[str, Level]:
        """Fit an allocation to the inputs of the pruned model; the result is left in the live model."""
        settings = self.settings
        ranks = {
            group.product: allocation[group.name]
            for group in self.structure.low_rank_options
            if allocation[group.name] < group.size
        }
        how = Refit(
            damping=settings.damping,
            output_ridge=settings.refit_damping,
            drift_ridge=settings.drift_damping,
            ranks=ranks,
        )
        return sequential_refit(
            self.stitch,
            self.database,
            allocation,
            self.context,
            batches,
            how,
            starts=self.starts,
            token_weights=self.token_weights,
        )


def level_database(
    settings: ZipLMSettings,
    context: PruneContext,
    stitch: Stitch,
    token_weights: TokenWeights | None,
    record: DenseRecord | None,
) -> LevelDatabase:
    """Build the level database, window by window, or read what an earlier run of this folder left.

    The token weights of the first window serve all others, so that each of these takes one forward pass.
    """
    dense = {}
    for group in context.structure:  # on the CPU, where levels are computed
        bias = stitch.bias(group.name)
        dense[group.name] = Projection(stitch.weight(group.name).cpu(), None if bias is None else bias.cpu())
    folder = context.folder / "levels"
    how: dict[str, Any] = {"damping": settings.damping, "compensate": settings.compensate}
    for window in windows(context.structure, lambda group: Moments.bytes_for(group.size * group.width)):
        groups = Structure(window)
        if StoredMoments(folder, groups).complete:
            continue
        moments = calibrate(
            context.model,
            groups,
            context.fit,
            device=context.device,
            weigh=token_weights,
            padding=settings.padding,
            record=record,
            track=context.track,
        )
        LevelDatabase.build(groups, dense, moments, track=context.track, **how).save(folder)
    return LevelDatabase.load(folder, context.structure, dense, **how)
