"""Folders of texts by class, such as ``train/pos/0_9.txt`` (aclImdb) or ``sci.space/60862`` (20 newsgroups)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LabelFolders", "find_label_folders"]

logger = logging.getLogger(__name__)

UNLABELED = {"unsup", "unlabeled", "unlabelled"}
"""Names of folders of texts without a class."""

TABLES = {".parquet", ".csv", ".tsv", ".jsonl", ".json"}
"""Suffixes of files beside which folders of texts are not the data."""


@dataclass(frozen=True)
class LabelFolders:
    """Texts by class.

    Args:
        names: all classes, sorted, as in the folder builders of ``datasets``.
        splits: name of the split -> class -> files, one text each.
    """

    names: list[str]
    splits: dict[str, dict[str, list[Path]]]


def find_label_folders(folder: Path, is_split: Callable[[str], bool]) -> LabelFolders | None:
    """Find folders of texts by class, directly in a folder or in its splits.

    Args:
        folder: folder to search.
        is_split: whether the name of a folder or file states a split.

    Returns:
        The texts, or ``None`` if no split has two or more folders of texts, with two or more in each on average.
    """
    children = _folders(folder)
    splits = {child.name: _classes(child, is_split) for child in children if is_split(child.name)}
    if not splits and len(children) == 1 and not any(map(_is_text, _files(folder))):
        return find_label_folders(children[0], is_split)  # an archive that was unpacked into a folder of its own
    if not splits:
        tables = any(path.suffix.lower() in TABLES for path in _files(folder))
        splits = {} if tables else {"all": _classes(folder, is_split)}
    found = {
        name: classes
        for name, classes in splits.items()
        if len(classes) > 1 and sum(map(len, classes.values())) >= 2 * len(classes)
    }
    if not found:
        return None
    if len(found) < len(splits):
        left = ", ".join(splits.keys() - found.keys())
        logger.warning("%s: not read, because they hold no folders of texts by class: %s", folder, left)
    return LabelFolders(sorted({name for classes in found.values() for name in classes}), found)


def _classes(folder: Path, is_split: Callable[[str], bool]) -> dict[str, list[Path]]:
    """Class -> its files; empty if some folder holds other files than texts, or files of several splits."""
    found = {child.name: _files(child) for child in _folders(folder) if child.name not in UNLABELED}
    found = {name: files for name, files in found.items() if files}
    texts = all(_is_text(path) and not is_split(path.stem) for files in found.values() for path in files)
    return found if texts else {}


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _is_text(path: Path) -> bool:
    # The files of 20 newsgroups are numbers without a suffix.
    return path.suffix.lower() == ".txt" or path.name.isdigit()
