"""BART and the encoder-decoders with its module names: an encoder, and a decoder whose layers also attend to its output.

Post-LN types (BART, Marian, PLBart, BlenderBot-small) have a norm after each residual sum. Pre-LN types (mBART, Pegasus,
M2M-100, to which NLLB belongs, and Whisper, whose encoder is given sound) have one before each block and one behind each
stack. The feed-forward block is no module; its first projection stands for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from secateurs.errors import UnsupportedModelError
from secateurs.structure.cut import Cut, Kind
from secateurs.structure.families import PlainConfig, family, plain
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "structure"]

TYPES = ("bart", "marian", "plbart", "blenderbot-small", "mbart", "pegasus", "m2m_100", "whisper")

_BLOCKS = {
    "encoder": (("heads", "self_attn", ""),),
    "decoder": (("heads", "self_attn", "self"), ("cross_heads", "encoder_attn", "cross")),
}
"""Stack -> its attention blocks: end of the group name, name of the module, cache that it fills."""


@family(*TYPES)
def structure(model: Any) -> Structure:
    """The heads (of self- and of cross-attention) and the feed-forward neurons of every layer of both stacks."""
    if not hasattr(model, "encoder"):
        raise UnsupportedModelError(
            f"a {model.config.model_type} decoder without its encoder cannot be pruned; load the encoder-decoder"
        )
    stacks = [name for name in _BLOCKS if hasattr(model, name)]
    return Structure(tuple(group for stack in stacks for group in _groups(getattr(model, stack), stack)))


def _groups(module: Any, stack: str) -> Iterator[Group]:
    """The groups of one stack, in data order."""
    pre_norm = hasattr(module, "layer_norm")
    blocks = _BLOCKS[stack]
    tokens = "decoder_attention_mask" if stack == "decoder" else "attention_mask"
    own_norms = [f"{block}_layer_norm" for _, block, _ in blocks] + ["final_layer_norm"]
    for index, layer in enumerate(module.layers):
        path = f"{stack}.layers.{index}"
        norms = [f"{path}.{name}" for name in own_norms]
        if pre_norm:  # the stream after a block is the input of the norm before the next block
            last = index == len(module.layers) - 1
            streams = [*norms[1:], f"{stack}.layer_norm" if last else f"{stack}.layers.{index + 1}.{own_norms[0]}"]
        else:
            streams = norms
        for (name, block, cache), norm, stream in zip(blocks, norms, streams, strict=False):
            attention = getattr(layer, block)
            heads = attention.out_proj.in_features // attention.head_dim
            if heads:
                yield Group(
                    f"{stack}.{index}.{name}",
                    Kind.HEAD,
                    heads,
                    cuts=(
                        *(
                            Cut(f"{path}.{block}.{projection}.{part}", 0, attention.head_dim)
                            for projection in ("q_proj", "k_proj", "v_proj")
                            for part in ("weight", "bias")
                            if getattr(getattr(attention, projection), part) is not None
                        ),
                        Cut(f"{path}.{block}.out_proj.weight", 1, attention.head_dim),
                    ),
                    output_projection=f"{path}.{block}.out_proj",
                    block=f"{path}.{block}",
                    layer=path,
                    stream=stream,
                    norms=(norm,) if pre_norm else (),
                    attributes={f"{path}.{block}.num_heads": 1},
                    cache=cache,
                    tokens=tokens,
                    memory=tuple(f"{path}.{block}.{name}" for name in ("k_proj", "v_proj") if cache == "cross"),
                )
        if layer.fc2.in_features:
            yield Group(
                f"{stack}.{index}.intermediate",
                Kind.INTERMEDIATE,
                layer.fc2.in_features,
                cuts=(Cut(f"{path}.fc1.weight", 0), Cut(f"{path}.fc1.bias", 0), Cut(f"{path}.fc2.weight", 1)),
                output_projection=f"{path}.fc2",
                block=f"{path}.fc1",
                layer=path,
                stream=streams[-1],
                norms=(norms[-1],) if pre_norm else (),
                tokens=tokens,
            )


@plain(*TYPES)
def plain_config(model: Any) -> PlainConfig | None:
    """One feed-forward width per stack. The config has no head size, so every head must be present."""
    changes: dict[str, int] = {}
    for stack, blocks in _BLOCKS.items():
        layers = getattr(model, stack).layers
        widths = {layer.fc2.in_features for layer in layers}
        attentions = [getattr(layer, block) for layer in layers for _, block, _ in blocks]
        if len(widths) != 1 or 0 in widths or any(one.out_proj.in_features < one.embed_dim for one in attentions):
            return None
        changes[f"{stack}_ffn_dim"] = widths.pop()
    return PlainConfig(changes, "encoder.layers", tuple(range(len(model.encoder.layers))))
