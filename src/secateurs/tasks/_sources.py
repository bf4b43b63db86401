"""Where the rows come from: a folder, a file or a hub id -> named splits."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateurs.errors import DataError
from secateurs.tasks._loading import first_line, is_path

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Division", "divide", "local_path", "read_file", "read_splits"]

logger = logging.getLogger(__name__)

READERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".txt": "text"}
TRAIN = ("train", "training")
EVALUATION = (
    "validation",
    "valid",
    "val",
    "dev",
    "development",
    "test",
    "testing",
    "eval",
    "evaluation",
)  # by preference
HELD_OUT_SHARE, HELD_OUT_ROWS = 0.2, 2000
SIDE_FILES = {"dataset_infos.json", "dataset_info.json", "state.json", "dataset_dict.json"}


@dataclass(frozen=True)
class Division:
    """Which rows are for what.

    Args:
        rows: to calibrate on.
        held_out: to evaluate on; ``None`` if no split can be.
        trainable: ``rows`` may also be trained on.
        rows_name: where ``rows`` come from, in words.
        held_out_name: the same for ``held_out``.
    """

    rows: Dataset
    held_out: Dataset | None
    trainable: bool
    rows_name: str
    held_out_name: str


def local_path(source: str) -> Path | None:
    """The path meant by ``source``, or ``None`` for a hub id.

    Raises:
        DataError: it looks like a path and does not exist.
    """
    if not is_path(source):
        return None
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(f"the data {source} does not exist; give a folder, a file or a hub id like owner/name")
    return path


def read_splits(source: str) -> dict[str, Dataset]:
    """Every split of a folder, a file or a hub id (``owner/name`` or ``owner/name:config``).

    Raises:
        DataError: there is nothing to read, it cannot be read, or it is empty.
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
    """Rows of one file, or of several of one kind.

    Raises:
        DataError: the kind of file is not known, or its content cannot be read.
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
    except Exception as error:  # each builder raises its own
        raise DataError(f"cannot read {paths[0]}: {first_line(error.__cause__ or error)}") from error


def divide(
    source: str, splits: dict[str, Dataset], *, usable: Callable[[Dataset], bool], seed: int, contiguous: bool = False
) -> Division:
    """Choose rows to calibrate (and train) on and rows to evaluate on, never the same.

    Train is the split called so; evaluation is the first ``usable`` one of validation, dev, test and eval. Where only
    one split can serve, a fifth of it (at most 2,000 rows) is held out.

    Args:
        source: for messages.
        splits: name -> rows.
        usable: whether a split can be evaluated on (it has labels).
        seed: of the choice of the held-out rows.
        contiguous: hold out the last rows instead of random ones (running text).

    Raises:
        DataError: a split that would be used is empty.
    """
    train = _first(splits, TRAIN)
    held_out = next((name for name in _ordered(splits, EVALUATION) if usable(splits[name])), None)
    main = train or next((name for name in splits if name != held_out), None) or held_out
    assert main is not None
    for name in {main, held_out} - {None}:
        if not len(splits[name]):
            raise DataError(f"the split {name!r} of {source} has no rows; rows: {_sizes(splits)}")
    rows = splits[main]
    if held_out is not None and held_out != main:
        return Division(rows, splits[held_out], train is not None, main, held_out)
    if not usable(rows):
        return Division(rows, None, True, main, "none")
    size = min(int(len(rows) * HELD_OUT_SHARE), HELD_OUT_ROWS)
    if size < 1:
        raise DataError(f"the split {main!r} of {source} has {len(rows)} rows; at least 5 are needed to hold some out")
    if not contiguous:
        rows = rows.shuffle(seed=seed)
    kept = rows.select(range(len(rows) - size))
    return Division(kept, rows.select(range(len(kept), len(rows))), True, main, f"rows held out of {main}")


def _sizes(splits: dict[str, Dataset]) -> str:
    return ", ".join(f"{name} {len(rows)}" for name, rows in splits.items())


def _ordered(splits: dict[str, Dataset], words: tuple[str, ...]) -> list[str]:
    """The splits whose name holds one of the words, best word first."""
    return [name for word in words for name in splits if word in re.split(r"[-_.]", name.lower())]


def _first(splits: dict[str, Dataset], words: tuple[str, ...]) -> str | None:
    return next(iter(_ordered(splits, words)), None)


def _from_folder(folder: Path) -> dict[str, Dataset]:
    from datasets import DatasetDict, load_from_disk

    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        try:
            stored = load_from_disk(str(folder))
        except Exception as error:  # pyarrow and datasets raise their own
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
            raise DataError(f"the split {name!r} of {folder} has files of several kinds ({', '.join(kinds)}); keep one")
        splits[name] = read_file(*paths)
    return splits


def _split_of(path: Path, folder: Path) -> str:
    """``train-00000-of-00002`` -> train; ``train/0000`` -> train; other names stand for themselves."""
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
    except Exception as error:  # network, hub and builders raise their own
        raise DataError(
            f"cannot read the data {source}: it is neither a file or folder here nor readable on the hub "
            f"({first_line(error)})"
        ) from error
    return {str(split): rows for split, rows in splits.items()}


def _without_rows(paths: tuple[Path, ...]) -> Dataset | None:
    """The Parquet reader of datasets stumbles over files without rows."""
    from datasets import Dataset
    from pyarrow import parquet

    files = [parquet.ParquetFile(path) for path in paths]
    if any(file.metadata.num_rows for file in files):
        return None
    return Dataset.from_dict({name: [] for name in files[0].schema_arrow.names})


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and log lines of the reader: the caller shows its own, and errors come as exceptions."""
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
