"""``AllocationSearch``: from a level database to the choice of levels within a budget. Every search is kept on disk."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict
from functools import cached_property

import numpy as np
from jaxtyping import Float
from torch import Tensor

from secateurs.artifacts import read_json, write_json
from secateurs.context import PruneContext
from secateurs.errors import TargetUnreachable
from secateurs.methods.ziplm.search_cache import CachedSearch, SearchCache
from secateurs.methods.ziplm.settings import ZipLMSettings
from secateurs.oneshot.candidates import CandidateModel, DivergenceObjective, SearchObjective, TaskLossObjective
from secateurs.oneshot.gradient_search import gradient_search
from secateurs.oneshot.level_options import LevelOptions, SearchResult, cheapest, nearby
from secateurs.oneshot.levels import LevelDatabase
from secateurs.oneshot.paper_search import coefficient_search
from secateurs.oneshot.race import Race
from secateurs.oneshot.removals import measured_removals
from secateurs.oneshot.responses import responses
from secateurs.oneshot.search import refine, sensitivities
from secateurs.structure.allocation import Allocation
from secateurs.structure.structure import Structure

__all__ = ["AllocationSearch", "searches_by_gradient"]

logger = logging.getLogger(__name__)

TRUSTED_LEVELS = 3
"""Cached costs are trusted for options at most this many places away from the cached answer."""


def searches_by_gradient(settings: ZipLMSettings, structure: Structure) -> bool:
    """Whether the responses of the outputs price the levels of this structure.

    Not with a norm behind the projections: such a norm ignores the length of its input, so that the gradient is at right
    angles to the output, and removing all of it has a first-order response of 0.
    """
    return settings.searches_by_gradient and not any(group.post_norm for group in structure)


class AllocationSearch:
    """Searches over the options of all groups.

    Args:
        settings: hyper-parameters.
        context: model, texts and task.
        candidates: the live model over its levels.
    """

    def __init__(self, settings: ZipLMSettings, context: PruneContext, candidates: CandidateModel) -> None:
        self.settings, self.context, self.candidates = settings, context, candidates
        self.cache = SearchCache(context.folder / "searches.json")
        self._kept: dict[str, tuple[int, ...]] | None = None
        self._responses_of_kept: dict[str, Tensor] = {}
        self._removals: dict[str, float] = {}

    def solve_from_cache(self, options: Mapping[str, LevelOptions], limit: float, budget: float) -> CachedSearch | None:
        """The answer by the costs of a search for almost this budget, without running a model; ``None`` if there is none.

        Args:
            options: group name -> its options.
            limit: budget of all groups together, ms.
            budget: budget of the whole model, ms.
        """
        close = self.cache.close(limit, budget)
        if close is None:
            return None
        around = nearby(options, close.profile, TRUSTED_LEVELS)
        costs = {name: np.asarray(own.pick(close.costs[name], options[name])) for name, own in around.items()}
        try:
            return CachedSearch(limit, budget, cheapest(around, costs, limit), close.costs, None, 0)
        except TargetUnreachable:
            return None

    def by_divergence(
        self, options: Mapping[str, LevelOptions], limit: float, similar: CachedSearch | None
    ) -> SearchResult:
        """Measured sensitivities, measured again around the incumbent, then local moves.

        Args:
            options: group name -> its options.
            limit: budget of all groups together, ms.
            similar: a search for a similar budget whose costs replace the measurements.
        """
        settings, context = self.settings, self.context
        if similar is None:
            costs = self._dense_sensitivities(options)
        else:
            costs = {name: np.asarray(values) for name, values in similar.costs.items()}
        return refine(
            self.objective,
            options,
            costs,
            limit,
            rounds=settings.rounds if similar is None else 0,
            probes=settings.probes,
            steps=settings.steps if similar is None else settings.steps // 2,
            seed=context.seed,
            track=context.track,
        )

    def by_gradient(self, database: LevelDatabase, options: Mapping[str, LevelOptions], limit: float) -> SearchResult:
        """The responses of the outputs price every level; the best allocations by that price race on other texts.

        Args:
            database: level database of the dense model.
            options: group name -> its options.
            limit: budget of all groups together, ms.
        """
        priced = self._responses(database, options)
        race = self.race  # made while the model is dense
        return gradient_search(priced, self._measured_removals, options, limit, race, seed=self.context.seed)

    def by_loss(self, options: Mapping[str, LevelOptions], limit: float, similar: CachedSearch | None) -> SearchResult:
        """The paper's search: layer errors as prior, random coefficients, task loss (or the divergence without labels)."""
        settings, context = self.settings, self.context
        self.candidates.apply(self.candidates.stitch.structure.sizes)
        if all("labels" in batch for batch in context.search) or context.task.has_loss_without_labels:
            evaluate = TaskLossObjective(self.candidates, context, context.search)
        else:
            logger.warning("the calibration data has no labels: the search uses the divergence from the dense outputs")
            evaluate = DivergenceObjective(self.candidates, context, context.search)
        if similar is None:
            prior = {name: np.asarray(own.error) for name, own in options.items()}
        else:
            prior = {name: np.asarray(values) for name, values in similar.costs.items()}
        return coefficient_search(
            evaluate,
            options,
            prior,
            limit,
            # The costs of a similar search contain its coefficients, which are kept.
            inits=settings.inits if similar is None else 0,
            steps=settings.steps if similar is None else 0,
            probability=settings.probability,
            seed=context.seed,
            track=context.track,
        )

    @cached_property
    def objective(self) -> SearchObjective:
        """The divergence on the texts that propose, and on those that accept or reject."""
        return SearchObjective(self.candidates, self.context, self.context.search, self.context.accept)

    @cached_property
    def race(self) -> Race:
        """Compares allocations on the texts that accept or reject."""
        return Race(self.candidates, self.context, self.context.accept)

    def _responses(
        self, database: LevelDatabase, options: Mapping[str, LevelOptions]
    ) -> dict[str, Float[Tensor, "samples options"]]:
        """Responses around the dense model. They serve every target, so they are computed once."""
        kept = {name: own.kept for name, own in options.items()}
        if self._kept != kept:
            context, settings = self.context, self.settings
            self.candidates.apply(self.candidates.stitch.structure.sizes)
            self._responses_of_kept = responses(
                context, database, context.search, kept, directions=settings.directions, track=context.track
            )
            self._kept = kept
        return self._responses_of_kept

    def _measured_removals(self, names: Collection[str]) -> Mapping[str, float]:
        """The divergence without each of these groups. They serve every target, so each is measured once."""
        asked = [group.name for group in self.context.structure if group.name in names]
        if new := [name for name in asked if name not in self._removals]:
            self.candidates.apply(self.candidates.stitch.structure.sizes)
            self._removals |= measured_removals(self.candidates, self.context, self.context.search, new)
        return {name: self._removals[name] for name in asked}

    def _dense_sensitivities(self, options: Mapping[str, LevelOptions]) -> dict[str, np.ndarray]:
        """Sensitivities around the dense model. They serve every target, so they are measured once and kept on disk."""
        context = self.context
        sizes: Allocation = self.candidates.stitch.structure.sizes
        path = context.folder / "sensitivities.json"
        kept = {name: list(own.kept) for name, own in options.items()}
        settings = asdict(self.settings)
        if path.is_file():
            stored = read_json(path)
            if stored["kept"] == kept and stored["method"] == settings:
                return {name: np.asarray(costs) for name, costs in stored["costs"].items()}
        search = self.objective.search
        search.settle(sizes)
        costs = sensitivities(search, options, sizes, probes=self.settings.probes, track=context.track)
        listed = {name: values.tolist() for name, values in costs.items()}
        write_json(path, {"method": settings, "kept": kept, "costs": listed})
        return costs
