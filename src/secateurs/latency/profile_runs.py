"""Runs of a latency profile: the models and layers that are timed, with the inputs that they get in the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from secateurs.latency.captured import capture
from secateurs.latency.environment import Environment
from secateurs.latency.passes import Pass
from secateurs.latency.profile_plan import PlannedCurve
from secateurs.latency.runtimes import runtime
from secateurs.latency.timer import Run
from secateurs.latency.traced import CapturedCalls
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Group, Structure
from secateurs.surgery.shared_copy import shared_copy
from secateurs.surgery.shrink import shrink

__all__ = ["EMPTIED", "FULL_SIZE", "OUTPUT_HEAD", "point_name", "profile_runs"]

FULL_SIZE = "full_size"
"""Name of the run of the model with nothing removed."""

EMPTIED = "emptied"
"""Name of the run of the model with every group emptied."""

OUTPUT_HEAD = "output_head"
"""Name of the run of the output head, which is timed for generation."""


def point_name(curve: str, units: int) -> str:
    """Name of the run that measures a curve at one kept count.

    Args:
        curve: curve name.
        units: kept units of the curve's group.
    """
    return f"{curve} {units}"


def profile_runs(
    model: nn.Module,
    structure: Structure,
    environment: Environment,
    timed: Pass,
    curves: Mapping[str, PlannedCurve],
) -> tuple[dict[str, Run], dict[str, Run]]:
    """All runs from which the curves of a model are computed.

    Args:
        model: model on the environment's device in its dtype.
        structure: structure of the model.
        environment: environment of the runs.
        timed: the pass that is timed.
        curves: curve name -> planned curve.

    Returns:
        Two mappings. The first has the runs to time: ``FULL_SIZE``, ``EMPTIED``, each measured layer by its path with
        every group emptied, each ``point_name``, which is a layer or one matrix, and for generation ``OUTPUT_HEAD``. The
        second maps the name of a run of a layer or matrix to the run of the full-size layer, which must precede each of its
        readings.
    """
    prepare = runtime(environment.runtime).prepare
    paths = {path for curve in curves.values() for path in (curve.group.layer, curve.matrix) if path}
    head = _output_head(model) if environment.generates else ""
    captured = capture(model, timed, paths | {head} if head else paths)

    def model_run(mask: Mask) -> Run:
        pruned = shrink(shared_copy(model), structure, mask, values=False)
        return timed.of_model(prepare(pruned, environment, timed.inputs))

    def run_alone(module: nn.Module, path: str) -> Run:
        calls = captured[path]
        return calls.of_module(prepare(CapturedCalls(module), environment, {"calls": calls.calls}))

    def layer_run(layer: str, name: str | None, kept: int | None, matrix: str = "") -> Run:
        """Run of a layer, or of one matrix of it, with ``kept`` units of group ``name`` and all others emptied.

        With ``kept = None`` the layer has full size. A matrix is split into factors only if no other group of its layer
        is cut, so the other groups keep full size where ``name`` is a low-rank option.
        """
        inside = structure.within(layer)
        keep_others = kept is None or any(option.name == name for option in inside.low_rank_options)

        def count(group: Group) -> int:
            if group.name == name and kept is not None:
                return kept
            return group.size if keep_others or group.instead_of else 0

        mask = Mask.from_units(inside, {group.name: torch.arange(count(group)) for group in inside})
        shrunk = shrink(shared_copy(model.get_submodule(layer)), inside, mask, values=False)
        _keep_cache_slots(shrunk, model.get_submodule(layer), inside)
        part = shrunk.get_submodule(matrix[len(layer) + 1 :]) if matrix else shrunk
        return run_alone(part, matrix or layer)

    # A low-rank option keeps all its ranks here, because its matrix is cut by another group.
    nothing = {group.name: torch.full((group.size,), bool(group.instead_of)) for group in structure}
    runs = {FULL_SIZE: model_run(Mask.full(structure)), EMPTIED: model_run(Mask(nothing))}
    preceded_by: dict[str, Run] = {}
    full_size_layers: dict[str, Run] = {}
    for name, curve in curves.items():
        layer = curve.group.layer
        if layer not in full_size_layers:
            full_size_layers[layer] = layer_run(layer, None, None)
        if not curve.matrix and layer not in runs:
            runs[layer], preceded_by[layer] = layer_run(layer, None, 0), full_size_layers[layer]
        emptied_point = (0,) if curve.matrix else ()
        for units in dict.fromkeys((*emptied_point, *curve.units, *curve.probe)):
            point = point_name(name, units)
            runs[point] = layer_run(layer, curve.group.name, units, curve.matrix)
            preceded_by[point] = full_size_layers[layer]
    if head:
        runs[OUTPUT_HEAD] = run_alone(shared_copy(model.get_submodule(head)), head)
        preceded_by[OUTPUT_HEAD] = next(reversed(full_size_layers.values()))
    return runs, preceded_by


def _output_head(model: Any) -> str:
    """Path of the module that scores the vocabulary; empty if the model names none."""
    head = model.get_output_embeddings()
    return next((path for path, module in model.named_modules() if module is head), "")


def _keep_cache_slots(shrunk: nn.Module, layer: nn.Module, inside: Structure) -> None:
    """Give the attentions of a shrunk layer back the slots that they have in the cache of the model.

    ``shrink`` numbers the slots anew, as if the layer were all of the model.
    """
    for group in inside:
        slot = getattr(layer.get_submodule(group.block), group.cache_slot, None)
        if slot is not None:
            setattr(shrunk.get_submodule(group.block), group.cache_slot, slot)
