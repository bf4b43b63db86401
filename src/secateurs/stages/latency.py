"""What every kept count costs in milliseconds on this machine: a ``LatencyTable`` from a few in-situ measurements.

One layer of each shape is taken out of the model together with the inputs it gets in a real forward pass. It is timed
with one of its groups cut to ``k`` units and all others emptied; the same layer with every group emptied is
subtracted. Each reading comes right behind an untimed run of the whole layer, as in a model: a layer that only ever
follows itself finds its own weights and buffers in the caches, and narrow ones looked up to 15 % too cheap. The whole
dense model, and the whole model with everything emptied, are timed in the same session: they anchor both ends of the
table, ``dense = overhead + sum of curves`` and ``overhead = everything emptied``. A matrix whose ranks or inputs are cut is
timed on its own, with the inputs it gets there: beside all else that a layer does, its few milliseconds drown in noise.

Differs from ZipLM (2302.04089), which adds up the isolated curves and calls the rest overhead: here the curves are
scaled by the one factor that makes both anchors exact, which is within a few per cent of 1 on a quiet machine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from secateurs import clock
from secateurs.clock import NOISY, Run, Samples, Timer, interleave, warn_if_noisy
from secateurs.curves import CurvePlan, fit_curve, free_multiple, plan_curves
from secateurs.environment import Environment, machine
from secateurs.latency_curve import LatencyCurve
from secateurs.latency_table import LatencyTable
from secateurs.mask import Mask
from secateurs.runtimes import runtime
from secateurs.shrink import shrink
from secateurs.structure import Group, Kind, Structure
from secateurs.workload import DTYPES, check, random_batch, twin

__all__ = ["measure_table"]

logger = logging.getLogger(__name__)


PRECISE = 0.03
"""Standard error of a reading's median at which there are enough of them."""

PATIENCE = 2
"""Where readings scatter so much that they are not that precise, up to so many times as long is spent on them.
`secateurs measure --table FILE --seconds N` has more patience."""

REPEATS = 3
"""Readings of a curve point for each reading of the dense model: short runs are noisier, and count for every layer."""


class Replay(nn.Module):
    """One layer, run on the arguments it once got."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.layer(*args, **kwargs)


def measure_table(
    model: Any,
    structure: Structure,
    environment: Environment,
    *,
    dense: Any | None = None,
    seed: int = 0,
    batch: Mapping[str, Any] | None = None,
    seconds: float = 20.0,
    rounds: tuple[int, int] = (5, 60),
    quick: bool = False,
    points: Mapping[Kind, Sequence[int]] | None = None,
    multiple: int | None = None,
    probe: bool = False,
    timer: Timer | None = None,
    track: Callable[..., Iterable[Any]] | None = None,
) -> LatencyTable:
    """Measure one model in one environment. The model is left as it was.

    Args:
        model: a transformers model, dense or already pruned.
        structure: what can be removed from it.
        environment: where and how it runs.
        dense: what speed-ups refer to, if that is another model: one of matrices where this one has pairs of factors.
        seed: of the random tokens and of the order of timing.
        batch: inputs to use in place of random tokens, on the environment's device.
        seconds: wall time after which no further round of timings begins, if they are precise: otherwise it goes on for up
            to ``PATIENCE`` times as long.
        rounds: at least and at most so many rounds.
        quick: a quarter of the time, without patience, and 3 to 12 rounds: for a first look.
        points: kept counts to measure, by kind; full size is always among them.
        multiple: widths are snapped to this; by default 8 on the CPU and 64 on a GPU.
        probe: measure the free multiple instead.
        timer: reads the clock; by default the environment's own.
        track: shows progress.

    Raises:
        RecipeError: the environment cannot be used here, or a group has no place in a layer.
    """
    check(environment, model)
    read = timer or clock.timer(environment)
    if quick:
        seconds, rounds = seconds / 4, (min(3, rounds[0]), min(12, rounds[1]))
    step = multiple or (64 if environment.device.startswith("cuda") else 8)
    placed = twin(model, environment.device, DTYPES[environment.dtype]).eval()
    inputs = random_batch(placed, environment, seed=seed) if batch is None else batch

    curves, groups = plan_curves(placed, structure, points or {}, step, probe)
    runs, behind = _candidates(placed, structure, environment, inputs, curves)
    if dense is not None:
        original = runtime(environment.runtime)(
            twin(dense, environment.device, DTYPES[environment.dtype]).eval(), environment
        )
        runs["dense"] = lambda: original(inputs)
    began = time.perf_counter()

    def enough(seen: Samples) -> bool:
        visits = len(seen.ms["whole"])
        return time.perf_counter() - began > seconds and all(seen.error(name, visits) < PRECISE for name in runs)

    samples = interleave(
        runs,
        environment,
        seed=seed,
        seconds=seconds * (1 if quick else PATIENCE),
        enough=enough,
        rounds=rounds,
        repeats={name: REPEATS for name in runs if name not in ("dense", "whole")},
        behind=behind,
        timer=read,
        track=track,
        label="latency",
    )
    whole = ("whole", *(f"{name} {curve.units[-1]}" for name, curve in curves.items()))
    noise = max(samples.noise(name) for name in whole)
    warn_if_noisy(noise, environment)
    return _assemble(samples, curves, groups, structure, environment, noise)


def _candidates(
    model: Any,
    structure: Structure,
    environment: Environment,
    batch: Mapping[str, Any],
    curves: Mapping[str, CurvePlan],
) -> tuple[dict[str, Run], dict[str, Run]]:
    """What is timed: ``whole``, ``emptied``, ``LAYER`` (emptied) and ``CURVE UNITS``, a layer or one matrix; and the whole
    layer that runs before each reading of a part of one."""
    prepare = runtime(environment.runtime)
    groups = [curve.group for curve in curves.values()]
    captured = _capture(model, batch, {path for group in groups for path in (group.layer, _matrix(group)) if path})

    def whole(mask: Mask) -> Run:
        run = prepare(shrink(twin(model), structure, mask, values=False), environment)
        return lambda: run(batch)

    def one(layer: str, name: str | None, kept: int | None, matrix: str = "") -> Run:
        inside = structure.within(layer)
        # A matrix is split only where nothing else is cut, and is whole where something is.
        beside = any(group.name == name for group in inside.alternatives) or kept is None
        counts = {
            group.name: kept
            if group.name == name and kept is not None
            else group.size
            if beside or group.instead_of
            else 0
            for group in inside
        }
        mask = Mask.from_units(inside, {group: torch.arange(count) for group, count in counts.items()})
        shrunk = shrink(twin(model.get_submodule(layer)), inside, mask, values=False)
        part = shrunk.get_submodule(matrix[len(layer) + 1 :]) if matrix else shrunk
        run = prepare(Replay(part), environment)
        return lambda: run(captured[matrix or layer])

    nothing = {group.name: torch.full((group.size,), bool(group.instead_of)) for group in structure}
    runs = {"whole": whole(Mask.full(structure)), "emptied": whole(Mask(nothing))}
    behind: dict[str, Run] = {}
    wholes: dict[str, Run] = {}
    for name, curve in curves.items():
        layer, matrix = curve.group.layer, _matrix(curve.group)
        if layer not in wholes:
            wholes[layer] = one(layer, None, None)
        if not matrix and layer not in runs:
            runs[layer], behind[layer] = one(layer, None, 0), wholes[layer]
        without = (0,) if matrix else ()
        for units in dict.fromkeys((*without, *curve.units, *curve.probe)):
            runs[f"{name} {units}"] = one(layer, curve.group.name, units, matrix)
            behind[f"{name} {units}"] = wholes[layer]
    return runs, behind


def _matrix(group: Group) -> str:
    """Path of the one matrix that a group is of; empty for heads and neurons, which are of several."""
    return group.product or (group.reader if group.kind is Kind.INPUT else "")


def _capture(model: Any, batch: Mapping[str, Any], layers: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The arguments that these layers get in one forward pass, as a batch for ``Replay``."""
    captured: dict[str, dict[str, Any]] = {}

    def keep(layer: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            captured[layer] = {"args": args, "kwargs": kwargs}

        return hook

    handles = [model.get_submodule(layer).register_forward_pre_hook(keep(layer), with_kwargs=True) for layer in layers]
    try:
        with torch.inference_mode():
            model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    return captured


def _assemble(
    samples: Samples,
    curves: Mapping[str, CurvePlan],
    groups: Mapping[str, str],
    structure: Structure,
    environment: Environment,
    noise: float,
) -> LatencyTable:
    """Medians -> differences -> monotone curves -> scaled so that both anchors hold."""
    whole, emptied = samples.median("whole"), samples.median("emptied")
    dense = samples.median("dense") if "dense" in samples.ms else whole
    floor = 1e-3 * whole / len(structure)
    fitted: dict[str, LatencyCurve] = {}
    for name, curve in curves.items():
        base = samples.median(f"{name} 0" if _matrix(curve.group) else curve.group.layer)
        keys = [f"{name} {units}" for units in curve.units]
        multiple = curve.multiple
        if curve.probe:
            spread = max(samples.spread(f"{name} {width}") for width in curve.probe)
            times = {width: samples.median(f"{name} {width}") - base for width in curve.probe}
            multiple = free_multiple(times, max(0.03, spread))
        fitted[name] = fit_curve(
            curve.units,
            [samples.median(key) - base for key in keys],
            [samples.spread(key) for key in keys],
            multiple=multiple,
            floor=floor,
            pair=curve.pair,
        )
    raw = sum(float(fitted[groups[group.name]](group.size)) for group in structure.without_alternatives())
    overhead = emptied
    if whole - emptied < NOISY * whole:
        overhead = (1 - NOISY) * whole
        logger.warning(
            "the dense model (%.3f ms) is hardly slower than with everything removed (%.3f ms) on %s: no speed-up can "
            "be had from cutting it there, or the timings are noise; the table assumes that %.0f %% can be removed",
            whole,
            emptied,
            environment,
            100 * NOISY,
        )
    scale = (whole - overhead) / raw
    if abs(scale - 1) > 2 * NOISY:
        logger.warning(
            "the layers on their own take %.3f ms but %.3f ms of the whole model on %s; the curves are scaled by %.2f",
            raw,
            whole - overhead,
            environment,
            scale,
        )
    scaled = {name: replace(curve, ms=tuple(scale * ms for ms in curve.ms)) for name, curve in fitted.items()}
    instead = tuple(group.name for group in structure.alternatives)
    return LatencyTable(environment, dense, overhead, scaled, dict(groups), machine(), noise, instead)
