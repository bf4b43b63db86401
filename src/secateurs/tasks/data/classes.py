"""Classes of a data set and classes of a model: which class of the data is which output of the model.

Names decide where there are any, case aside. Numbers decide where the data or the model have no names. Where names and
numbers contradict each other, or names do not match, the data are refused with the ways to read them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateurs.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["WITHOUT_LABELS", "DataClass", "ModelClasses", "class_of", "declared_names", "listed"]

UNNAMED = re.compile(r"(label|class)[ _-]?\d+", re.IGNORECASE)
"""Names of classes that say nothing, such as transformers' own ``LABEL_0``."""

WITHOUT_LABELS = "--label-column none prunes without labels and reports the divergence from the dense model only"
"""The reading that is always possible; part of error messages."""


@dataclass(frozen=True, order=True)
class DataClass:
    """A class as the data state it.

    Args:
        name: name of the class, or its number as text.
        number: number of the class; ``None`` if the data have a name only.
        named: whether ``name`` is more than the number as text.
    """

    name: str
    number: int | None = None
    named: bool = False

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class ModelClasses:
    """The outputs of a model and their names.

    Args:
        names: name of every output, from ``id2label``.
        by_name: output by its name, with the further names of ``label2id``.
    """

    names: tuple[str, ...]
    by_name: dict[str, int]

    @classmethod
    def of(cls, config: Any) -> ModelClasses:
        """The classes of a model.

        Args:
            config: config of the model.
        """
        count = int(config.num_labels)
        named = {int(index): str(name) for index, name in (config.id2label or {}).items()}
        names = tuple(named.get(index, f"LABEL_{index}") for index in range(count))
        by_name = {name: index for index, name in enumerate(names)}
        for name, index in (config.label2id or {}).items():
            if 0 <= int(index) < count:
                by_name.setdefault(str(name), int(index))
        return cls(names, by_name)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def unnamed(self) -> bool:
        """Whether the names of the classes say nothing."""
        return all(UNNAMED.fullmatch(name) for name in self.names)

    def find(self, name: str) -> int | None:
        """The class with a name: the same name, or else the only one that differs in case, blanks, ``_`` and ``-`` alone."""
        if name in self.by_name:
            return self.by_name[name]
        found = {index for own, index in self.by_name.items() if _plain(own) == _plain(name)}
        return found.pop() if len(found) == 1 else None

    def match(self, classes: Collection[DataClass], how: str | None, where: str) -> dict[DataClass, int]:
        """The output of the model for every class of the data.

        Args:
            classes: all classes that occur in the data.
            how: ``"name"`` or ``"number"``, as the user chose; ``None`` decides by the rules of this module.
            where: column and data set, for error messages.

        Raises:
            DataError: a class has no output, or it would have to be guessed which.
        """
        by_name = {each: index for each in classes if (index := self.find(each.name)) is not None}
        by_number = {
            each: number for each in classes if (number := each.number) is not None and 0 <= number < len(self)
        }
        named = any(each.named for each in classes)
        if how == "number" or (how is None and not named and not by_name):
            return self._whole(by_number, classes, where)
        if how is None and len(by_name) == len(by_number) == len(classes) and not named and by_name != by_number:
            raise DataError(
                f"{where} holds the numbers {listed(classes)}, which are also names of classes of the model "
                f"({listed(self.names)}) and mean other classes by name than by number; choose: --classes name takes "
                f"{_first(by_name, self)}; --classes number takes {_first(by_number, self)}; {WITHOUT_LABELS}"
            )
        if len(by_name) == len(classes):
            return by_name
        if how is None and len(by_number) == len(classes) and (not named or self.unnamed):
            return by_number
        if how is None and not named:
            return self._whole(by_number, classes, where)
        unknown = sorted(str(each) for each in set(classes) - by_name.keys())
        if set(by_number) == set(classes):
            other = f"--classes number takes {_first(by_number, self)}"
        else:
            other = "name the classes of the data as the model names them, or choose another --label-column"
        raise DataError(
            f"{where} has classes the model does not know ({listed(unknown)}); the classes of the data are "
            f"{listed(sorted(map(str, classes)))}; the model's are {listed(self.names)}; choose: {other}; {WITHOUT_LABELS}"
        )

    def _whole(self, found: dict[DataClass, int], classes: Collection[DataClass], where: str) -> dict[DataClass, int]:
        """The map, if it has every class; otherwise refuse."""
        lost = [each for each in classes if each not in found]
        if lost:
            raise DataError(
                f"{where} holds the label {listed(lost)}; the model has classes 0..{len(self) - 1} "
                f"({listed(self.names)}); choose another --label-column, or: {WITHOUT_LABELS}"
            )
        return found


def declared_names(rows: Dataset, column: str) -> list[str] | None:
    """The names of the classes that the data set declares for a column (``ClassLabel``), if it does."""
    feature: Any = rows.features[column]
    feature = getattr(feature, "feature", feature)  # of a list: what its elements are
    return list(feature.names) if hasattr(feature, "names") else None


def class_of(value: Any, declared: list[str] | None = None) -> DataClass | None:
    """The class that a value of a label column states, or ``None`` if it states none (a fraction, a list).

    Text that is a number is a number.

    Args:
        value: value of the column.
        declared: names that the data set declares for the numbers of the column.
    """
    if isinstance(value, bool):
        return DataClass(str(value), int(value))
    if isinstance(value, int | float):
        if int(value) != value:
            return None
        number = int(value)
        if declared is None or not 0 <= number < len(declared):
            return DataClass(str(number), number)
        if sorted(declared) == sorted(map(str, range(len(declared)))):
            return DataClass(declared[number], int(declared[number]))
        return DataClass(declared[number], number, named=True)
    if not isinstance(value, str):
        return None
    text = value.strip()
    if re.fullmatch(r"[+-]?\d+(\.0+)?", text):
        return DataClass(text, int(float(text)))
    return DataClass(text, None, named=True)


def listed(names: Iterable[Any], most: int = 8) -> str:
    """Names separated by commas, shortened if there are many."""
    shown = [str(name) for name in names]
    more = f", and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def _first(found: dict[DataClass, int], model: ModelClasses) -> str:
    """The start of a map, for error messages."""
    pairs = sorted(found.items(), key=lambda pair: pair[1])
    return listed((f"{own} as {model.names[index]}" for own, index in pairs), 3)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip().casefold())
