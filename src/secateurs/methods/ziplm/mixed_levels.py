"""``MixedLevels``: the levels that the search may choose from: fewer units, or (``allow=rank``) a low-rank option.

Both kinds stand in one list of options per group, priced by one latency table and compared by one measured divergence. An
option that is slower *and* worse than another one is left out. In options and in choices, a number of 0 or more is a kept
count; a number below 0 stands for a low-rank option.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from safetensors.torch import load_file, save_file

from secateurs.artifacts import write
from secateurs.context import PruneContext
from secateurs.errors import CheckpointError
from secateurs.latency.table import LatencyTable
from secateurs.methods.ziplm.low_rank_options import LowRankOption, LowRankOptions, input_projection_moments
from secateurs.numerics.hessian import Moments
from secateurs.oneshot.level_options import LevelOptions
from secateurs.oneshot.levels import Level, LevelDatabase
from secateurs.oneshot.stitch import Stitch
from secateurs.structure.allocation import Allocation
from secateurs.structure.structure import Structure

__all__ = ["MixedLevels", "mixed_options"]


class MixedLevels:
    """Levels of units and low-rank options of every group, by the numbers of the options.

    Args:
        units: level database.
        stitch: the live model.
        structure: the groups and their low-rank options.
        context: calibration batches, and the folder in which input moments are kept.
        padding: count PAD tokens too.
    """

    def __init__(
        self,
        units: LevelDatabase,
        stitch: Stitch,
        structure: Structure,
        context: PruneContext,
        *,
        padding: bool = False,
    ) -> None:
        self.units, self.stitch, self.structure, self.context, self.padding = units, stitch, structure, context, padding
        self.found: dict[str, list[LowRankOption]] = {}

    def level(self, name: str, number: int) -> Level:
        """The level of a group under a number of its options."""
        if number >= 0:
            return self.units.level(name, number)
        return self.ranks.level(name, self.found[name][-number - 1].ranks)

    def add_low_rank(self, options: Mapping[str, LevelOptions], table: LatencyTable) -> dict[str, LevelOptions]:
        """The options with low-rank options added. They are found once: all tables of a run have the same curves."""
        if not self.found:
            self.found = self.ranks.find(table, self.context.fit, self.context.device, self.context.track)
        return {name: mixed_options(own, self.found.get(name, ())) for name, own in options.items()}

    def allocation(self, choice: Mapping[str, int]) -> Allocation:
        """Kept units and ranks of every group, for one option per group."""
        kept = dict(self.structure.sizes)
        for name, number in choice.items():
            if number >= 0:
                kept[name] = number
            else:
                kept |= self.found[name][-number - 1].ranks
        return kept

    def levels(self, allocation: Mapping[str, int]) -> dict[str, Level]:
        """The levels of an allocation, fitted to dense inputs."""
        split: dict[str, dict[str, int]] = {}
        for group in self.structure.low_rank_options:
            if allocation[group.name] < group.size:
                split.setdefault(group.instead_of, {})[group.name] = allocation[group.name]
        return {
            group.name: self.ranks.level(group.name, split[group.name])
            if group.name in split
            else self.units.level(group.name, allocation[group.name])
            for group in self.units.structure
        }

    @cached_property
    def ranks(self) -> LowRankOptions:
        """The low-rank options; made at first use."""
        return LowRankOptions(self.stitch, self.structure, self.units.moments, self._input_moments())

    def _input_moments(self) -> dict[str, Moments]:
        """Moments of the input of the input projections; read from disk where an earlier run of this folder left them."""
        context = self.context
        path = context.folder / "inputs.safetensors"
        if path.is_file():
            return _load(path, self.stitch.structure)
        self.stitch.reset_all()
        moments = input_projection_moments(
            context.model,
            self.stitch.structure,
            context.fit,
            device=context.device,
            padding=self.padding,
            track=context.track,
        )
        tensors = {f"{name}/{key}": value for name, own in moments.items() for key, value in own.state_dict().items()}
        write(path, lambda partial: save_file(tensors, partial))
        return moments


def mixed_options(units: LevelOptions, low_rank: Sequence[LowRankOption]) -> LevelOptions:
    """Both kinds in one list, without options that are slower *and* worse than another one.

    Args:
        units: levels of units.
        low_rank: low-rank options of the same group; the first has the number -1.
    """
    choices = [*zip(units.kept, units.ms, units.error, strict=True)]
    for number, option in enumerate(low_rank):
        choices.append((-number - 1, option.ms, option.error))
    choices.sort(key=lambda choice: (choice[1], choice[2]))
    front: list[tuple[int, float, float]] = []
    for choice in choices:
        if not front or choice[2] < front[-1][2] or choice[0] == units.kept[-1]:
            front.append(choice)
    kept, ms, error = zip(*front, strict=True)
    return LevelOptions(kept, ms, error)


def _load(path: Path, structure: Structure) -> dict[str, Moments]:
    try:
        tensors = load_file(path)
        moments = {}
        for group in structure:
            start = f"{group.name}/"
            moments[group.name] = Moments.from_state(
                {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
            )
        return moments
    except Exception as error:
        raise CheckpointError(f"the moments {path} cannot be read ({error}); delete the file and run again") from None
