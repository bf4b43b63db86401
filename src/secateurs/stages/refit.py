"""Refit the output projections of a chosen profile, in order, on what the *pruned* layers before them produce.

The database fits every projection to dense inputs, as the paper does; in the pruned model the inputs have drifted. Here
each projection is solved again so that the residual stream behind it comes as near as it can to the dense one:

    minimise over W, b:  sum over tokens ||r + W x + b - s||^2  +  lambda ||W - W0||^2

``x`` and ``r`` are its input and the residual in the pruned model, ``s`` the dense model's residual stream at the same
place, ``W0`` the weights of the database, ``lambda`` the damping. The support stays; the answer is one Cholesky solve.
Without a bias to solve for, moments are not centred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from secateurs.structure import Group, Structure

__all__ = ["refit"]

Batch = dict[str, Tensor]
Call = tuple[tuple[Any, ...], dict[str, Any]]

CHUNK_TOKENS = 4096
"""Tokens gathered before they are added to the moments."""


class Level(Protocol):
    """Units, weight and bias of one group (``secateurs.stages.levels.Level``)."""

    units: Int[Tensor, " kept"]
    weight: Float[Tensor, "rows columns"]
    bias: Float[Tensor, " rows"] | None


class Stitchable(Protocol):
    """The live model whose levels can be swapped (``secateurs.stages.stitch.Stitch``)."""

    model: nn.Module
    structure: Structure

    def install(self, name: str, units: Tensor, weight: Tensor, bias: Tensor | None) -> None: ...
    def reset_all(self) -> None: ...


@dataclass
class _Dense:
    """One batch in the dense model: what enters the first layer, what else every layer is called with, and the stream
    behind every group."""

    entry: Tensor | None
    calls: dict[str, Call]
    streams: dict[str, Tensor]


def refit(
    stitch: Stitchable,
    levels: Mapping[str, Any],
    batches: Sequence[Batch],
    *,
    device: torch.device | str = "cpu",
    damping: float = 1e-2,
    padding: bool = False,
    memory_bytes: float = 3e9,
    track: Callable[..., Iterable[Any]] = lambda items, title, total=None: items,
) -> dict[str, Any]:
    """Solve every projection again, first layer first; the model is left with the new levels installed.

    Args:
        stitch: the live model, at the profile of ``levels`` or not.
        levels: group name -> level; its support is kept.
        batches: calibration batches.
        damping: ``lambda`` as a fraction of the mean diagonal of the input's moments.
        padding: let PAD tokens count.
        memory_bytes: what the dense streams may take; the first batches that fit are used.

    Returns:
        Group name -> the level with its new weights.
    """
    model, structure = stitch.model, stitch.structure
    stitch.reset_all()
    states: list[tuple[Batch, _Dense]] = []
    used = 0.0
    for batch in batches:
        inputs = {name: value.to(device) for name, value in batch.items() if name != "labels"}
        dense = _observe(model, structure, inputs)
        used += sum(stream.numel() * stream.element_size() for stream in dense.streams.values())
        if states and used > memory_bytes:
            break
        states.append((inputs, dense))
    for name, level in levels.items():
        stitch.install(name, level.units, level.weight, level.bias)
    entries = [dense.entry for _, dense in states]
    solved: dict[str, Any] = {}
    for path, groups in track(list(structure.layers.items()), "refit"):
        layer = model.get_submodule(path)
        for group in groups:
            # A whole group drifts too: its inputs come from pruned layers.
            sums = _Sums()
            for entry, (inputs, dense) in zip(entries, states, strict=True):
                tokens = inputs["attention_mask"].bool() if "attention_mask" in inputs and not padding else None
                sums.add(*_regression(model, layer, group, entry, dense, path), tokens)
            solved[group.name] = _solve(levels[group.name], sums, damping)
            level = solved[group.name]
            stitch.install(group.name, level.units, level.weight, level.bias)
        entries = [_call(layer, entry, dense.calls[path]) for entry, (_, dense) in zip(entries, states, strict=True)]
    return solved


class _Sums:
    """Moments of input and target over the tokens that count: fp32 products of many tokens at a time, fp64 sums."""

    def __init__(self) -> None:
        self.gram: Tensor | float = 0.0
        self.cross: Tensor | float = 0.0
        self.inputs: Tensor | float = 0.0
        self.targets: Tensor | float = 0.0
        self.count = 0
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, inputs: Tensor, targets: Tensor, tokens: Tensor | None) -> None:
        x, t = inputs.flatten(0, -2), targets.flatten(0, -2)
        if tokens is not None:
            x, t = x[tokens.flatten()], t[tokens.flatten()]
        self._waiting.append((x.float(), t.float()))
        if sum(len(x) for x, _ in self._waiting) >= CHUNK_TOKENS:
            self.flush()

    def flush(self) -> None:
        """Add the tokens gathered so far."""
        if self._waiting:
            x, t = (torch.cat(part) for part in zip(*self._waiting, strict=True))
            self.gram = self.gram + (x.T @ x).double()
            self.cross = self.cross + (t.T @ x).double()
            self.inputs = self.inputs + x.double().sum(0)
            self.targets = self.targets + t.double().sum(0)
            self.count += len(x)
            self._waiting.clear()


def _solve(level: Any, sums: _Sums, damping: float) -> Any:
    """The ridge regression towards the weights of the database."""
    sums.flush()
    gram, cross = sums.gram / sums.count, sums.cross / sums.count
    mean_in, mean_out = sums.inputs / sums.count, sums.targets / sums.count
    assert isinstance(gram, Tensor) and isinstance(cross, Tensor)
    weight = level.weight.double()
    if level.bias is not None:
        gram = gram - torch.outer(mean_in, mean_in)
        cross = cross - torch.outer(mean_out, mean_in)
    if weight.shape[1]:
        ridge = damping * gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
        system = gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        factor = torch.linalg.cholesky(system)
        weight = torch.cholesky_solve((cross + ridge * weight).T, factor).T
    bias = None if level.bias is None else (mean_out - weight @ mean_in).to(level.bias.dtype)
    return type(level)(level.units, weight.to(level.weight.dtype), bias)


def _observe(model: nn.Module, structure: Structure, inputs: Batch) -> _Dense:
    """One dense forward pass."""
    seen = _Dense(None, {}, {})

    def keep_call(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if seen.entry is None:
                seen.entry = args[0] if args else kwargs["hidden_states"]
            rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            seen.calls[path] = (args[1:], rest)

        return hook

    def keep_stream(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            seen.streams[name] = args[0]

        return hook

    handles = [
        *(
            model.get_submodule(path).register_forward_pre_hook(keep_call(path), with_kwargs=True)
            for path in structure.layers
        ),
        *(model.get_submodule(group.stream).register_forward_pre_hook(keep_stream(group.name)) for group in structure),
    ]
    try:
        with torch.inference_mode():
            model(**inputs, **({"use_cache": False} if _caches(model) else {}))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _regression(
    model: nn.Module, layer: nn.Module, group: Group, entry: Tensor | None, dense: _Dense, path: str
) -> tuple[Tensor, Tensor]:
    """Input of the projection, and what it should put out: the dense stream less the residual."""
    seen: dict[str, Tensor] = {}

    def keep_reader(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        seen["input"], seen["output"] = args[0], output

    def keep_stream(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen["stream"] = args[0]

    reader = model.get_submodule(group.reader)
    inside = group.stream.startswith(f"{path}.")
    handles = [reader.register_forward_hook(keep_reader)]
    if inside:
        handles.append(model.get_submodule(group.stream).register_forward_pre_hook(keep_stream))
    try:
        output = _call(layer, entry, dense.calls[path])
    finally:
        for handle in handles:
            handle.remove()
    # A pre-LN layer ends where the next norm reads: its output is the stream.
    stream = seen["stream"] if inside else output
    return seen["input"], dense.streams[group.name] - (stream - seen["output"])


def _call(layer: nn.Module, entry: Tensor | None, call: Call) -> Tensor:
    """Run one layer alone on other hidden states."""
    args, kwargs = call
    with torch.inference_mode():
        output = layer(entry, *args, **kwargs)
    return output if isinstance(output, Tensor) else output[0]


def _caches(model: nn.Module) -> bool:
    """A key-value cache would remember tokens between the calls of one layer."""
    return bool(getattr(getattr(model, "config", None), "use_cache", False))
