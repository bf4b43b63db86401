"""The mixed search: every sub-block loses heads or neurons, *or* its matrices are split into factors of low rank.

Both ways stand side by side on one menu, priced by one latency table and judged by one measured divergence; what is slower
and worse than another choice is not offered. On a menu, and in a profile, a number below 0 stands for a splitting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from secateurs.allocation import Menu
from secateurs.artefact import write
from secateurs.errors import CheckpointError
from secateurs.job import Job
from secateurs.latency_table import LatencyTable
from secateurs.mask import Mask
from secateurs.methods._rank_levels import RankLevels, Splitting, input_moments
from secateurs.numerics.hessian import Moments
from secateurs.stages.levels import Level, LevelDatabase
from secateurs.stages.stitch import Stitch
from secateurs.structure import Structure

__all__ = ["MixedLevels", "mixed_menu"]


class MixedLevels:
    """Levels of units, and splittings, of every group; by the numbers of a menu.

    Args:
        units: the level database.
        stitch: the live model.
        structure: with the alternatives.
        job: texts, and the folder in which the moments of inputs are kept.
        padding: let PAD tokens count.
    """

    def __init__(
        self, units: LevelDatabase, stitch: Stitch, structure: Structure, job: Job, *, padding: bool = False
    ) -> None:
        self.units, self.stitch, self.structure, self.job, self.padding = units, stitch, structure, job, padding
        self.found: dict[str, list[Splitting]] = {}

    def level(self, name: str, number: int) -> Level:
        """A level of units, or, below 0, a splitting."""
        if number >= 0:
            return self.units.level(name, number)
        return self.ranks.level(name, self.found[name][-number - 1].ranks)

    def offer(self, menus: Mapping[str, Menu], table: LatencyTable) -> dict[str, Menu]:
        """The menus, with splittings; they are found once, all tables of a run having the same curves."""
        if not self.found:
            self.found = self.ranks.splittings(table, self.job.batches, self.job.device, self.job.track)
        return {name: mixed_menu(menu, self.found.get(name, ())) for name, menu in menus.items()}

    def mask(self, profile: Mapping[str, int]) -> Mask:
        """Units and ranks of a profile."""
        kept = {name: self.level(name, number).units for name, number in profile.items()}
        for name, number in profile.items():
            if number < 0:
                ranks = self.found[name][-number - 1].ranks
                kept |= {matrix: torch.arange(rank) for matrix, rank in ranks.items()}
        return Mask.from_units(self.structure, kept)

    def levels(self, mask: Mask) -> dict[str, Level]:
        """The levels that a mask says, on dense inputs."""
        counts = mask.counts
        split: dict[str, dict[str, int]] = {}
        for group in self.structure.alternatives:
            if counts[group.name] < group.size:
                split.setdefault(group.instead_of, {})[group.name] = counts[group.name]
        return {
            group.name: self.ranks.level(group.name, split[group.name])
            if group.name in split
            else self.units.level(group.name, counts[group.name])
            for group in self.units.structure
        }

    @cached_property
    def ranks(self) -> RankLevels:
        return RankLevels(self.stitch, self.structure, self.units.moments, self._reads())

    def _reads(self) -> dict[str, Moments]:
        """Moments of what feeders read, from disk where an earlier run of this folder left them."""
        path = self.job.folder / "inputs.safetensors"
        if path.is_file():
            return _load(path, self.stitch.structure)
        self.stitch.reset_all()
        moments = input_moments(
            self.job.model,
            self.stitch.structure,
            self.job.batches,
            device=self.job.device,
            padding=self.padding,
            track=self.job.track,
        )
        tensors = {f"{name}/{key}": value for name, own in moments.items() for key, value in own.state_dict().items()}
        write(path, lambda partial: save_file(tensors, partial))
        return moments


def mixed_menu(menu: Menu, splittings: Sequence[Splitting]) -> Menu:
    """Both ways in one menu, without what is slower *and* worse than something else.

    Args:
        menu: levels of units.
        splittings: of the same group, in the order of their numbers.
    """
    choices = [*zip(menu.kept, menu.ms, menu.error, strict=True)]
    for number, split in enumerate(splittings):
        choices.append((-number - 1, split.ms, split.error))
    choices.sort(key=lambda choice: (choice[1], choice[2]))
    front: list[tuple[int, float, float]] = []
    for choice in choices:
        if not front or choice[2] < front[-1][2] or choice[0] == menu.kept[-1]:
            front.append(choice)
    kept, ms, error = zip(*front, strict=True)
    return Menu(kept, ms, error)


def _load(path: Path, structure: Structure) -> dict[str, Moments]:
    try:
        tensors = load_file(path)
        return {
            group.name: Moments.from_state({key: tensors[f"{group.name}/{key}"] for key in ("gram", "total", "count")})
            for group in structure
        }
    except Exception as error:
        raise CheckpointError(f"the moments {path} cannot be read ({error}); delete the file and run again") from None
