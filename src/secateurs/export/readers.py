"""Readers: short files, written beside an export, that run it with the runtime and a tokenizer alone."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["reader_of"]


def reader_of(runtime: str, *, length: int, with_cache: bool, images: bool) -> str | None:
    """The source of the reader of an export; ``None`` if there is none, as for images, which need their own preparation.

    Args:
        runtime: name of the runtime.
        length: tokens to which it truncates a text.
        with_cache: whether the export is one step of a decoder.
        images: whether the model takes images.
    """
    if images:
        return None
    found = files("secateurs.export") / f"reader_{runtime.replace('-', '_')}{'_decoder' if with_cache else ''}.py"
    return found.read_text(encoding="utf-8").replace("LENGTH = 256", f"LENGTH = {length}") if found.is_file() else None
