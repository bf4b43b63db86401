"""Files of the dense model: which of them are handed over as they are, and what they say that the loaded model does not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateurs.artifacts import expanded, is_path

__all__ = [
    "SENTENCE_FILES",
    "card_metadata",
    "copy_image_processor",
    "copy_sentence_files",
    "copy_tokenizer",
    "model_file",
    "stored_pad_token_id",
]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "tokenizer.model",
    "spm.model",
)
"""Names of the files of a tokenizer in transformers, for all families of ``structure.families``."""

IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""Names of the files of an image processor in transformers."""

CHAT_TEMPLATES = "additional_chat_templates"
"""Folder of further chat templates."""

SENTENCE_FILES = (
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
"""Names of the files of a sentence-transformers model, other than ``modules.json``, that lie next to the weights."""


def model_file(source: str, name: str, revision: str | None = None) -> Path | None:
    """Local path of a file of a model folder or hub repository; ``None`` if there is no such file.

    Args:
        source: folder or hub id.
        name: path of the file, relative to ``source``.
        revision: branch, tag or commit on the hub.
    """
    from transformers.utils import cached_file

    if is_path(source):
        path = expanded(source) / name
        return path if path.is_file() else None
    found = cached_file(
        source,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return Path(found) if found else None


def copy_tokenizer(source: str, folder: Path, *, subfolder: str = "", revision: str | None = None) -> None:
    """Make the tokenizer files of a folder equal to those of the dense model, byte for byte.

    A tokenizer that transformers loaded and saved again may differ: a setting of its last call (truncation, padding) is
    saved with it, and some versions rename classes and files. Code that ``save_pretrained`` copied stays.

    Args:
        source: folder or hub id of the dense model.
        folder: folder of the pruned model. Tokenizer files that the dense model does not have are deleted.
        subfolder: subfolder of ``source`` that holds the tokenizer.
        revision: branch, tag or commit on the hub.
    """
    names = [*TOKENIZER_FILES]
    if is_path(source):
        templates = expanded(source) / subfolder / CHAT_TEMPLATES
        names += [f"{CHAT_TEMPLATES}/{path.name}" for path in sorted(templates.glob("*.jinja"))]
    _copy_all(names, source, folder, subfolder, revision)


def copy_image_processor(source: str, folder: Path, *, subfolder: str = "", revision: str | None = None) -> None:
    """Make the files of the image processor in a folder equal to those of the dense model; see ``copy_tokenizer``."""
    _copy_all(IMAGE_PROCESSOR_FILES, source, folder, subfolder, revision)


def _copy_all(names: Sequence[str], source: str, folder: Path, subfolder: str, revision: str | None) -> None:
    """Copy those of some files that the dense model has, and delete the others, unless it has none of them."""
    found = {name: model_file(source, _below(subfolder, name), revision) for name in names}
    if not any(found.values()):
        return
    for name, path in found.items():
        if path is None:
            (folder / name).unlink(missing_ok=True)
        else:
            _copy(path, folder / name)


def copy_sentence_files(source: str, folder: Path, *, revision: str | None = None) -> None:
    """Copy what sentence-transformers stores beside the weights of a model of one module, such as a ``CrossEncoder``.

    Args:
        source: folder or hub id of the dense model.
        folder: folder of the pruned model.
        revision: branch, tag or commit on the hub.
    """
    listing = model_file(source, "modules.json", revision)
    modules = json.loads(listing.read_text(encoding="utf-8")) if listing is not None else []
    paths = [str(module.get("path", "")) for module in modules]
    names = [*SENTENCE_FILES, *(["modules.json"] if listing is not None else [])]
    for name in [*names, *(f"{path}/config.json" for path in paths if path)]:
        found = model_file(source, name, revision)
        if found is not None:
            _copy(found, folder / name)


def stored_pad_token_id(source: str, *, subfolder: str = "", trust_remote_code: bool = False) -> int | None:
    """The id of the padding token in the config of the dense model; ``None`` if the config names none.

    Args:
        source: folder or hub id of the dense model.
        subfolder: subfolder of ``source`` that holds the config.
        trust_remote_code: whether Python code of the checkpoint may be run.
    """
    from transformers import AutoConfig

    location = str(expanded(source)) if is_path(source) else source
    config = AutoConfig.from_pretrained(location, subfolder=subfolder, trust_remote_code=trust_remote_code)
    return getattr(config, "pad_token_id", None)


def card_metadata(source: str, *, revision: str | None = None) -> Mapping[str, Any]:
    """The metadata at the head of the dense model's card; empty without a card, or if it cannot be read.

    Args:
        source: folder or hub id of the dense model.
        revision: branch, tag or commit on the hub.
    """
    from huggingface_hub import metadata_load

    try:
        found = model_file(source, "README.md", revision)
        values = metadata_load(found) if found is not None else None
    except Exception:  # not YAML, or a hub that is out of reach: a run does not fail over a card
        return {}
    return values if isinstance(values, dict) else {}


def _below(subfolder: str, name: str) -> str:
    return f"{subfolder}/{name}" if subfolder else name


def _copy(path: Path, target: Path) -> None:
    """Copy the content of a file; a file may be copied to its own place."""
    content = path.read_bytes()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
