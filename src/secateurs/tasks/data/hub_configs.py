"""Splits that the card of a data set (``README.md``) lists under ``configs``, as in a clone of a repository of the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from secateurs.errors import DataError

__all__ = ["find_config"]


def find_config(folder: Path, chosen: str | None) -> dict[str, list[Path]] | None:
    """Find the files of a config by split, with the rules of ``datasets``.

    Args:
        folder: folder of the data set.
        chosen: name of the config, or ``None`` for the default or only one.

    Returns:
        The files, or ``None`` if the card lists none.

    Raises:
        DataError: the config does not exist, one of several has to be chosen, or its files do not exist.
    """
    configs = _configs(folder / "README.md")
    if not configs:
        if chosen is not None:
            raise DataError(f"the card of {folder} lists no configs, so there is none called {chosen!r}")
        return None
    name = chosen or next(iter(configs) if len(configs) == 1 else (n for n in configs if configs[n][0]), None)
    if name not in configs:
        what = "has several configs" if name is None else f"has no config {name!r}"
        names = list(configs)
        raise DataError(f"{folder} {what}; give one of {', '.join(names[:10])}, as in {folder}:{names[0]}")
    from datasets.data_files import DataFilesDict, sanitize_patterns

    try:
        files = DataFilesDict.from_patterns(sanitize_patterns(configs[name][1]), base_path=str(folder))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the config {name!r} of {folder}: {error}") from error
    return {split: sorted(map(Path, paths)) for split, paths in files.items()}


def _configs(card: Path) -> dict[str, tuple[bool, list[str]]]:
    """Name of every config with files -> whether it is the default one, and its patterns of files."""
    if not card.is_file() or not re.match(r"---\s", card.read_text(encoding="utf-8", errors="replace")):
        return {}
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    try:
        data: Any = DatasetCard.load(card).data
        configs = MetadataConfigs.from_dataset_card_data(data)
    except Exception:  # a README that is no card of a data set
        return {}
    found = {name: config for name, config in configs.items() if config.get("data_files")}
    return {name: (name == configs.get_default_config_name(), config["data_files"]) for name, config in found.items()}
