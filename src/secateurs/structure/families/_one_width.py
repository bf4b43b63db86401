"""The plain config of BERT, DistilBERT and GPT-2: every head is present, and all layers have one feed-forward width."""

from __future__ import annotations

from collections.abc import Iterable

from secateurs.structure.families import PlainConfig

__all__ = ["with_one_width"]


def with_one_width(field: str, layers: str, sizes: Iterable[tuple[int, int]], hidden: int) -> PlainConfig | None:
    """The plain config of a pruned model, or ``None`` where there is none.

    The config has no field for the head size, so every head must be present. An emptied layer still adds its biases or
    applies its norms, so no layer can be left out.

    Args:
        field: config field of the feed-forward width.
        layers: path of the list of layers, relative to the base model.
        sizes: for every layer, the inputs of the output projections of its attention and of its feed-forward block.
        hidden: inputs of the output projection of an attention with every head.
    """
    layer_sizes = list(sizes)
    widths = {width for _, width in layer_sizes}
    if len(widths) != 1 or 0 in widths or any(attention < hidden for attention, _ in layer_sizes):
        return None
    return PlainConfig({field: widths.pop()}, layers, tuple(range(len(layer_sizes))))
