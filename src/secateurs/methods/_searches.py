"""ZipLM's searches over one level database: one for every target, each remembered on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from secateurs.allocation import Found, Menu, Profile, cheapest, nearby
from secateurs.artefact import read_json, write_json
from secateurs.errors import TargetUnreachable
from secateurs.job import Job
from secateurs.methods._candidates import Objective, Stitched, menus, task_loss
from secateurs.methods._finalists import best_fitted
from secateurs.methods._past import Past, Pasts
from secateurs.stages.coefficients import coefficient_search
from secateurs.stages.search import refine, sensitivities
from secateurs.target import Budget

if TYPE_CHECKING:
    from secateurs.methods.ziplm import ZipLM

__all__ = ["Searches", "longer_first"]

logger = logging.getLogger(__name__)

FITTED = 1024
"""Texts that a finalist is fitted on: with half as many, the fit is noisier than finalists differ."""

REACH = 3
"""Levels a group may move from where a search left it before its measured costs are no longer trusted."""


class Searches:
    """Finds a profile for a budget.

    Args:
        how: the hyper-parameters.
        job: model, texts and task.
        stitched: the live model over its levels.
        errors: group name -> relative layer error by kept count.
        offer: makes more of the menus of kept counts, with the same cost.
        fit: puts a profile into the live model as it would be handed over, fitted on these texts.
    """

    def __init__(
        self,
        how: ZipLM,
        job: Job,
        stitched: Stitched,
        errors: Mapping[str, torch.Tensor],
        offer: Callable[[dict[str, Menu], Any], dict[str, Menu]] = lambda menus, cost: menus,
        fit: Callable[[Profile, Sequence[Any]], None] | None = None,
    ) -> None:
        self.how, self.job, self.stitched = how, job, stitched
        self.errors, self.offer, self.fit = errors, offer, fit
        self.past = Pasts(job.folder / "searches.json")
        self._halves: tuple[Objective, Objective] | None = None

    def find(self, budget: Budget) -> Profile:
        """The profile for a budget: remembered, solved for next to one that was searched, or searched.

        Raises:
            TargetUnreachable: no choice of levels fits.
        """
        cost = budget.cost
        limit = budget.limit - cost.fixed
        if limit <= 0:
            raise TargetUnreachable(
                f"the budget of {budget.limit:.2f} is less than the {cost.fixed:.2f} that no cut can remove",
                cost.largest_speedup,
            )
        past = self.past.exactly(limit)
        offered = self.offer(menus(self.job.structure, cost, self.errors, self.how.ratio, self.how.snap), cost)
        if past is None:
            past = self._solve(offered, limit, budget.limit) or self._search(offered, limit, budget.limit)
            self.past.add(past)
        return past.profile

    def _solve(self, offered: Mapping[str, Menu], limit: float, budget: float) -> Past | None:
        """What the costs of a search of almost this budget say; no model is run."""
        near = self.past.close(limit, budget)
        if near is None:
            return None
        around = nearby(offered, near.profile, REACH)
        costs = {name: np.asarray(menu.pick(near.costs[name], offered[name])) for name, menu in around.items()}
        try:
            return Past(limit, budget, cheapest(around, costs, limit), near.costs, None, 0)
        except TargetUnreachable:
            return None

    def _search(self, offered: Mapping[str, Menu], limit: float, budget: float) -> Past:
        near = self.past.near(limit, budget)
        found = (self._paper if self.how.objective == "loss" else self._measured)(offered, limit, near)
        costs = {name: list(map(float, values)) for name, values in found.costs.items()}
        return Past(limit, budget, found.profile, costs, found.held_out, found.evaluations)

    def _measured(self, offered: Mapping[str, Menu], limit: float, near: Past | None) -> Found:
        """Our search: measured sensitivities, measured again around the incumbent, local moves."""
        how, job = self.how, self.job
        search, held_out = self._objectives()

        def settle(profile: Mapping[str, int]) -> None:
            search.settle(profile)
            held_out.settle(profile)

        if near is None:
            costs = self._sensitivities(search, offered)
        else:
            costs = {name: np.asarray(values) for name, values in near.costs.items()}
        found = refine(
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
        if near is not None or self.fit is None or how.finalists < 2:
            return found
        others = self._unseen()
        if sum(len(batch["input_ids"]) for batch in others) < FITTED:
            logger.info(
                "no finalists: that takes %d texts besides those of the search; give more to calibrate on", FITTED
            )
            return found
        return best_fitted(
            found, offered, limit, partial(self._fitted, others), tries=how.finalists, seed=job.seed, track=job.track
        )

    def _unseen(self) -> list[Any]:
        """The texts that the search does not look at."""
        looked = {id(batch) for half in self._objectives() for batch in half.replay.batches}
        return [batch for batch in self.job.batches if id(batch) not in looked]

    def _fitted(self, texts: Sequence[Any], profile: Profile) -> torch.Tensor:
        """Divergence after the last fit, on some of these texts, as seen on those of the search."""
        assert self.fit is not None
        self.fit(profile, texts[: max(1, FITTED // len(texts[0]["input_ids"]))])
        rows = torch.cat([half.now() for half in self._objectives()])
        self.stitched.invalidate()
        return rows

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

    def _objectives(self) -> tuple[Objective, Objective]:
        """Search texts and held-out texts: two disjoint samples of the calibration batches, long texts preferred."""
        if self._halves is None:
            batches = list(self.job.batches)
            order = longer_first(batches, self.job.seed)
            halves: tuple[list[Any], list[Any]] = ([], [])
            for position, index in enumerate(order):
                half = halves[position % 2]
                if sum(len(batch["input_ids"]) for batch in half) < self.how.search_samples:
                    half.append(batches[index])
            searched, held = halves
            # With a single batch there is nothing to hold out.
            build = partial(Objective, self.stitched, self.job)
            self._halves = build(searched), build(held or searched)
        return self._halves

    def _sensitivities(self, search: Objective, offered: Mapping[str, Menu]) -> dict[str, np.ndarray]:
        """Around the dense model: they serve every target, so they are measured once and kept."""
        path = self.job.folder / "sensitivities.json"
        kept = {name: list(menu.kept) for name, menu in offered.items()}
        if path.is_file():
            stored = read_json(path)
            if stored["kept"] == kept and stored["method"] == asdict(self.how):
                return {name: np.asarray(costs) for name, costs in stored["costs"].items()}
        search.settle(self.job.structure.sizes)
        costs = sensitivities(search, offered, self.job.structure.sizes, probes=self.how.probes, track=self.job.track)
        listed = {name: values.tolist() for name, values in costs.items()}
        write_json(path, {"method": asdict(self.how), "kept": kept, "costs": listed})
        return costs


def longer_first(batches: Sequence[Mapping[str, torch.Tensor]], seed: int) -> list[int]:
    """A random order of the batches; the next one is always drawn in proportion to its length.

    Short texts are easy to keep: a search on them gives up what longer ones need.
    """
    draws = torch.rand(len(batches), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    lengths = torch.tensor([batch["input_ids"].shape[1] for batch in batches], dtype=torch.float64)
    # The largest of U^(1/length) first: weighted sampling without replacement (Efraimidis and Spirakis, 2006).
    return (draws.log() / lengths).argsort(descending=True, stable=True).tolist()
