"""What was understood about a data set, for the user to check before the work: splits, columns, classes, skipped rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from typing import TYPE_CHECKING

from secateurs.tasks.base import Columns, Understood
from secateurs.tasks.data.classes import DataClass, ModelClasses, listed
from secateurs.tasks.data.columns import NO_LABELS, TextColumns
from secateurs.tasks.data.splits import Division

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["NOT_EVALUATED", "about_classes", "about_columns", "about_skipped", "about_splits"]

NOT_EVALUATED = ("evaluation", "none without labels: the divergence from the dense model is reported")
"""What is said where no split has labels."""

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


def about_splits(division: Division, splits: Mapping[str, Dataset]) -> list[Understood]:
    """The rows and the use of every split.

    Args:
        division: the chosen rows.
        splits: all splits.
    """
    uses = "calibration and training" if division.trainable else "calibration"
    lines = [("split", f"{division.rows_name}: {len(division.rows)} rows, for {uses}")]
    if division.held_out is not None:
        lines.append(("split", f"{division.held_out_name}: {len(division.held_out)} rows, for evaluation"))
    if division.unlabelled is not None:
        count = len(division.unlabelled)
        lines.append(("split", f"{division.held_out_name}: {count} rows without labels, for the divergence only"))
    if division.together is not None:
        lines.append(("split", f"rows with the same {division.together!r} are on the same side"))
    used = {division.rows_name, division.held_out_name, *division.held_out_name.split(" of ")[1:]}
    if unused := [f"{name} ({len(rows)} rows)" for name, rows in splits.items() if name not in used]:
        lines.append(("not used", f"splits: {', '.join(unused)}"))
    return lines


def about_columns(
    texts: TextColumns | Mapping[str, str],
    label: str | None,
    what: str,
    columns: Columns,
    names: Sequence[str],
    form: str = "",
) -> Understood:
    """Which column is what, and which are not used.

    Args:
        texts: columns of the texts, or what each holds (``"question"``) -> its name.
        label: column of the labels; ``None`` if there is none.
        what: what the labels are called.
        columns: names given by the user.
        names: all columns.
        form: how the texts are read, if that needs saying.
    """
    if isinstance(texts, Mapping):
        used = list(texts.values())
        found = ", ".join(f"{role} is {name!r}" for role, name in texts.items())
    else:
        used = [name for name in (texts.text, texts.text_pair) if name is not None]
        found = f"text is {used[0]!r}" if len(used) == 1 else f"texts are {used[0]!r} and {used[1]!r}"
    if label is not None:
        labels = f"{what} is {label!r}"
    else:
        labels = "labels are ignored" if columns.label == NO_LABELS else f"there is no {what}"
    unused = [name for name in names if name not in used and name != label]
    return ("columns", f"{found}{form}, {labels}" + (f"; not used: {', '.join(unused)}" if unused else ""))


def about_skipped(before: Mapping[str, Sized], after: Mapping[str, Sized]) -> list[Understood]:
    """How many rows of each split were skipped; the log says why.

    Args:
        before: rows by the name of their split, as they were read.
        after: the same without the skipped rows.
    """
    return [
        ("skipped", f"{len(rows) - len(after[name])} of {len(rows)} {name} rows, which cannot be used")
        for name, rows in before.items()
        if len(rows) > len(after[name])
    ]
