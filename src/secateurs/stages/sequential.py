"""The groups one after the other, each on what the *pruned* groups before it produce, aimed at the dense stream.

The dense database fits every projection to dense inputs, as the paper does; in the pruned model the inputs have drifted.
``in_order`` stands every group behind those already solved and gathers the sums of

    minimise over W, b:  sum over tokens ||r + W x + b - s||^2  +  lambda ||W - W0||^2

``x`` and ``r`` are the projection's input and the residual in the pruned model, ``s`` the dense model's residual stream at
the same place, ``W0`` earlier weights, ``lambda`` the damping. What to make of them is the caller's: solve for the columns
of a level, or choose the units anew. Without a bias to solve for, moments are not centred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from secateurs.numerics.hessian import Moments
from secateurs.structure import Group, Structure

__all__ = ["Sums", "in_order"]

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
    def reset(self, name: str) -> None: ...
    def reset_all(self) -> None: ...


@dataclass
class _Dense:
    """One batch in the dense model: what enters the first layer, what else every layer is called with, and the stream
    behind every group."""

    entry: Tensor | None
    calls: dict[str, Call]
    streams: dict[str, Tensor]


def in_order(
    stitch: Stitchable,
    levels: Mapping[str, Any],
    batches: Sequence[Batch],
    solve: Callable[[Group, Sums], Any],
    *,
    whole: bool = False,
    device: torch.device | str = "cpu",
    padding: bool = False,
    memory_bytes: float = 3e9,
    track: Callable[..., Iterable[Any]] = lambda items, title, total=None: items,
    title: str = "fit to the pruned model",
) -> dict[str, Any]:
    """Visit the groups first layer first, each on what the groups before it, already solved, produce.

    Args:
        stitch: the live model.
        levels: group name -> the level it has until it is visited.
        batches: calibration batches.
        solve: ``(group, sums) -> level`` to install.
        whole: the visited group is at full size while its input is observed, so that ``solve`` can choose units.
        device: where the model computes.
        padding: let PAD tokens count.
        memory_bytes: what the dense streams may take; the first batches that fit are used.
        track: shows progress.
        title: of the progress.

    Returns:
        Group name -> the level that is now installed.
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
    for path, groups in track(list(structure.layers.items()), title):
        layer = model.get_submodule(path)
        for group in groups:
            if whole:
                stitch.reset(group.name)
            # A whole group drifts too: its inputs come from pruned layers.
            sums = Sums()
            for entry, (inputs, dense) in zip(entries, states, strict=True):
                tokens = inputs["attention_mask"].bool() if "attention_mask" in inputs and not padding else None
                sums.add(*_regression(model, layer, group, entry, dense, path), tokens)
            sums.flush()
            level = solved[group.name] = solve(group, sums)
            stitch.install(group.name, level.units, level.weight, level.bias)
        entries = [_call(layer, entry, dense.calls[path]) for entry, (_, dense) in zip(entries, states, strict=True)]
    return solved


class Sums:
    """Moments of input ``x`` and target ``t`` over the tokens that count: fp32 products of many tokens, fp64 sums.

    Attributes:
        moments: of ``x``.
        cross: ``sum t x^T``.
        targets: ``sum t``.
    """

    def __init__(self) -> None:
        self.moments: Any = None
        self.cross: Any = 0.0
        self.targets: Any = 0.0
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
            if self.moments is None:
                self.moments = Moments(x.shape[1], device=x.device)
            self.moments.update(x)
            self.cross = self.cross + (t.T @ x).double()
            self.targets = self.targets + t.double().sum(0)
            self._waiting.clear()

    def solve(
        self, weight: Float[Tensor, "rows columns"], bias: Float[Tensor, " rows"] | None, damping: float
    ) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, " rows"] | None]:
        """The ridge regression towards ``weight``, with an intercept where there is a bias; in their types."""
        if not weight.shape[1]:
            # Nothing is left but the bias: the mean of what was wanted.
            return weight, None if bias is None else (self.targets / self.moments.count).to(bias.dtype)
        moments, count = self.moments, self.moments.count
        gram, cross = (moments.gram if bias is None else moments.centred()) / count, self.cross / count
        mean_in, mean_out = moments.total / count, self.targets / count
        solved = weight.double()
        if bias is not None:
            cross = cross - torch.outer(mean_out, mean_in)
        ridge = damping * gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
        system = gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        solved = torch.cholesky_solve((cross + ridge * solved).T, torch.linalg.cholesky(system)).T
        return solved.to(weight.dtype), None if bias is None else (mean_out - solved @ mean_in).to(bias.dtype)


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
        raise _Seen

    reader = model.get_submodule(group.reader)
    inside = group.stream.startswith(f"{path}.")
    handles = [reader.register_forward_hook(keep_reader)]
    if inside:
        handles.append(model.get_submodule(group.stream).register_forward_pre_hook(keep_stream))
    try:
        # A pre-LN layer ends where the next norm reads: its output is the stream.
        seen["stream"] = _call(layer, entry, dense.calls[path])
    except _Seen:
        pass  # what follows in the layer is not needed
    finally:
        for handle in handles:
            handle.remove()
    return seen["input"], dense.streams[group.name] - (seen["stream"] - seen["output"])


class _Seen(Exception):
    """Ends the run of a layer early."""


def _call(layer: nn.Module, entry: Tensor | None, call: Call) -> Tensor:
    """Run one layer alone on other hidden states."""
    args, kwargs = call
    with torch.inference_mode():
        output = layer(entry, *args, **kwargs)
    return output if isinstance(output, Tensor) else output[0]


def _caches(model: nn.Module) -> bool:
    """A key-value cache would remember tokens between the calls of one layer."""
    return bool(getattr(getattr(model, "config", None), "use_cache", False))
