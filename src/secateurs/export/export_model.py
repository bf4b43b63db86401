"""``export_model``: write a model as a file of another runtime, check it, and put beside it what readers of it need."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from secateurs.checkpoint.dense_files import copy_image_processor, copy_sentence_files, copy_tokenizer
from secateurs.checkpoint.saved_model import load_saved_model
from secateurs.errors import CheckpointError, RecipeError, UnsupportedModelError
from secateurs.export import readers
from secateurs.export.check import TOLERANCE, Difference, largest_difference
from secateurs.export.check_steps import difference_of_steps
from secateurs.export.real_inputs import LONGEST, TEXTS, batches_of
from secateurs.export.with_cache import is_decoder, traced_with_cache
from secateurs.latency.environment import Environment
from secateurs.latency.runtimes import FileRuntime, names, runtime
from secateurs.latency.traced import traced
from secateurs.latency.workload import random_batch, sequence_limit

__all__ = ["RECORD", "Exported", "export_model", "file_runtimes"]

RECORD = "secateurs_export.json"
"""File in which an exported folder says what it was made from, and how far it is from PyTorch."""


@dataclass(frozen=True)
class Exported:
    """An exported folder.

    Args:
        folder: the folder.
        runtime: name of the runtime.
        difference: largest difference from PyTorch, on real inputs.
        bytes: size of the files of the runtime.
        with_cache: whether the file is one step of a decoder with its cache.
    """

    folder: str
    runtime: str
    difference: Difference
    bytes: int
    with_cache: bool

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return asdict(self)


def file_runtimes() -> list[str]:
    """Names of the runtimes that execute files."""
    return [name for name in names() if isinstance(runtime(name), FileRuntime)]


def export_model(
    source: str,
    to: str,
    out: Path,
    *,
    texts: Sequence[str] = TEXTS,
    int8: bool = False,
    trust_remote_code: bool = False,
) -> Exported:
    """Write a model as a file of another runtime, and check it against PyTorch.

    Args:
        source: folder or hub id of the model, dense or pruned.
        to: name of the runtime, one of ``file_runtimes``.
        out: the new folder; an older export there is replaced.
        texts: texts on which the file is checked, and on which int8 is calibrated where the runtime needs that.
        int8: write weights and matrix products in int8. The difference is then told, and refused only if it is not a number.
        trust_remote_code: whether Python code of the checkpoint may be run.

    Returns:
        What was written.

    Raises:
        RecipeError: there is no such runtime, or it is not installed; or ``out`` holds something else.
        UnsupportedModelError: the model cannot be exported.
        CheckpointError: the file differs from PyTorch by more than ``TOLERANCE``; nothing is left of it.
    """
    target = _target(to)
    if int8:
        target.check_int8()
    _check_place(out, source)
    model: Any = load_saved_model(source, trust_remote_code=trust_remote_code)
    if model.config.is_encoder_decoder:
        raise UnsupportedModelError(
            f"{type(model).__name__} is an encoder-decoder, which is not exported yet; encoders and decoders are"
        )
    batches = batches_of(model, source, texts, trust_remote_code=trust_remote_code)
    example = random_batch(model, Environment(batch_size=2, sequence_length=6), seed=0)
    flags = {name: value for name, value in example.items() if not isinstance(value, torch.Tensor)}
    with_cache = is_decoder(model)
    if int8 and with_cache:
        raise UnsupportedModelError(f"{type(model).__name__} is a decoder, and int8 is written for encoders only")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        environment = Environment(threads=torch.get_num_threads())
        if with_cache:
            plain = traced_with_cache(model, example)
            target.export(plain, partial)
            difference = difference_of_steps(model, partial, batches)
        else:
            plain = traced(model, {**{name: value[:2] for name, value in batches[-1].items()}, **flags})
            plain = replace(plain, calibration=tuple(batches)) if int8 else plain
            target.export(plain, partial)
            difference = largest_difference(model, target.load(partial, environment), batches, flags)
        if not (math.isfinite(difference.largest) if int8 else difference.accepted):
            raise CheckpointError(
                f"the file for {to} differs from PyTorch by {difference.largest:.2g} in {difference.output} "
                f"(allowed: {TOLERANCE * difference.scale:.2g}); nothing was written"
            )
        _write_rest(model, source, target, partial, with_cache, int8, difference)
        size = sum((partial / name).stat().st_size for name in target.files if (partial / name).is_file())
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Exported(str(out), to, difference, size, with_cache)


def _target(to: str) -> FileRuntime:
    """The runtime to export to."""
    found = runtime(to) if to in names() else None
    if not isinstance(found, FileRuntime):
        raise RecipeError(f"cannot export to {to!r}; choose one of: {', '.join(file_runtimes())}")
    found.check_installed()
    return found


def _check_place(out: Path, source: str) -> None:
    """Check that the new folder may be written: it is absent, empty, or holds an older export.

    Raises:
        RecipeError: it is the model's own folder, or holds something else.
    """
    if out.exists() and Path(source).exists() and out.resolve() == Path(source).resolve():
        raise RecipeError(f"{out} is the folder of the model itself; name another one with --out")
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / RECORD).is_file())):
        raise RecipeError(f"{out} exists and holds no earlier export; name another folder with --out")


def _write_rest(
    model: Any, source: str, target: FileRuntime, folder: Path, with_cache: bool, int8: bool, difference: Difference
) -> None:
    """Config, tokenizer, the files of sentence-transformers, the reader, and the record."""
    model.config.save_pretrained(folder)
    copies: tuple[Callable[..., None], ...] = (copy_tokenizer, copy_image_processor, copy_sentence_files)
    for copy_files in copies:
        copy_files(source, folder)
    reader = readers.reader_of(
        target.name,
        length=min(LONGEST, sequence_limit(model) or LONGEST),
        with_cache=with_cache,
        images=model.main_input_name == "pixel_values",
    )
    if reader is not None and (folder / "tokenizer.json").is_file():
        (folder / "reader.py").write_text(reader, encoding="utf-8")
    record = {
        "model": source,
        "runtime": target.name,
        "architecture": type(model).__name__,
        "with_cache": with_cache,
        "int8": int8,
        "difference": asdict(difference),
        "versions": {name: _version(name) for name in ("secateurs", "torch", "transformers", *target.packages)},
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
