"""Which files of a folder are data, and to which split each belongs.

The rules are those of ``datasets`` (``datasets.data_files``): the word of a split in the name of a folder or file, between
blanks, digits, dots, dashes or underscores, and ``data/<split>-00000-of-00002``. What they leave open is decided here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from secateurs.errors import DataError
from secateurs.tasks.data.splits import EVALUATION, TRAIN

__all__ = ["READERS", "find_files", "lone_split", "refusal", "split_word"]

logger = logging.getLogger(__name__)

READERS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".json": "json",
    ".txt": "text",
    **dict.fromkeys((".conll", ".bio", ".iob", ".iob2", ".train", ".dev", ".testa", ".testb"), "conll"),
}
"""File suffix -> kind of file."""

SIDE_FILES = {
    *("dataset_infos", "dataset_info", "dataset_dict", "state", "config", "metadata", "package", "vocab", "croissant"),
    *("labels", "label_map", "label_mapping", "labels_map", "id2label", "label2id", "classes", "class_names"),
    *("license", "licence", "copying", "notice", "readme", "changelog", "authors", "citation", "requirements"),
}
"""Names without suffix of JSON and text files that stand beside the data and contain no rows."""

SPLIT_SUFFIXES = {".train", ".dev", ".testa", ".testb"}
"""File suffixes that state the split (CoNLL-2003's ``eng.testa``)."""

JOINED = re.compile(r"(train|valid|validation|dev|val|test|eval)(set|data|split|file|a|b)s?")
"""Word of a split joined with another word, as in ``trainset.csv``."""

SHARD = re.compile(r"-\d+-of-\d+(-[0-9a-f]+)?$")


def find_files(folder: Path) -> dict[str, list[Path]]:
    """Find the data files of a folder by split.

    Raises:
        DataError: the folder holds no data, or what belongs together would have to be guessed.
    """
    paths = list(_data_files(folder))
    if not paths:
        raise DataError(f"the folder {folder} holds no data; known kinds of file are {', '.join(READERS)}")
    stated = {path: _stated(path.relative_to(folder)) for path in paths}
    if not any(stated.values()) and len(paths) > 1:
        stated = {path: _joined(path) for path in paths}
    if not any(stated.values()):
        return _without_split(folder, paths)
    groups: dict[str, dict[str, list[Path]]] = {}  # word of the split -> name of the split -> files
    for path, split in stated.items():
        if split is not None:
            groups.setdefault(split[0], {}).setdefault(split[1], []).append(path)
    found: dict[str, list[Path]] = {}
    for word, names in groups.items():
        for name, files in _apart(folder, word, names).items():
            found[name] = _one_kind(folder, name, files)
    left = [path.name for path, split in stated.items() if split is None]
    if left:
        logger.info("%s: not read, because their names state no split: %s", folder, ", ".join(left[:5]))
    return found


def _apart(folder: Path, word: str, names: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """The splits of all files with one word in their names.

    Names that differ in numbers alone are parts of one split. Other names of evaluation splits are splits of their own
    (``validation_matched``), and so are variants of a split that has the word as its name (``train_small`` beside
    ``train``). ``datasets`` joins those too.

    Args:
        folder: folder of the data set.
        word: word of the split.
        names: name of folder or file -> files.
    """
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(re.sub(r"[-_. 0-9]+", "_", name.lower()).strip("_"), []).append(name)
    if len(alike) > 1 and (word in EVALUATION or word in alike):
        return {
            same[0] if len(same) == 1 else key: [path for name in same for path in names[name]]
            for key, same in alike.items()
        }
    if len(alike) > 1:
        logger.warning("%s: the split %r is read from all of: %s", folder, word, ", ".join(names))
    name = next(iter(names)) if len(names) == 1 else word
    return {name: [path for files in names.values() for path in files]}


def split_word(name: str) -> str | None:
    """The word in a name that states a split, or ``None`` if there is none, or words of training and of evaluation."""
    words = re.split(r"[-_. 0-9]+", name.lower())
    found = [word for word in (*TRAIN, *EVALUATION) if word in words]
    return found[0] if found and not (found[0] in TRAIN and found[-1] in EVALUATION) else None


def _file_name(path: Path) -> str:
    """The name of a file without its suffix and without the number of its shard."""
    return SHARD.sub("", path.name if path.suffix.lower() in SPLIT_SUFFIXES else path.stem)


def _data_files(folder: Path) -> Iterator[Path]:
    tables = False
    texts: list[Path] = []
    for path in sorted(folder.rglob("*")):
        kind = READERS.get(path.suffix.lower())
        hidden = any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
        side = kind in ("json", "text") and path.stem.lower() in SIDE_FILES
        if kind is None or hidden or side or not path.is_file():
            continue
        if kind == "text":
            texts.append(path)
        else:
            tables = True
            yield path
    # Beside tables, only text files whose name states a split are data.
    yield from (path for path in texts if not tables or _stated(path.relative_to(folder)))


def _stated(path: Path) -> tuple[str, str] | None:
    """Word and name of the split that the path of a file states.

    Raises:
        DataError: folder and file state different splits.
    """
    name = _file_name(path)
    own = split_word(name)
    if SHARD.search(path.stem):
        return name, name
    for part in reversed(path.parts[:-1]):
        word = split_word(part)
        if word is not None:
            if own is not None and (own in TRAIN) != (word in TRAIN):
                raise DataError(
                    f"{path} could belong to the split {word!r} by its folder or to {own!r} by its name; "
                    f"name one file as the data, or rename the folder or the file"
                )
            return word, part
    if path.suffix.lower() in SPLIT_SUFFIXES:
        word = {".testa": "validation", ".testb": "test"}.get(path.suffix.lower(), path.suffix[1:].lower())
        return word, word
    return (own, name) if own is not None else None


def _joined(path: Path) -> tuple[str, str] | None:
    words = [match for word in re.split(r"[-_. 0-9]+", path.stem.lower()) if (match := JOINED.fullmatch(word))]
    return (words[0].group(1), words[0].group(1)) if len(words) == 1 else None


def _without_split(folder: Path, paths: list[Path]) -> dict[str, list[Path]]:
    """One split of all files."""
    kinds = {READERS[path.suffix.lower()] for path in paths}
    if len(kinds) > 1:
        raise DataError(refusal(folder, paths))
    if len(paths) == 1:
        return {lone_split(paths[0], folder): paths}
    return {"all": paths}


def lone_split(path: Path, folder: Path) -> str:
    """Name of the split of a single file: its own name, or the folder's name if its name is only a number."""
    name = _file_name(path)
    if not re.fullmatch(r"[\d_-]+", name):
        return name
    return path.parent.name if path.parent != folder else "all"


def refusal(folder: Path, paths: Sequence[Path]) -> str:
    """Error message for files that do not belong to one split."""
    first, *_, last = (str(path.relative_to(folder)) for path in paths)
    return (
        f"{folder} holds {len(paths)} files that are not of one kind with the same columns, such as {first} and {last}; "
        f"give one of them as the data ({folder / first}), or name them after their splits (train.csv, test.csv)"
    )


def _one_kind(folder: Path, name: str, paths: list[Path]) -> list[Path]:
    """The tables of a split, or its text files if it has no tables.

    Raises:
        DataError: the tables are of several kinds.
    """
    tables = [path for path in paths if READERS[path.suffix.lower()] != "text"] or paths
    kinds = sorted({path.suffix.lower() for path in tables})
    if len({READERS[kind] for kind in kinds}) > 1:
        raise DataError(
            f"the split {name!r} of {folder} has files of several kinds ({', '.join(kinds)}); keep one kind"
        )
    return tables
