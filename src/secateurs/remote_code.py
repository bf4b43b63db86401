"""The code that travels beside the weights, and the ``auto_map`` that names it: ``modeling_pruned.py``, and the files of a
model of our own, pruned or not."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateurs import modeling_pruned
from secateurs.errors import UnsupportedModelError
from secateurs.families import discover
from secateurs.modeling_pruned import BLOCK, base_of
from secateurs.stock import is_own, is_stock

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["add_code", "auto_classes", "is_edited", "needs_code"]

FILE = "modeling_pruned"


def is_edited(config: Any) -> bool:
    """Does this config carry edits, so that the stock class alone would build another model?"""
    return bool((getattr(config, BLOCK, None) or {}).get("edits"))


def needs_code(config: Any) -> bool:
    """Must code travel beside the weights of a model of this config?"""
    return is_edited(config) or is_own(type(config))


def auto_classes(config: Any) -> dict[str, type]:
    """Name of an Auto class -> the stock class it builds for this config, for all that know the config."""
    from transformers.models.auto import modeling_auto

    found: dict[str, type] = {}
    for name, auto in vars(modeling_auto).items():
        mapping = getattr(auto, "_model_mapping", None)
        if isinstance(auto, type) and mapping is not None and type(config) in mapping:
            known = mapping[type(config)]
            stock = known[0] if isinstance(known, (tuple, list)) else known
            if is_stock(stock):
                found[name] = stock
    return found


Shapes = dict[str, list[int | None]]


def _cut_with_the_stream(config: Any, classes: Sequence[type], kept: int) -> tuple[dict[str, Shapes], Shapes]:
    """What every stock head, and any pooler it has the base model build, lose with the hidden size.

    Returns:
        Class name -> parameters outside its base model; parameters of optional modules inside. Null where a size stays.
    """
    import torch
    from transformers.utils import logging as reports

    heads: dict[str, Shapes] = {}
    optional: Shapes = {}
    for cls in classes:
        dense = copy.deepcopy(config)  # for each: some classes change it
        setattr(dense, BLOCK, None)
        dense.num_labels = 2  # all that some heads take; how many there are is not recorded
        level = reports.get_verbosity()
        reports.set_verbosity_error()  # some heads advise how to use them
        try:
            with torch.device("meta"):
                model: Any = cls(dense)
            stream = discover(model, hidden=True).stream
        except (UnsupportedModelError, ValueError, AttributeError):
            continue  # not known, or not to be built from this config: a loader will refuse it
        finally:
            reports.set_verbosity(level)
        prefix = "" if base_of(model) is model else f"{model.base_model_prefix}."
        if prefix:
            heads[cls.__name__] = {}
        for cut in stream.cuts if stream else ():
            if stream and cut.parameter.rpartition(".")[0] in stream.optional:
                shapes, path = optional, cut.parameter.removeprefix(prefix)
            elif prefix and not cut.parameter.startswith(prefix):
                shapes, path = heads[cls.__name__], cut.parameter
            else:
                continue  # of every base model: in the edits already
            shapes.setdefault(path, [None] * model.get_parameter(cut.parameter).dim())[cut.dim] = kept
    return heads, optional


def add_code(folder: Path, model: PreTrainedModel) -> None:
    """Complete a folder that ``save_pretrained`` wrote: add the code it needs, and name its classes in ``config.json``.

    Where the hidden size was cut, say there how every stock head reads it, so that any of them can be put on it.
    """
    autos = auto_classes(model.config)
    classes = sorted(set(autos.values()), key=lambda cls: cls.__name__)
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["auto_map"] = {auto: f"{FILE}.{cls.__name__}" for auto, cls in autos.items()}
    for cls in (type(model.config), *classes):
        if is_own(cls):
            file = Path(str(sys.modules[cls.__module__].__file__))
            shutil.copyfile(file, folder / file.name)
    if is_own(type(model.config)):
        values["auto_map"]["AutoConfig"] = f"{_file_of(type(model.config))}.{type(model.config).__name__}"
    _write_loader(folder, model.config.model_type, classes)
    edits = (values.get(BLOCK) or {}).get("edits", {})
    if "heads" in edits:
        heads, optional = _cut_with_the_stream(model.config, classes, values[BLOCK]["groups"]["hidden"]["kept"])
        edits |= {"heads": {**heads, **edits["heads"]}, "optional": {**optional, **edits["optional"]}}
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _file_of(cls: type) -> str:
    return cls.__module__.rpartition(".")[2]


def _write_loader(folder: Path, model_type: str, classes: Sequence[type]) -> None:
    """``modeling_pruned.py``, with the classes of this model appended to it.

    It goes beside a model of ours even where nothing is pruned: transformers remembers the first classes it loads for a
    config of foreign code, and would build the next, pruned model of this type from them.
    """
    lines = [Path(modeling_pruned.__file__).read_text(encoding="utf-8"), "", "# The classes of this model."]
    own = [cls for cls in classes if is_own(cls)]
    lines += [f"import {module}  # noqa: E402" for module in sorted({c.__module__ for c in classes if c not in own})]
    lines += [f"from .{_file_of(cls)} import {cls.__name__} as Dense{cls.__name__}  # noqa: E402" for cls in own]
    for cls in classes:
        stock = f"Dense{cls.__name__}" if cls in own else f"{cls.__module__}.{cls.__name__}"
        lines += ["", "", f"class {cls.__name__}(Pruned, {stock}):", "    pass"]
    names = "".join(f", {cls.__name__}" for cls in classes)
    lines += ["", "", f"keep_key_names({model_type!r}{names})", ""]
    (folder / f"{FILE}.py").write_text("\n".join(lines), encoding="utf-8")
