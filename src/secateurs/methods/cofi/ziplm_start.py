"""Gates and weights that start from ZipLM's answer for the same budget, instead of open gates and dense weights.

Kept units start open, in ZipLM's order. Removed units start closed, but within reach of the gradient. The weights are
ZipLM's, which already compensate for the removed units. The target is therefore met from the first step on.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from secateurs.context import PruneContext
from secateurs.gates.gates import Gates
from secateurs.methods.ziplm import ZipLM
from secateurs.structure.mask import Mask
from secateurs.structure.target import Budget

__all__ = ["ZipLMStart", "ziplm_start"]

OPEN = (2.0, 4.0)
"""``log_alpha`` of the kept units of a group, from the next one to be removed to the last one."""

CLOSED = -4.0
"""``log_alpha`` of the unit that was removed last; that of the unit removed first is at the lower bound."""


@dataclass(frozen=True)
class ZipLMStart:
    """ZipLM's answer.

    Args:
        weights: weights of the whole model at full size, with zeros in the columns of removed units.
        mask: the units that are kept.
        orders: group name -> units in the order of removal.
    """

    weights: Mapping[str, Tensor]
    mask: Mask
    orders: Mapping[str, Int[Tensor, " units"]]

    @torch.no_grad()
    def set(self, gates: Gates) -> None:
        """Open and close gates accordingly; hidden gates are not changed."""
        for group, (name, own) in enumerate(zip(gates.names, gates.fine.split(gates.sizes), strict=True)):
            kept = self.mask.counts[name]
            order = self.orders[name].to(own.device)
            closed, open_ = torch.linspace(-gates.reach, CLOSED, len(order) - kept), torch.linspace(*OPEN, kept)
            own[order] = torch.cat([closed, open_]).to(own)
            gates.coarse[group] = gates.reach if kept or not gates.coarse.requires_grad else -gates.reach


def ziplm_start(context: PruneContext, budget: Budget) -> ZipLMStart:
    """Run ZipLM with its defaults. Its artifacts are read and written where ZipLM itself keeps them.

    Args:
        context: its model is the dense model, which is not changed.
        budget: the budget to be met.

    Raises:
        TargetUnreachable: no choice of levels fits.
    """
    method = ZipLM(finalists=0)
    model = copy.deepcopy(context.model)  # ZipLM swaps tensors of its model
    own = replace(context, model=model, structure=method.structure(model))  # without the hidden size
    fitted = method.fit(own)
    mask = fitted.apply(fitted.allocate(budget), budget.folder)
    orders = fitted.database.orders
    # The refit may keep other units than the database. Kept units come last in the order.
    return ZipLMStart(
        own.model.state_dict(),
        mask,
        {name: _kept_last(orders[name], mask.units(name)) for name in context.structure.sizes if name in orders},
    )


def _kept_last(order: Int[Tensor, " units"], kept: Int[Tensor, " kept"]) -> Int[Tensor, " units"]:
    """The same order, with the kept units moved to its end, in the same order among themselves."""
    stays = torch.isin(order, kept)
    return torch.cat([order[~stays], order[stays]])
