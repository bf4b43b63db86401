"""Reading of data sets: a folder, a file or a hub id becomes named splits."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateurs.checkpoint.load_model import first_line, is_path
from secateurs.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["READERS", "local_path", "read_file", "read_splits"]

READERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".txt": "text"}
"""File suffix -> name of the builder in the ``datasets`` library that reads it."""

SIDE_FILES = {"dataset_infos.json", "dataset_info.json", "state.json", "dataset_dict.json"}
"""JSON files that ``datasets`` writes next to the data; they contain no rows."""


def local_path(source: str) -> Path | None:
    """The path that ``source`` names, or ``None`` if ``source`` is a hub id.

    Raises:
        DataError: ``source`` has the form of a path, and the path does not exist.
    """
    if not is_path(source):
        return None
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(f"the data {source} does not exist; give a folder, a file or a hub id like owner/name")
    return path


def read_splits(source: str) -> dict[str, Dataset]:
    """Read every split of a data set.

    Args:
        source: folder, file or hub id (``owner/name`` or ``owner/name:config``).

    Returns:
        The splits by name.

    Raises:
        DataError: the source does not exist, cannot be read, or has no rows.
    """
    path = local_path(source)
    if path is None:
        splits = _from_hub(source)
    elif path.is_file():
        splits = {_split_of(path, path.parent): read_file(path)}
    else:
        splits = _from_folder(path)
    if not any(len(rows) for rows in splits.values()):
        raise DataError(f"the data {source} has no rows in any split ({', '.join(splits)})")
    return splits


def read_file(*paths: Path) -> Dataset:
    """Read the rows of one file, or of several files of one type.

    Raises:
        DataError: the file type is unknown, or the content cannot be read.
    """
    from datasets import load_dataset

    kind = READERS.get(paths[0].suffix.lower())
    if kind is None:
        raise DataError(f"cannot read {paths[0]}: known kinds of file are {', '.join(READERS)}")
    options: dict[str, Any] = {"sep": "\t"} if paths[0].suffix.lower() == ".tsv" else {}
    try:
        with _quiet():
            if kind == "parquet" and (empty := _without_rows(paths)) is not None:
                return empty
            return load_dataset(kind, data_files=[str(path) for path in paths], split="train", **options)
    except Exception as error:  # the builders raise exceptions of many classes
        raise DataError(f"cannot read {paths[0]}: {first_line(error.__cause__ or error)}") from error


def _from_folder(folder: Path) -> dict[str, Dataset]:
    from datasets import DatasetDict, load_from_disk

    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        try:
            stored = load_from_disk(str(folder))
        except Exception as error:  # pyarrow and datasets raise exceptions of many classes
            raise DataError(f"cannot read {folder}: {first_line(error)}") from error
        return (
            {str(name): rows for name, rows in stored.items()} if isinstance(stored, DatasetDict) else {"all": stored}
        )
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        visible = not any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in READERS and path.is_file() and visible and path.name not in SIDE_FILES:
            found.setdefault(_split_of(path, folder), []).append(path)
    if not found:
        raise DataError(f"the folder {folder} holds no data; known kinds of file are {', '.join(READERS)}")
    splits: dict[str, Dataset] = {}
    for name, paths in found.items():
        kinds = sorted({path.suffix.lower() for path in paths})
        if len(kinds) > 1:
            raise DataError(
                f"the split {name!r} of {folder} has files of several kinds ({', '.join(kinds)}); keep one kind"
            )
        splits[name] = read_file(*paths)
    return splits


def _split_of(path: Path, folder: Path) -> str:
    """Name of the split of a file: its stem without the shard number, or its folder if the stem is only a number.

    ``train-00000-of-00002`` and ``train/0000`` both belong to the split ``train``.
    """
    stem = re.sub(r"-\d+-of-\d+(-[0-9a-f]+)?$", "", path.stem)
    if not re.fullmatch(r"[\d_-]+", stem):
        return stem
    return path.parent.name if path.parent != folder else "all"


def _from_hub(source: str) -> dict[str, Dataset]:
    from datasets import load_dataset

    name, _, config = source.partition(":")
    try:
        with _quiet():
            splits = load_dataset(name, config or None)
    except Exception as error:  # network, hub and builders raise exceptions of many classes
        raise DataError(
            f"cannot read the data {source}: it is neither a local file or folder nor readable on the hub "
            f"({first_line(error)})"
        ) from error
    return {str(split): rows for split, rows in splits.items()}


def _without_rows(paths: tuple[Path, ...]) -> Dataset | None:
    """An empty data set if no file has rows, otherwise ``None``; the Parquet builder of ``datasets`` fails without rows."""
    from datasets import Dataset
    from pyarrow import parquet

    files = [parquet.ParquetFile(path) for path in paths]
    if any(file.metadata.num_rows for file in files):
        return None
    return Dataset.from_dict({name: [] for name in files[0].schema_arrow.names})


@contextmanager
def _quiet() -> Iterator[None]:
    """Turn off the progress bars and log lines of ``datasets``; its errors arrive as exceptions."""
    import datasets

    shown, level = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if shown:
            datasets.enable_progress_bars()
