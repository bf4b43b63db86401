"""The code that is saved beside the weights, and the ``auto_map`` in the config that names its classes.

A pruned model needs ``modeling_pruned.py`` and the files in ``NEIGHBOURS``. An adaptive language model also needs its config
and model files, even if it is not pruned.
"""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateurs.errors import UnsupportedModelError
from secateurs.modeling import modeling_pruned
from secateurs.modeling.hf_classes import is_adaptive_lm_class, is_hf_class
from secateurs.modeling.modeling_pruned import BLOCK, base_of
from secateurs.structure.families import discover

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["add_code", "auto_classes", "is_edited", "needs_code"]

FILE = "modeling_pruned"

NEIGHBOURS = ("pruned_modules.py", "per_head.py", "own_config.py")
"""Files that ``modeling_pruned.py`` imports."""


def is_edited(config: Any) -> bool:
    """Whether a config has edits, so that transformers' own class alone would build another model."""
    return bool((getattr(config, BLOCK, None) or {}).get("edits"))


def needs_code(config: Any) -> bool:
    """Whether code must be saved beside the weights of a model with this config."""
    return is_edited(config) or is_adaptive_lm_class(type(config))


def auto_classes(config: Any) -> dict[str, type]:
    """Name of an Auto class -> transformers' own class that it builds for this config.

    Auto classes without a class for this config are left out.
    """
    from transformers.models.auto import modeling_auto

    found: dict[str, type] = {}
    for name, auto in vars(modeling_auto).items():
        mapping = getattr(auto, "_model_mapping", None)
        if isinstance(auto, type) and mapping is not None and type(config) in mapping:
            known = mapping[type(config)]
            cls = known[0] if isinstance(known, (tuple, list)) else known
            if is_hf_class(cls):
                found[name] = cls
    return found


Shapes = dict[str, list[int | None]]


def _cut_with_the_stream(
    config: Any, classes: Sequence[type], kept: int, known: Set[str]
) -> tuple[dict[str, Shapes], Shapes]:
    """The shapes of every task head of transformers, and of optional modules such as a pooler, at a cut hidden size.

    Args:
        config: config of the pruned model.
        classes: transformers' own classes for this config.
        kept: hidden size of the pruned model.
        known: paths of the modules of its base model.

    Returns:
        Class name -> shapes of its parameters outside the base model; and shapes of the parameters of optional modules
        inside the base model. A size is ``None`` where it was not cut.
    """
    import torch
    from transformers.utils import logging as reports

    heads: dict[str, Shapes] = {}
    optional: Shapes = {}
    for cls in classes:
        dense = copy.deepcopy(config)  # one copy per class, because some classes change it
        setattr(dense, BLOCK, None)
        dense.num_labels = 2  # some heads accept no other number, and it is not recorded
        level = reports.get_verbosity()
        reports.set_verbosity_error()  # some heads log advice on their use
        try:
            with torch.device("meta"):
                model: Any = cls(dense)
            stream = discover(model, hidden=True).stream
        except (UnsupportedModelError, ValueError, AttributeError):
            continue  # unknown, or impossible with this config: loading this head will be refused
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
            elif not prefix and cut.parameter.rpartition(".")[0] not in known:  # a head that is its own base model (T5)
                shapes, path = optional, cut.parameter
            else:
                continue  # part of every base model: in the edits already
            shapes.setdefault(path, [None] * model.get_parameter(cut.parameter).dim())[cut.dim] = kept
    return heads, optional


def add_code(folder: Path, model: PreTrainedModel) -> None:
    """Add code to a folder that ``save_pretrained`` wrote, and name its classes in ``config.json``.

    If the hidden size was cut, the shapes of every task head of transformers are added to ``config.json``, so that the folder
    can be loaded with any head.

    Args:
        folder: the folder.
        model: the model that was saved there.
    """
    autos = auto_classes(model.config)
    classes = sorted(set(autos.values()), key=lambda cls: cls.__name__)
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["auto_map"] = {auto: f"{FILE}.{cls.__name__}" for auto, cls in autos.items()}
    for cls in (type(model.config), *classes):
        if is_adaptive_lm_class(cls):
            file = Path(str(sys.modules[cls.__module__].__file__))
            shutil.copyfile(file, folder / file.name)
    if is_adaptive_lm_class(type(model.config)):
        values["auto_map"]["AutoConfig"] = f"{_file_of(type(model.config))}.{type(model.config).__name__}"
    _write_loader(folder, model.config.model_type, classes)
    edits = (values.get(BLOCK) or {}).get("edits", {})
    if "heads" in edits:
        kept = values[BLOCK]["groups"]["hidden"]["kept"]
        known = {path for path, _ in base_of(model).named_modules()}
        heads, optional = _cut_with_the_stream(model.config, classes, kept, known)
        edits |= {"heads": {**heads, **edits["heads"]}, "optional": {**optional, **edits["optional"]}}
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _file_of(cls: type) -> str:
    """Name of the file that defines a class, without ``.py``."""
    return cls.__module__.rpartition(".")[2]


def _write_loader(folder: Path, model_type: str, classes: Sequence[type]) -> None:
    """Write ``modeling_pruned.py`` with the classes of this model appended, and its neighbours.

    An adaptive language model gets the files even if it is not pruned: transformers caches the first classes that it loads
    for a config from remote code, and would build a later, pruned model of the same type from them.
    """
    lines = [Path(modeling_pruned.__file__).read_text(encoding="utf-8"), "", "# The classes of this model."]
    adaptive = [cls for cls in classes if is_adaptive_lm_class(cls)]
    lines += [
        f"import {module}  # noqa: E402" for module in sorted({c.__module__ for c in classes if c not in adaptive})
    ]
    lines += [f"from .{_file_of(cls)} import {cls.__name__} as Dense{cls.__name__}  # noqa: E402" for cls in adaptive]
    for cls in classes:
        dense = f"Dense{cls.__name__}" if cls in adaptive else f"{cls.__module__}.{cls.__name__}"
        lines += ["", "", f"class {cls.__name__}(Pruned, {dense}):", "    pass"]
    names = "".join(f", {cls.__name__}" for cls in classes)
    lines += ["", "", f"keep_key_names({model_type!r}{names})", ""]
    for neighbour in NEIGHBOURS:
        shutil.copyfile(Path(modeling_pruned.__file__).with_name(neighbour), folder / neighbour)
    (folder / f"{FILE}.py").write_text("\n".join(lines), encoding="utf-8")
