"""``StoredMoments``: the moments of every group in a file of its own, read when they are asked for.

The file also holds the order in which the units of the group are removed. All levels follow from the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxtyping import Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from secateurs.artifacts import write
from secateurs.errors import CheckpointError
from secateurs.numerics.hessian import Moments
from secateurs.structure.structure import Structure

__all__ = ["StoredMoments"]

_ORDER = "order"


class StoredMoments(Mapping[str, Moments]):
    """Group name -> moments. Those asked for last are remembered.

    Args:
        folder: holds one file per group.
        structure: names the groups.
    """

    def __init__(self, folder: Path, structure: Structure) -> None:
        self.folder, self.structure = folder, structure
        self._last: tuple[str, Moments] | None = None

    @property
    def complete(self) -> bool:
        """Whether all groups have a file."""
        return all(self._path(group.name).is_file() for group in self.structure)

    def put(self, name: str, moments: Moments, order: Int[Tensor, " units"]) -> None:
        """Write the file of a group."""
        tensors = {_ORDER: order, **moments.state_dict()}
        write(self._path(name), lambda path: save_file({key: own.contiguous() for key, own in tensors.items()}, path))

    def order(self, name: str) -> Int[Tensor, " units"]:
        """The units of a group in order of removal.

        Raises:
            CheckpointError: the file is damaged or of another model.
        """
        return self._read(name)[0].clone()  # a tensor of a file keeps the whole file in memory

    def __getitem__(self, name: str) -> Moments:
        """The moments of a group.

        Raises:
            CheckpointError: the file is damaged or of another model.
            KeyError: there is no such group.
        """
        if self._last is None or self._last[0] != name:
            self._last = name, self._read(name)[1]
        return self._last[1]

    def __iter__(self) -> Iterator[str]:
        return (group.name for group in self.structure)

    def __len__(self) -> int:
        return len(self.structure)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _read(self, name: str) -> tuple[Tensor, Moments]:
        group, path = self.structure[name], self._path(name)
        try:
            tensors = load_file(path)
            order, moments = tensors.pop(_ORDER), Moments.from_state(tensors)
            if len(order) != group.size or len(moments.mean) != group.size * group.width:
                raise ValueError(f"{len(order)} units, not {group.size}")
        except Exception as error:
            raise CheckpointError(
                f"the level database {path} cannot be read ({error}); delete its folder and run again"
            ) from None
        return order, moments
