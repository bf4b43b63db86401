"""``Mask``: which units of every group are kept. The one currency in which every method pays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from secateurs.errors import CheckpointError, RecipeError
from secateurs.structure import Structure

__all__ = ["Mask"]


@dataclass(frozen=True)
class Mask:
    """Group name (and that of the stream, where it is to be cut) -> the units kept, as ``Bool[Tensor, "units"]`` on the CPU.

    >>> mask = Mask({"layer.0.heads": torch.tensor([True, False, True])})
    >>> mask.counts
    {'layer.0.heads': 2}
    """

    kept: Mapping[str, Bool[Tensor, " units"]]

    @classmethod
    def full(cls, structure: Structure) -> Mask:
        """Everything kept."""
        return cls({name: torch.ones(size, dtype=torch.bool) for name, size in structure.sizes.items()})

    @classmethod
    def from_units(cls, structure: Structure, units: Mapping[str, Int[Tensor, " kept"]]) -> Mask:
        """From kept unit indices; groups that are not named are kept whole."""
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
        """Units kept by both."""
        return Mask({name: self[name] & other[name] for name in self})

    @property
    def counts(self) -> dict[str, int]:
        """Group name -> number of units kept."""
        return {name: int(kept.sum()) for name, kept in self.kept.items()}

    def units(self, name: str) -> Int[Tensor, " kept"]:
        """Indices of the kept units of a group, ascending."""
        return self.kept[name].nonzero().flatten()

    def check(self, structure: Structure) -> None:
        """Raises:
        RecipeError: the mask is of another structure.
        """
        sizes = {name: len(kept) for name, kept in self.kept.items()}
        if sizes != structure.sizes:
            wrong = sorted(set(sizes.items()) ^ set(structure.sizes.items()))
            raise RecipeError(f"the mask does not fit the model; groups that differ: {wrong[:4]}")

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        save_file({name: kept.to(torch.uint8) for name, kept in self.kept.items()}, path)

    @classmethod
    def load(cls, path: Path) -> Mask:
        """Read what ``save`` wrote.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        try:
            return cls({name: kept.bool() for name, kept in load_file(path).items()})
        except Exception as error:
            raise CheckpointError(f"cannot read the mask {path}: {error}") from None
