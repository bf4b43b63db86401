"""``Mask``: which units of every group are kept. Every method returns a ``Mask``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from secateurs.errors import CheckpointError, RecipeError
from secateurs.structure.structure import Structure

__all__ = ["Mask"]


@dataclass(frozen=True)
class Mask:
    """Which units of every group are kept.

    >>> mask = Mask({"layer.0.heads": torch.tensor([True, False, True])})
    >>> mask.counts
    {'layer.0.heads': 2}

    Args:
        kept: group name -> one boolean per unit, on the CPU; True = kept. The name of the stream is a key too where the
            hidden size is pruned.
    """

    kept: Mapping[str, Bool[Tensor, " units"]]

    @classmethod
    def full(cls, structure: Structure) -> Mask:
        """The mask that keeps every unit."""
        return cls({name: torch.ones(size, dtype=torch.bool) for name, size in structure.sizes.items()})

    @classmethod
    def from_units(cls, structure: Structure, units: Mapping[str, Int[Tensor, " kept"]]) -> Mask:
        """A mask from the indices of the kept units.

        Args:
            structure: the groups of the mask.
            units: group name -> indices of the kept units. Groups that are not named keep every unit.
        """
        mask = dict(cls.full(structure).kept)
        for name, indices in units.items():
            mask[name] = torch.zeros_like(mask[name])
            mask[name][indices] = True
        return cls(mask)

    def __getitem__(self, name: str) -> Bool[Tensor, " units"]:
        return self.kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.kept)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Mask)
            and self.kept.keys() == other.kept.keys()
            and all(torch.equal(self[name], other[name]) for name in self)
        )

    def __and__(self, other: Mask) -> Mask:
        """The mask that keeps the units kept by both masks."""
        return Mask({name: self[name] & other[name] for name in self})

    def then(self, later: Mask) -> Mask:
        """What is left of the units of this mask after a second pruning of the model that it left.

        >>> first = Mask({"layer.0.heads": torch.tensor([True, False, True])})
        >>> first.then(Mask({"layer.0.heads": torch.tensor([False, True])}))["layer.0.heads"].tolist()
        [False, False, True]

        Args:
            later: mask over the units that this mask keeps. A group of which it keeps none has no entry there.
        """
        kept = dict(self.kept)
        for name, again in later.kept.items():
            kept[name] = torch.zeros_like(self[name])
            kept[name][self.units(name)[again]] = True
        return Mask(kept)

    @property
    def counts(self) -> dict[str, int]:
        """Group name -> number of units kept."""
        return {name: int(kept.sum()) for name, kept in self.kept.items()}

    def units(self, name: str) -> Int[Tensor, " kept"]:
        """Indices of the kept units of a group, in ascending order."""
        return self.kept[name].nonzero().flatten()

    def check(self, structure: Structure) -> None:
        """Check that the mask has the groups and the sizes of a structure.

        Raises:
            RecipeError: the groups or their sizes differ.
        """
        sizes = {name: len(kept) for name, kept in self.kept.items()}
        if sizes != structure.sizes:
            wrong = sorted(set(sizes.items()) ^ set(structure.sizes.items()))
            raise RecipeError(f"the mask does not fit the model; groups that differ: {wrong[:4]}")

    def save(self, path: Path) -> None:
        """Write the mask to a safetensors file."""
        save_file({name: kept.to(torch.uint8) for name, kept in self.kept.items()}, path)

    @classmethod
    def load(cls, path: Path) -> Mask:
        """Read a mask that ``save`` wrote.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        try:
            return cls({name: kept.bool() for name, kept in load_file(path).items()})
        except Exception as error:
            raise CheckpointError(f"cannot read the mask {path}: {error}") from None
