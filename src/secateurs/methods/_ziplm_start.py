"""Where gates and weights may start instead of wide open and dense: at ZipLM's answer for the same budget.

Kept units start open, in ZipLM's order, removed ones shut but within reach, and the weights are ZipLM's, which already
make up for what is gone. So the target is met from the first step on, and all of the training is spent at it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateurs.job import Job
from secateurs.mask import Mask
from secateurs.methods.ziplm import ZipLM
from secateurs.stages.gates import Gates
from secateurs.target import Budget

__all__ = ["ZipLMStart", "ziplm_start"]

OPEN = (2.0, 4.0)
"""``log_alpha`` of the kept units of a group, from the next to go to the last."""

SHUT = -4.0
"""The same of the removed unit that went last; the first that went is out at the end of the gates' reach."""


@dataclass(frozen=True)
class ZipLMStart:
    """ZipLM's answer.

    Args:
        weights: of the whole model at full size, zeros in the columns of removed units.
        mask: what it keeps.
        orders: group name -> its units, first removed first.
    """

    weights: Mapping[str, Tensor]
    mask: Mask
    orders: Mapping[str, Tensor]

    @torch.no_grad()
    def set(self, gates: Gates) -> None:
        """Open and shut gates accordingly; hidden dimensions stay as open as they are."""
        for group, (name, own) in enumerate(zip(gates.names, gates.fine.split(gates.sizes), strict=True)):
            kept = self.mask.counts[name]
            order = self.orders[name].to(own.device)
            shut, open_ = torch.linspace(-gates.reach, SHUT, len(order) - kept), torch.linspace(*OPEN, kept)
            own[order] = torch.cat([shut, open_]).to(own)
            gates.coarse[group] = gates.reach if kept or not gates.coarse.requires_grad else -gates.reach


def ziplm_start(job: Job, budget: Budget) -> ZipLMStart:
    """Run ZipLM with its defaults; its artefacts lie where it would leave them itself, and are read where they are.

    Args:
        job: its model is the dense one; it is left alone.
        budget: what is to be met.

    Raises:
        TargetUnreachable: no choice of levels fits.
    """
    model = copy.deepcopy(job.model)  # ZipLM swaps tensors of its model
    own = replace(job, model=model, structure=ZipLM().structure(model))  # and leaves the hidden size as it is
    pruner = ZipLM(finalists=0).prepare(own)
    mask = pruner.install(pruner.choose(budget), budget.folder)
    database = pruner.database
    # The last fit may keep other units than the database: they come last in the order, whoever they are.
    orders = {
        name: _kept_last(database.orders[name], mask.units(name))
        for name in job.structure.sizes
        if name in database.orders
    }
    return ZipLMStart(own.model.state_dict(), mask, orders)


def _kept_last(order: Tensor, kept: Tensor) -> Tensor:
    """The same order, but for the kept units, which come last, in the same order among themselves."""
    stays = torch.isin(order, kept)
    return torch.cat([order[~stays], order[stays]])
