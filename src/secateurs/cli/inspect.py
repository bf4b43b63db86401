"""``secateurs inspect``: print what can be pruned in a model, and what has been pruned already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateurs.cli.options import TrustRemoteCode

if TYPE_CHECKING:
    from rich.table import Table
    from transformers import PreTrainedModel

    from secateurs.structure.structure import Structure

__all__ = ["inspect", "tables"]


def inspect(
    model: Annotated[str, typer.Argument(help="Folder in Hugging Face format, or hub id.")],
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Show what can be pruned in a model, and what has been pruned already."""
    from secateurs.cli.console import configure_logging, console

    configure_logging(verbose=False)
    for table in tables(model, trust_remote_code=trust_remote_code):
        console.print(table)


def tables(name: str, *, trust_remote_code: bool = False) -> Iterator[Table]:
    """Table of the groups of a model; and for a pruned model, table of what was measured when it was pruned.

    Args:
        name: folder in Hugging Face format, or hub id.
        trust_remote_code: run Python code from the folder or hub repository of the model.

    Raises:
        CheckpointError: the model cannot be loaded.
        UnsupportedModelError: the model's type cannot be pruned.
    """
    from secateurs.checkpoint.saved_model import load_saved_model
    from secateurs.surgery.config_block import block_of

    model = load_saved_model(name, trust_remote_code=trust_remote_code)
    block = block_of(model) or {}
    original = block.get("groups", {})
    yield _group_table(model, _structure(model, hidden="hidden" in original), original, name)
    if block.get("measured"):
        yield _measured_table(block["measured"])


def _structure(model: PreTrainedModel, *, hidden: bool) -> Structure:
    """Heads and neurons, the hidden size if ``hidden``, and the ranks of matrices that are factorised."""
    from secateurs.modeling.pruned_modules import is_factored
    from secateurs.structure.families import discover
    from secateurs.surgery.factorize import rank_groups

    structure = discover(model, hidden=hidden)
    if not any(is_factored(module) and module.rank for module in model.modules()):
        return structure
    return replace(structure, groups=(*structure.groups, *rank_groups(model)))


def _group_table(
    model: PreTrainedModel, structure: Structure, original: Mapping[str, dict[str, Any]], name: str
) -> Table:
    """One row per group: its units now and before pruning, and how many parameters they have.

    Args:
        model: dense or pruned model.
        structure: groups of the model as it is now.
        original: group -> its entry in the ``secateurs`` block of the config; empty for a dense model.
        name: name of the model in the title.
    """
    from rich.table import Table

    from secateurs.structure.cost import ParameterCost

    cost = ParameterCost.of(model, structure)
    total = int(cost(structure.sizes))
    prunable = int(cost.prunable(structure.sizes))
    table = Table(
        "group", "units", "of", "parameters per unit", "share",
        title=f"{name}: {total:,} parameters, {prunable:,} of them prunable",
        title_justify="left",
    )  # fmt: skip
    for group in sorted({**original, **structure.sizes}, key=_numeric_order):
        size = structure.sizes.get(group, 0)
        before = original.get(group, {}).get("size", size)
        unit = total - int(cost({**structure.sizes, group: size - 1})) if size else 0
        share = f"{100 * unit * size / total:.1f} %" if size else "removed"
        if not size and original[group]["kept"]:  # the kept rank was above break-even: the factors were multiplied
            size, share = original[group]["kept"], "one matrix"
        table.add_row(group, str(size), str(before), f"{unit:,}" if unit else "", share)
    return table


def _numeric_order(group: str) -> tuple[int, str]:
    """Sort key that puts ``layer.10.heads`` after ``layer.9.heads``."""
    numbers = [int(part) for part in group.split(".") if part.isdigit()]
    return (numbers[0] if numbers else 0, group)


def _measured_table(values: Mapping[str, Any]) -> Table:
    """One row per measured value of a pruned model."""
    from rich.table import Table

    table = Table("measured when it was pruned", "", title_justify="left")
    for name, value in values.items():
        text = ", ".join(f"{key} {part}" for key, part in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(name.replace("_", " "), text)
    return table
