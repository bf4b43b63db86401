"""Blocks that are given tensors of *all* heads and use those of the heads that they kept.

A position bias ``(batch, heads, queries, keys)`` may be computed once and added in every layer. Its table is shared, so it
is not cut with the heads of one layer. Each pruned attention selects its own heads from it instead.

The file imports only torch and ``pruned_modules.py``, and it is saved beside the weights of every pruned model. The indices
of the kept heads are a field of the module and an entry of the config, not a tensor: the names in the state dict stay those
of the dense model. Runs of indices are selected by views, so that no index has to be copied to the device.

Where the first layer of a stack computes the bias and every attention returns it for the next one, a pruned attention
returns the bias of all heads, and so does a removed one (``SkippedWithBias``).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from .pruned_modules import Behaviour, SkippedTuple, become, parts_of

OUTPUT = "output[1]"
"""Name in ``per_head`` of the second entry of the tuple that a block returns: a bias for the next layer."""


class PerHead(Behaviour):
    """A block that selects its heads from the arguments, and from the results of the methods, in ``per_head``.

    A block that returns such a tensor for the next layer returns the one with all heads. If ``per_head`` names that output
    and the block made one up itself (zeros for its own heads), the block returns the entry of one head, for every head.
    """

    def forward(self: Any, *args, **kwargs):
        full: dict[int, Any] = {}  # id of a selected tensor -> the selected tensor, and the tensor of all heads

        def select(tensor, dim):
            if not isinstance(tensor, torch.Tensor):
                return tensor
            selected = take(tensor, dim, self.kept_heads)
            full[id(selected)] = selected, tensor
            return selected

        given = list(args)
        methods = []
        for name, (position, dim) in self.per_head.items():
            if name == OUTPUT:
                continue
            if position is None:
                methods.append(name)
                setattr(self, name, _selecting(getattr(self, name), dim, select))
            elif name in kwargs:
                kwargs[name] = select(kwargs[name], dim)
            elif position < len(given):
                given[position] = select(given[position], dim)
        try:
            output = super().forward(*given, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]: of the other base
        finally:
            for name in methods:
                delattr(self, name)
        if not isinstance(output, tuple):
            return output
        returned = [full[id(part)][1] if id(part) in full else part for part in output]
        if OUTPUT in self.per_head and returned[1] is output[1]:
            returned[1] = output[1].narrow(self.per_head[OUTPUT][1], 0, 1)
        return tuple(returned)


class SkippedWithBias(SkippedTuple):
    """A removed attention, whose callers expect ``(output, position bias, attention weights)``.

    It returns the bias it is given. The attention that computes the bias for its stack still computes it, for as many keys
    as there are in the mask or, without a mask, in the cache and the input.
    """

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]: returns one entry more
        self: Any, hidden_states, mask=None, key_value_states=None, position_bias=None, past_key_values=None, **_
    ):
        output, weights = super().forward(hidden_states)
        if position_bias is None and self.has_relative_attention_bias:
            seen = 0 if past_key_values is None else past_key_values.get_seq_length()
            queries = hidden_states.shape[1]
            keys = seen + queries if mask is None else mask.shape[-1]
            position_bias = self.compute_bias(queries, keys, device=hidden_states.device, past_seen_tokens=seen)
        return output, position_bias, weights


def _selecting(method, dim: int, select):
    """A method whose result has the kept heads only."""
    return lambda *args, **kwargs: select(method(*args, **kwargs), dim)


def take(tensor, dim: int, kept):
    """The entries of a tensor along ``dim`` with the indices ``kept``; a tensor of size 1 there is for every head."""
    if kept is None or tensor.shape[dim] == 1:
        return tensor
    runs: list[list[int]] = []
    for index in kept:
        if runs and index == runs[-1][0] + runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([index, 1])
    parts = [tensor.narrow(dim, start, length) for start, length in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def keep_heads(block: Any, tensors: dict, kept) -> None:
    """Let a block use the heads ``kept`` of its shared tensors. A second call replaces the indices of the first.

    Args:
        block: the module of an attention.
        tensors: name of an argument of the block, or of a method of it that computes such a tensor, or ``OUTPUT`` -> axis
            of the heads.
        kept: indices into the heads of the shared tensors; ``None`` = all heads.
    """
    become(block, PerHead)
    arguments = list(inspect.signature(parts_of(type(block))[0].forward).parameters)[1:]  # without self
    block.per_head = {
        name: (arguments.index(name) if name in arguments else None, dim) for name, dim in tensors.items()
    }
    block.kept_heads = None if kept is None else tuple(kept)


def heads_of(block: Any, count: int):
    """Indices of the ``count`` heads of a block into its shared tensors."""
    kept = getattr(block, "kept_heads", None)
    return tuple(range(count)) if kept is None else kept
