"""One small pruned model for every structure that the methods produce."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from masks import two_blocks_removed, uneven
from secateurs.methods.baselines.agp_unstructured import SparseModel, entry_groups, weights
from secateurs.structure.families import discover
from secateurs.structure.mask import Mask
from secateurs.surgery.factorize import factorize, matrices, rank_groups
from secateurs.surgery.input_selection import input_groups
from secateurs.surgery.low_rank_groups import with_low_rank_options
from secateurs.surgery.shrink import shrink, zero_masked

__all__ = ["ADAPTIVE", "RESULTS", "TYPES", "blocks_removed", "factored", "hidden", "masked", "selected"]

ADAPTIVE = "secateurs-adaptive-lm"
TYPES = ["bert", "gpt2", "llama", ADAPTIVE]
"""``nn.Linear`` with biases, ``Conv1D``, ``nn.Linear`` without biases, and an adaptive softmax."""


def blocks_removed(model: Any) -> Any:
    """Of ZipLM, CoFi, ``uniform``, ``magnitude`` and ``random-units``."""
    structure = discover(model)
    return shrink(model, structure, two_blocks_removed(structure))


def low_rank_options(model: Any) -> Any:
    """Of ZipLM with ``allow=rank``: some sub-blocks lost units, one is removed, the others have matrices of low rank."""
    structure = with_low_rank_options(model)
    cut = [group.name for index, group in enumerate(structure.without_low_rank_options()) if index % 2 == 0]
    kept = {name: torch.arange(structure[name].size // 2 if index else 0) for index, name in enumerate(cut)}
    for index, group in enumerate(structure.low_rank_options):
        if group.instead_of not in cut:
            kept[group.name] = torch.arange(min(group.size, 1 + 2 * (index % 4)))
    return shrink(model, structure, Mask.from_units(structure, kept))


def factored(model: Any) -> Any:
    """Of FLOP, AGP and FAC: matrices of ranks 0, 3, 5 and of full rank. Two blocks were removed before."""
    blocks_removed(model)
    factorize(model, matrices(model))
    groups = rank_groups(model)
    kept = {g.name: torch.arange(min(g.size, (0, 3, 5, g.size)[index % 4])) for index, g in enumerate(groups)}
    return shrink(model, groups, Mask.from_units(groups, kept))


def widths(model: Any) -> Any:
    """Of FLOP on an adaptive language model: the embeddings of its clusters have widths of 3, 0 and the full one."""
    structure = discover(model, embeddings=True)
    groups = [group.name for group in structure if group.name.startswith("embeddings.")]
    kept = {name: torch.arange((3, 0)[index]) for index, name in enumerate(groups[:2])}
    return shrink(model, structure, Mask.from_units(structure, kept))


def hidden(model: Any) -> Any:
    """Of CoFi and ZipLM with ``hidden``."""
    structure = discover(model, hidden=True)
    return shrink(model, structure, two_blocks_removed(structure))


def selected(model: Any) -> Any:
    """Of neuron pruning: matrices that use two thirds of their inputs, and one that uses none."""
    groups = input_groups(model)
    kept = {g.name: torch.arange(g.size) % 3 != 1 for g in groups}
    kept[groups.groups[1].name][:] = False
    return shrink(model, groups, Mask(kept))


def zeros(model: Any) -> Any:
    """Of ``agp-unstructured``: no unit is removed, half of the weights are zeros."""
    structure = entry_groups(model, "all")
    sparse = SparseModel(model, weights(structure))
    sparse.prune(0.5)
    return shrink(sparse.folded(), structure, Mask.full(structure))


def masked(model: Any) -> Any:
    """No result: a model with masked norms, and with skipped norms where blocks were removed before."""
    blocks_removed(model)
    structure = discover(model, hidden=True)
    zero_masked(model, structure, uneven(structure))
    return model


RESULTS: dict[str, Callable[[Any], Any]] = {
    "blocks removed": blocks_removed,
    "low-rank options": low_rank_options,
    "factored": factored,
    "hidden size": hidden,
    "selected inputs": selected,
    "zeros": zeros,
    "widths of embeddings": widths,
}
"""Structure -> function that prunes a tiny model in place and returns it."""
