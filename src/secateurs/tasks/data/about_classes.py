"""What was understood about classes, for the user: which class of the data is which output of the model, and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from secateurs.tasks.base import Understood
from secateurs.tasks.data.classes import DataClass, ModelClasses, listed

__all__ = ["about_classes"]

SHOWN = 10
"""Maximum number of classes that are described one by one."""


def about_classes(
    outputs: Mapping[DataClass, int], counts: Mapping[str, Counter[DataClass]], model: ModelClasses, what: str = "row"
) -> list[Understood]:
    """One line per class, a line for the rest of many classes, and notes.

    Args:
        outputs: output of the model for every class of the data.
        counts: name of the split -> how often each class occurs.
        model: outputs of the model.
        what: what has a class, for the notes.
    """
    ordered = sorted(outputs, key=lambda each: (outputs[each], each.name))
    lines: list[Understood] = []
    for each in ordered[:SHOWN]:
        found = ", ".join(f"{count[each]} {name}" for name, count in counts.items())
        lines.append(("class", f"{each} is {model.names[outputs[each]]!r} (output {outputs[each]}): {found}"))
    if rest := ordered[SHOWN:]:
        found = ", ".join(f"{sum(count[each] for each in rest)} {name}" for name, count in counts.items())
        lines.append(("class", f"{len(rest)} more: {found}"))
    occurring = {outputs[each] for count in counts.values() for each in count}
    absent = [name for index, name in enumerate(model.names) if index not in occurring]
    if absent:
        lines.append(("note", f"no {what} has {len(absent)} of the model's classes: {listed(absent)}"))
    if model.unnamed and any(each.named for each in outputs if each.name not in model.by_name):
        lines.append(("note", "the model does not name its classes; those of the data are taken in their order"))
    return lines
