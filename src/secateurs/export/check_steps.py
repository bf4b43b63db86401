"""``difference_of_steps``: a decoder with its cache, run in steps, against one pass of PyTorch without a cache.

The steps are a prefill on an empty cache, one token, and the rest at once. An error in the cache shows in the later ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateurs.errors import CheckpointError
from secateurs.export.check import Difference, compared

__all__ = ["difference_of_steps"]

LONGEST = 48
"""Tokens of a text that are run."""


def difference_of_steps(model: Any, folder: Path, batches: Sequence[Mapping[str, Tensor]]) -> Difference:
    """The difference of the logits of all tokens.

    Args:
        model: the decoder, in float32.
        folder: folder of the exported step.
        batches: texts, padded on the right. Rows of half the longest and more are run, cut to the shortest of them.

    Raises:
        CheckpointError: the file cannot run a step.
    """
    from transformers.exporters import ExportedModel

    exported = ExportedModel.from_pretrained(folder, local_files_only=True, device="cpu")
    pairs = []
    for batch in batches:
        lengths = batch["attention_mask"].sum(1)
        long = lengths >= lengths.max() / 2
        ids = batch["input_ids"][long, : min(LONGEST, int(lengths[long].min()))]
        with torch.no_grad():
            wanted = model(input_ids=ids, use_cache=False).logits
        try:
            logits = run_steps(exported, model, ids)
        except Exception as error:
            line = (str(error).strip() or repr(error)).splitlines()[0]
            raise CheckpointError(
                f"the exported file cannot run a step of {tuple(ids.shape)} tokens: {line[:300]}"
            ) from error
        pairs.append(({"logits": wanted}, {"logits": logits.numpy()}, None))
    return compared(pairs)


def run_steps(exported: Any, model: Any, ids: Tensor) -> Tensor:
    """Logits of an exported decoder, step by step.

    Args:
        exported: ``ExportedModel`` of the step.
        model: the decoder in PyTorch; it says what a cache looks like.
        ids: tokens ``(rows, length)``.
    """
    cache, logits, start = empty_cache(model, ids), [], 0
    for end in sorted({max(1, ids.shape[1] // 2), ids.shape[1] // 2 + 1, ids.shape[1]}):
        if end > ids.shape[1] or end <= start:
            continue
        positions = torch.arange(start, end)
        output = exported(
            input_ids=ids[:, start:end],
            attention_mask=torch.ones(len(ids), end, dtype=torch.long),
            position_ids=positions[None].expand(len(ids), -1),
            cache_position=positions,
            past_key_values=cache,
        )
        logits.append(output.logits.clone())
        cache, start = output.past_key_values, end
    return torch.cat(logits, dim=1)


def empty_cache(model: Any, ids: Tensor) -> Any:
    """A cache of no tokens, whose tensors have the shapes of the model."""
    with torch.no_grad():
        cache = model(input_ids=ids[:, :1], use_cache=True).past_key_values
    for layer in cache.layers:
        if layer.keys is not None:  # a slot of an attention that is removed
            layer.keys, layer.values = layer.keys[..., :0, :], layer.values[..., :0, :]
    return cache
