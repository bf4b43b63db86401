"""Reading of data sets: a folder, a file or a hub id becomes named splits."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from secateurs.artifacts import expanded, is_path
from secateurs.checkpoint.refusals import first_line
from secateurs.errors import DataError
from secateurs.tasks.data import conll
from secateurs.tasks.data.cache import cache_folder, can_write
from secateurs.tasks.data.dialects import Table, read_table
from secateurs.tasks.data.fasttext import read_fasttext
from secateurs.tasks.data.hub_configs import find_config
from secateurs.tasks.data.json_files import read_object
from secateurs.tasks.data.label_folders import LabelFolders, find_label_folders
from secateurs.tasks.data.layouts import READERS, find_files, lone_split, refusal, split_word
from secateurs.tasks.data.text_files import read_text, refuse_tables

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["local_path", "read_file", "read_splits"]


def local_path(source: str) -> Path | None:
    """The path that ``source`` names, without its config, or ``None`` if ``source`` is a hub id.

    Raises:
        DataError: ``source`` has the form of a path, and the path does not exist.
    """
    if is_path(source):
        path = expanded(source)
        if path.exists():
            return path
    folder = expanded(source.rpartition(":")[0] or source)
    if folder.is_dir():
        return folder
    if is_path(source):
        raise DataError(f"the data {source} does not exist; give a folder, a file or a hub id like owner/name")
    return None


def read_splits(source: str) -> dict[str, Dataset]:
    """Read every split of a data set.

    Args:
        source: folder, file or hub id (``owner/name``); a folder or hub id may be followed by ``:config``.

    Returns:
        The splits by name.

    Raises:
        DataError: the source does not exist, cannot be read, or has no rows.
    """
    path = local_path(source)
    if path is None:
        splits = _from_hub(source)
    elif path.is_file():
        splits = {lone_split(path, path.parent): read_file(path)}
    else:
        config = source.rpartition(":")[2] if not expanded(source).exists() else None
        splits = _from_folder(path, config)
    if not any(len(rows) for rows in splits.values()):
        raise DataError(f"the data {source} has no rows in any split ({', '.join(splits)})")
    return splits


def read_file(*paths: Path) -> Dataset:
    """Read the rows of one file, or of several files of one type.

    Raises:
        DataError: the file type is unknown, the content cannot be read, or the files have different columns.
    """
    from datasets import load_dataset

    first = paths[0]
    kind = READERS.get(first.suffix.lower())
    if kind is None:
        raise DataError(f"cannot read {first}: known kinds of file are {', '.join(READERS)}")
    try:
        if (own := _read_own(paths, kind)) is not None:
            return own
        with _quiet():
            if kind == "parquet" and (empty := _without_rows(paths)) is not None:
                return empty
            files = [str(path) for path in paths]
            return load_dataset(kind, data_files=files, split="train", cache_dir=cache_folder())
    except DataError:
        raise
    except Exception as error:  # the builders raise exceptions of many classes
        if len(paths) > 1 and len({tuple(sorted(read_file(path).column_names)) for path in paths}) > 1:
            raise DataError(_refusal(paths)) from error
        raise DataError(f"cannot read {first}: {first_line(error.__cause__ or error)}") from error


def _refusal(paths: Sequence[Path]) -> str:
    return refusal(Path(os.path.commonpath([path.parent for path in paths])), paths)


def _read_own(paths: tuple[Path, ...], kind: str) -> Dataset | None:
    """Read files of the formats that are not left to ``datasets``: tables of text, CoNLL, fastText, and single JSON objects.

    Returns:
        The rows, or ``None`` for files of other formats.

    Raises:
        DataError: the files have different columns, or different formats.
    """
    from datasets import Dataset

    if kind == "json":
        objects = [read_object(path) if path.suffix.lower() == ".json" else None for path in paths]
        rows = [row for found in objects for row in found or ()]
        return Dataset.from_list(rows) if all(found is not None for found in objects) else None
    suffixes = {path.suffix.lower() for path in paths}
    tables: list[conll.Sentences | Table] = []
    if suffixes <= conll.ALWAYS | conll.MAYBE:
        tables = [found for path in paths if (found := conll.read_conll(path)) is not None]
    if kind == "conll" and not tables:
        raise DataError(f"cannot read {paths[0]}: it does not have one word a line with its tags")
    if kind == "csv" and not tables:
        tables = [read_table(path) for path in paths]
    if not tables and kind == "text":
        return _read_lines(paths)
    if not tables:
        return None
    if len(tables) < len(paths) or len({tuple(sorted(table.columns)) for table in tables}) > 1:
        raise DataError(_refusal(paths))
    return _joined(paths, tables)


def _read_lines(paths: tuple[Path, ...]) -> Dataset | None:
    """The lines of fastText files, with their labels; ``None`` for text files that are left to ``datasets``.

    Raises:
        DataError: a file is a table, or only some of the files are in the format of fastText.
    """
    found = [read_fasttext(path) for path in paths]
    tables = [table for table in found if table is not None]
    if len(tables) not in (0, len(paths)) or len({type(table.columns["label"][0]) for table in tables}) > 1:
        raise DataError(_refusal(paths))
    if tables:
        return _joined(paths, tables)
    for path in paths:
        refuse_tables(path)
    return None


def _joined(paths: tuple[Path, ...], tables: Sequence[conll.Sentences | Table]) -> Dataset:
    """The rows of several files with the same columns, with the lines where they stand."""
    from secateurs.tasks.data.places import Places, with_places

    lines = [(file, line) for file, table in enumerate(tables) for line in table.lines]
    columns = {name: [value for table in tables for value in table.columns[name]] for name in tables[0].columns}
    return with_places(columns, Places(tuple(path.name for path in paths), tuple(lines)))


def _from_folder(folder: Path, config: str | None) -> dict[str, Dataset]:
    from datasets import DatasetDict, load_from_disk

    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        try:
            stored = load_from_disk(str(folder))
        except Exception as error:  # pyarrow and datasets raise exceptions of many classes
            raise DataError(f"cannot read {folder}: {first_line(error)}") from error
        return (
            {str(name): rows for name, rows in stored.items()} if isinstance(stored, DatasetDict) else {"all": stored}
        )
    files = find_config(folder, config)
    if files is not None:
        return {name: read_file(*paths) for name, paths in files.items()}
    if (by_class := find_label_folders(folder, lambda name: split_word(name) is not None)) is not None:
        return _with_labels(by_class)
    return {name: read_file(*paths) for name, paths in find_files(folder).items()}


def _with_labels(found: LabelFolders) -> dict[str, Dataset]:
    """Texts and classes of every split."""
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=found.names)})
    splits: dict[str, Dataset] = {}
    for split, classes in found.splits.items():
        rows = [(read_text(path), name) for name, paths in classes.items() for path in paths]
        columns = {"text": [text for text, _ in rows], "label": [found.names.index(name) for _, name in rows]}
        splits[split] = Dataset.from_dict(columns, features=features)
    return splits


def _from_hub(source: str) -> dict[str, Dataset]:
    from datasets import config, load_dataset
    from huggingface_hub import constants

    name, _, subset = source.partition(":")
    try:
        with _quiet():
            splits = load_dataset(name, subset or None)
    except Exception as error:  # network, hub and builders raise exceptions of many classes
        if not can_write(Path(config.HF_DATASETS_CACHE)):
            raise DataError(
                f"cannot read the data {source}: the cache of datasets, {config.HF_DATASETS_CACHE}, cannot be written; set "
                "HF_HOME to a folder that can"
            ) from error
        if constants.HF_HUB_OFFLINE:
            raise DataError(
                f"cannot read the data {source}: it is no local file or folder, the cache does not have it, and "
                "HF_HUB_OFFLINE is set"
            ) from error
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
