"""``secateurs inspect``: print what can be pruned in a model, and what has been pruned already."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateurs.cli.options import AsJson, TrustRemoteCode

if TYPE_CHECKING:
    from rich.table import Table
    from transformers import PreTrainedModel

    from secateurs.structure.families import Family
    from secateurs.structure.structure import Structure

__all__ = ["describe", "inspect", "tables"]


def inspect(
    model: Annotated[
        str | None,
        typer.Argument(help="Folder in Hugging Face format, or hub id; none lists the supported model types."),
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Show what can be pruned in a model, and what has been pruned already; without a model, list the supported types."""
    from secateurs.cli.console import configure_logging, console

    configure_logging()
    if model is None:
        from secateurs.structure.families import overview

        families = overview()
        if as_json:
            typer.echo(json.dumps([asdict(family) for family in families], indent=1))
        else:
            console.print(_family_table(families))
        return
    found = describe(model, trust_remote_code=trust_remote_code)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for table in tables(found):
        console.print(table)


def describe(name: str, *, trust_remote_code: bool = False) -> dict[str, Any]:
    """What can be pruned in a model and, for a pruned model, what was measured when it was pruned; as JSON values.

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
    values = _groups(model, _structure(model, hidden="hidden" in original), original)
    return {"model": name, **values, "measured": block.get("measured")}


def tables(found: Mapping[str, Any]) -> Iterator[Table]:
    """Table of the groups; and for a pruned model, table of what was measured when it was pruned.

    Args:
        found: what ``describe`` returned.
    """
    yield _group_table(found)
    if found["measured"]:
        yield _measured_table(found["measured"])


def _structure(model: PreTrainedModel, *, hidden: bool) -> Structure:
    """Heads and neurons, the hidden size if ``hidden``, and the ranks of matrices that are factorised."""
    from secateurs.modeling.pruned_modules import is_factored
    from secateurs.structure.families import discover
    from secateurs.surgery.factorize import rank_groups

    structure = discover(model, hidden=hidden)
    if not any(is_factored(module) and module.rank for module in model.modules()):
        return structure
    return replace(structure, groups=(*structure.groups, *rank_groups(model)))


def _groups(model: PreTrainedModel, structure: Structure, original: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Numbers of parameters, and for every group its units now and before pruning.

    Args:
        model: dense or pruned model.
        structure: groups of the model as it is now.
        original: group -> its entry in the ``secateurs`` block of the config; empty for a dense model.
    """
    from secateurs.structure.cost import ParameterCost

    cost = ParameterCost.of(model, structure)
    total = int(cost(structure.sizes))
    groups = []
    for group in sorted({**original, **structure.sizes}, key=_numeric_order):
        size = structure.sizes.get(group, 0)
        before = original.get(group, {}).get("size", size)
        unit = total - int(cost({**structure.sizes, group: size - 1})) if size else 0
        merged = bool(not size and original[group]["kept"])  # the kept rank was above break-even: multiplied back
        groups.append(
            {
                "group": group,
                "units": original[group]["kept"] if merged else size,
                "of": before,
                "parameters_per_unit": unit,
                "share": unit * size / total,
                "one_matrix": merged,
            }
        )
    return {"parameters": total, "prunable": int(cost.prunable(structure.sizes)), "groups": groups}


def _group_table(found: Mapping[str, Any]) -> Table:
    """One row per group: its units now and before pruning, and how many parameters they have."""
    from rich.table import Table

    table = Table(
        "group", "units", "of", "parameters per unit", "share",
        title=f"{found['model']}: {found['parameters']:,} parameters, {found['prunable']:,} of them prunable",
        title_justify="left",
    )  # fmt: skip
    for group in found["groups"]:
        unit = group["parameters_per_unit"]
        share = f"{100 * group['share']:.1f} %" if unit else "one matrix" if group["one_matrix"] else "removed"
        table.add_row(group["group"], str(group["units"]), str(group["of"]), f"{unit:,}" if unit else "", share)
    return table


def _family_table(families: Sequence[Family]) -> Table:
    """One row per family file: its model types, marked by what else can be done with them."""
    from rich.table import Table

    table = Table(
        "family", "model types", title_justify="left", title=f"{sum(len(one.types) for one in families)} model types"
    )
    for one in families:
        marks = {name: ("*" if name in one.hidden else "") + ("°" if name in one.plain else "") for name in one.types}
        table.add_row(one.title.partition(":")[0].rstrip("."), ", ".join(name + mark for name, mark in marks.items()))
    table.caption = "* the hidden size too   ° an ordinary checkpoint where the layers that are left have one size"
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
