"""``reload_weights``: from a saved folder back into a model that is pruned but keeps its layers and its config of edits."""

from __future__ import annotations

from typing import Any

from torch import nn

from secateurs.checkpoint.remote_code import is_edited
from secateurs.errors import CheckpointError
from secateurs.modeling.modeling_pruned import base_of
from secateurs.structure.families import plain_config_of

__all__ = ["reload_weights"]


def reload_weights(model: Any, saved: nn.Module) -> None:
    """Copy the weights of a loaded folder into a model that was pruned to the same shapes, in place.

    ``save_load.save`` leaves out layers that add nothing, where transformers' own config then describes the model, and
    numbers the others anew. Here every layer stays in its place, so that groups keep their names and a student as many
    layers as its teacher.

    Args:
        model: the dense model, shrunk to the units that the folder holds.
        saved: the model that was loaded from the folder.

    Raises:
        CheckpointError: the tensors are not those of ``model``.
    """
    names = _names(model)
    tensors = {names.get(name, name): tensor for name, tensor in saved.state_dict().items()}
    left_out = {name for name in model.state_dict() if name not in tensors} - _of_layers_left_out(model)
    try:
        unknown = model.load_state_dict(tensors, strict=False).unexpected_keys
    except RuntimeError as error:
        raise CheckpointError(f"a tensor has another shape ({str(error).strip().splitlines()[-1].strip()})") from None
    if wrong := sorted({*unknown, *left_out}):
        raise CheckpointError(f"{len(wrong)} tensors are not those of the pruned model ({', '.join(wrong[:3])})")


def _kept_layers(model: Any) -> tuple[str, tuple[int, ...]]:
    """Path of the layers, and those that a folder of this model has; an empty path if it has all of them."""
    plain = plain_config_of(model) if is_edited(model.config) else None
    if plain is None:
        return "", ()
    prefix = "" if base_of(model) is model else f"{model.base_model_prefix}."
    return f"{prefix}{plain.layers}.", plain.kept


def _names(model: Any) -> dict[str, str]:
    """Name of a tensor in the folder -> its name in the model, where layers were numbered anew."""
    path, kept = _kept_layers(model)
    known: dict[str, str] = {}
    for name in model.state_dict():
        index, _, rest = name.removeprefix(path).partition(".")
        if path and name.startswith(path) and int(index) in kept:
            known[f"{path}{kept.index(int(index))}.{rest}"] = name
    return known


def _of_layers_left_out(model: Any) -> set[str]:
    """Names of the tensors of layers that a folder of this model does not have."""
    path, kept = _kept_layers(model)
    own = [name for name in model.state_dict() if path and name.startswith(path)]
    return {name for name in own if int(name.removeprefix(path).partition(".")[0]) not in kept}
