"""``Roles``: what every text of a run is used for. No text has two roles.

    fit       weights, levels and factors are fitted to these texts
    search    candidates are proposed by their divergence on these texts
    accept    candidates are accepted or rejected on these texts
    choose    the speed-up that keeps the quality is chosen on these texts (``--keep`` only)
    report    the divergence in the report is taken on these texts, and nothing else is done with them

The roles are drawn by ``secateurs.tasks.data.draw_roles``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["USES", "Role", "RoleSizes", "Roles"]

USES = {
    "fit": "weights are fitted",
    "search": "candidates are proposed",
    "accept": "candidates are accepted or rejected",
    "choose": "the speed-up that keeps the quality is chosen",
    "report": "the reported divergence is taken",
}
"""Role -> what is done on its texts."""


@dataclass(frozen=True)
class RoleSizes:
    """Number of texts (windows of running text and of long contexts) of every role; 0 leaves a role out."""

    fit: int = 0
    search: int = 0
    accept: int = 0
    report: int = 0
    choose: int = 0


@dataclass(frozen=True)
class Role:
    """The texts of one role.

    Args:
        batches: padded batches (CPU tensors), each with texts of similar length.
        split: name of the split that the texts come from.
    """

    batches: list[dict[str, Tensor]] = field(default_factory=list)
    split: str = ""

    @property
    def rows(self) -> int:
        """Number of texts."""
        return sum(len(next(iter(batch.values()))) for batch in self.batches)

    @property
    def tokens(self) -> int | None:
        """Number of tokens without padding; ``None`` for images, whose number of tokens only the model knows."""
        if any("attention_mask" not in batch for batch in self.batches):
            return None
        return sum(int(batch["attention_mask"].sum()) for batch in self.batches)


@dataclass(frozen=True)
class Roles:
    """The texts of all roles.

    Args:
        fit: texts that weights are fitted to; without batches if the method does not fit.
        search: texts that propose candidates; without batches if the method does not search.
        accept: texts that accept or reject candidates; without batches if the method does not need them.
        choose: texts on which the speed-up that keeps the quality is chosen; without batches unless ``keep`` is asked for.
        report: texts of the reported divergence, and of the reported kept quality.
        split: name of the split for calibration and training.
        notes: what a reader of the report must know about the division, in sentences without a full stop.
    """

    fit: Role = Role()
    search: Role = Role()
    accept: Role = Role()
    choose: Role = Role()
    report: Role = Role()
    split: str = ""
    notes: tuple[str, ...] = ()

    @property
    def by_name(self) -> dict[str, Role]:
        """Name of the role -> its texts, without empty roles."""
        return {name: role for name in USES if (role := getattr(self, name)).batches}

    def __str__(self) -> str:
        """One line: ``1024 texts of train to fit, 256 to search, 256 to accept, 256 of validation to report``."""
        parts: list[str] = []
        split = None
        for name, role in self.by_name.items():
            of = (
                ""
                if role.split == split
                else f" of {role.split}"
                if split or "texts" in role.split
                else f" texts of {role.split}"
            )
            parts.append(f"{role.rows}{of} to {name}")
            split = role.split
        return ", ".join(parts)
