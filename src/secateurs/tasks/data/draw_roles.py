"""``draw_roles``: gives every text at most one role, before texts are sorted into batches.

Equal texts have the same role. So have neighbours: questions about one context, pairs with one first text, windows of one
place of a running text. A text that is also in the evaluation split is used for evaluation only.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from secateurs.errors import DataError
from secateurs.tasks.data.batches import MakeBatch, TextKey, batches_of, row_length
from secateurs.tasks.data.encode import Row
from secateurs.tasks.roles import Role, Roles, RoleSizes

if TYPE_CHECKING:
    from torch.utils.data import Dataset

__all__ = ["Pool", "draw_roles", "longer"]

GROUPS_PER_ROLE = 3
"""With fewer groups of neighbours per role, texts are divided one by one."""

SPARE = 4 / 3
"""Texts drawn per text of a search; the longer ones are kept. Short texts are easy to preserve: a search on them removes
what longer texts need."""


CHOOSING_SHARE = 0.25
"""Largest share of the texts on which a speed-up is chosen, and as many to report on; the others remain for the fit."""


class Pool(Protocol):
    """Texts that roles are drawn from. An item is what is tokenized in one piece; it gives one row, or several windows."""

    @property
    def collate(self) -> MakeBatch:
        """Pads rows to batches."""
        ...

    rows_per_item: int
    """Lower bound of the rows of an item, by which shortage is foreseen."""

    def text_keys(self) -> list[TextKey]:
        """The key of every item."""
        ...

    def draw(self, items: Sequence[int]) -> list[list[Row]]:
        """The rows of every given item."""
        ...

    def without(self, items: Collection[int]) -> Dataset[Any]:
        """Training rows of all other items."""
        ...


def draw_roles(
    pool: Pool,
    held_out: Pool | None,
    sizes: RoleSizes,
    *,
    split: str,
    held_out_split: str,
    batch_size: int,
    seed: int,
) -> tuple[Roles, Dataset[Any]]:
    """Draw the texts of every role at random.

    The report role is drawn from the evaluation split. Without one its texts are taken out of ``pool``.

    Args:
        pool: texts of the split for calibration and training.
        held_out: texts of the evaluation split; ``None`` if there is none.
        sizes: number of rows of every role.
        split: name of the split of ``pool``.
        held_out_split: name of the evaluation split.
        batch_size: rows per batch.
        seed: seed of the draw and of the order of the batches.

    Returns:
        The roles, and the rows that may be trained on: those of ``pool`` without the texts of the evaluation split and
        of the report role.

    Raises:
        DataError: a role that was asked for gets no text.
    """
    notes: list[str] = []
    keys = pool.text_keys()
    evaluated = {key.text for key in held_out.text_keys()} if held_out is not None else set[Hashable]()
    if all(key.text in evaluated for key in keys) and evaluated:
        notes.append(f"every text of {split} is also in {held_out_split}: nothing is held out")
        evaluated.clear()
    elif both := sum(key.text in evaluated for key in keys):
        notes.append(f"{both} texts of {split} are also in {held_out_split} and are used for evaluation only")
    wanted = {name: getattr(sizes, name) for name in ("report", "search", "accept", "choose", "fit")}
    rows: dict[str, list[Row]] = {}
    if held_out is not None:
        rows["report"] = _Draw(held_out, _grouped(held_out.text_keys(), seed, apart=True)).take(wanted.pop("report"))
    wanted = {name: size for name, size in wanted.items() if size}
    free = [key if key.text not in evaluated else None for key in keys]
    groups = _grouped(free, seed, apart=False)
    if len(groups) < min(GROUPS_PER_ROLE * len(wanted), sum(map(len, groups))):
        groups = _grouped(free, seed, apart=True)
        notes.append(f"{split} has few contexts (or first texts): neighbouring texts may have different roles")
    count = sum(map(len, groups)) * pool.rows_per_item
    if sizes.choose:
        most = max(1, int(CHOOSING_SHARE * count))
        wanted |= {name: min(wanted[name], most) for name in ("report", "choose") if name in wanted}
    draw = _Draw(pool, groups, seen={_identity(row) for row in rows.get("report", ())})
    taken: dict[str, list[int]] = {}
    for name, size in _affordable(wanted, count).items():
        spare = SPARE if name in ("search", "accept") and count >= 2 * sum(wanted.values()) else 1.0
        rows[name] = longer(draw.take(math.ceil(size * spare)), size, seed)
        taken[name] = draw.items
    reserved = taken.get("report", []) if held_out is None else []
    if not all(rows[name] for name in wanted):
        if sizes.choose:
            raise DataError(
                f"{split} has too few texts to choose on some that nothing else is done with; give a speed-up"
            )
        shared = _Draw(pool, _grouped(free, seed, apart=True)).take(max(wanted.values()))
        rows |= {name: shared[:size] for name, size in wanted.items()}
        reserved = []
        notes.append(f"{split} has only {len(shared)} distinct texts: {', '.join(wanted)} share them")
    else:
        _check_disjoint(rows, taken)
        if short := [name for name, size in wanted.items() if len(rows[name]) < size]:
            found = ", ".join(f"{len(rows[name])} of {wanted[name]} to {name}" for name in short)
            notes.append(f"fewer texts than asked for, since there are {len(keys)} rows in {split}: {found}")
    if not all(rows[name] for name in wanted):
        raise DataError(f"{split} has no text to calibrate on")
    if sizes.report and not rows["report"]:
        raise DataError(f"{held_out_split} has no text to report the divergence on; give a split with texts")
    splits = dict.fromkeys(rows, split)
    splits["report"] = held_out_split if held_out is not None else f"texts taken out of {split}"
    found_roles = {
        name: Role(batches_of(found, batch_size, pool.collate, seed), splits[name]) for name, found in rows.items()
    }
    texts_out = {keys[item].text for item in reserved} | evaluated
    out = {item for item, key in enumerate(keys) if key.text in texts_out}
    return Roles(**found_roles, split=split, notes=tuple(notes)), pool.without(out)


class _Draw:
    """Draws rows group by group.

    Args:
        pool: the texts.
        groups: items of every group, in the order in which they are drawn.
        seen: rows that are not drawn.

    Attributes:
        items: all items of the groups that the last ``take`` used.
    """

    def __init__(self, pool: Pool, groups: list[list[int]], seen: set[Hashable] | None = None) -> None:
        self.pool, self.waiting, self.seen = pool, groups[::-1], seen or set()
        self.items: list[int] = []

    def take(self, size: int) -> list[Row]:
        """The next ``size`` rows, all different; fewer at the end. A group that was begun is not used again."""
        rows: list[Row] = []
        self.items = []
        while len(rows) < size and self.waiting:
            items: list[int] = []
            while self.waiting and len(items) * self.pool.rows_per_item < size - len(rows):
                items += self.waiting.pop()
            self.items += items
            for row in (row for found in self.pool.draw(items) for row in found):
                if (identity := _identity(row)) not in self.seen:
                    self.seen.add(identity)
                    rows.append(row)
        return rows[:size]


def _identity(row: Row) -> Hashable:
    """The tokens: texts that differ in case or behind their truncation are the same to the model. Of an image: its pixels."""
    return tuple(row["input_ids"]) if "input_ids" in row else hash(row["pixel_values"].numpy().tobytes())


def _grouped(keys: Sequence[TextKey | None], seed: int, *, apart: bool) -> list[list[int]]:
    """Items by group in a random order of the groups, one item of equal texts; with ``apart`` every text is a group."""
    groups: dict[Hashable, dict[Hashable, int]] = {}
    for item, key in enumerate(keys):
        if key is not None:
            groups.setdefault(key.text if apart else key.group, {}).setdefault(key.text, item)
    listed = [list(group.values()) for group in groups.values()]
    order = torch.randperm(len(listed), generator=torch.Generator().manual_seed(seed))
    return [listed[index] for index in order.tolist()]


def _affordable(wanted: Mapping[str, int], count: int) -> dict[str, int]:
    """The sizes, reduced alike where they ask for more than ``count`` rows. The last role may take what others leave."""
    total = sum(wanted.values())
    if count >= total:
        return dict(wanted)
    last = list(wanted)[-1]
    return {name: size if name == last else max(1, size * count // total) for name, size in wanted.items()}


def longer(rows: list[Row], size: int, seed: int) -> list[Row]:
    """``size`` of the rows, each next one drawn with probability proportional to its length."""
    if len(rows) <= size:
        return rows
    draws = torch.rand(len(rows), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    lengths = torch.tensor([row_length(row) for row in rows], dtype=torch.float64)
    # The largest U^(1/length) first: weighted sampling without replacement (Efraimidis and Spirakis, 2006).
    chosen = (draws.log() / lengths).argsort(descending=True, stable=True)[:size]
    return [rows[index] for index in sorted(chosen.tolist())]


def _check_disjoint(rows: Mapping[str, list[Row]], items: Mapping[str, list[int]]) -> None:
    """Assert that no row and no item has two roles."""
    for parts in ([{_identity(row) for row in found} for found in rows.values()], [set(own) for own in items.values()]):
        assert sum(map(len, parts)) == len(set().union(*parts)), "a text has two roles"
