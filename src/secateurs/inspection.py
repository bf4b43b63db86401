"""``secateurs inspect``: what can be cut from a model, and what was cut already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rich.table import Table

from secateurs.cost import ParameterCost
from secateurs.factorize import rank_groups
from secateurs.families import discover
from secateurs.modeling_pruned import is_factored
from secateurs.shrink import edits_of
from secateurs.structure import Structure
from secateurs.timings import load_model

__all__ = ["tables"]


def tables(model: str, *, trust_remote_code: bool = False) -> Iterator[Table]:
    """One table of the groups; and one of the numbers a pruned model carries."""
    loaded = load_model(model, trust_remote_code)
    before = (edits_of(loaded) or {}).get("groups", {})
    structure = _everything(loaded, hidden="hidden" in before)
    yield _groups(loaded, structure, model)
    block = edits_of(loaded)
    if block and block.get("measured"):
        yield _measured(block["measured"])


def _everything(model: Any, *, hidden: bool) -> Structure:
    """Heads, neurons and, where matrices are pairs of factors, ranks."""
    structure = discover(model, hidden=hidden)
    if not any(is_factored(module) and module.rank for module in model.modules()):
        return structure
    return replace(structure, groups=(*structure.groups, *rank_groups(model)))


def _groups(model: Any, structure: Structure, name: str) -> Table:
    """Every group: how much is there, how much there was, and what one unit weighs."""
    cost = ParameterCost.of(model, structure)
    before = (edits_of(model) or {}).get("groups", {})
    total = int(cost(structure.sizes))
    prunable = int(cost.prunable(structure.sizes))
    table = Table(
        "group", "units", "of", "parameters a unit", "share",
        title=f"{name}: {total:,} parameters, {prunable:,} of them prunable",
        title_justify="left",
    )  # fmt: skip
    names = dict.fromkeys([*before, *structure.sizes])
    for group in sorted(names, key=_in_order):
        size = structure.sizes.get(group, 0)
        original = before.get(group, {}).get("size", size)
        unit = total - int(cost({**structure.sizes, group: size - 1})) if size else 0
        share = f"{100 * unit * size / total:.1f} %" if size else "removed"
        if not size and before[group]["kept"]:  # a rank above break-even
            size, share = before[group]["kept"], "one matrix"
        table.add_row(group, str(size), str(original), f"{unit:,}" if unit else "", share)
    return table


def _in_order(group: str) -> tuple[int, str]:
    """``layer.10.heads`` comes after ``layer.9.heads``."""
    numbers = [int(part) for part in group.split(".") if part.isdigit()]
    return (numbers[0] if numbers else 0, group)


def _measured(values: dict[str, Any]) -> Table:
    """The numbers that were measured when this model was made."""
    table = Table("measured when it was pruned", "", title_justify="left")
    for name, value in values.items():
        text = ", ".join(f"{key} {part}" for key, part in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(name.replace("_", " "), text)
    return table
