"""T5 and the encoder-decoders with its module names: pre-LN without biases, and a relative position bias in each stack.

In T5 and mT5 the first self-attention of a stack computes the position bias of all heads, and every attention hands it on to
the next layer. Each attention therefore selects its heads from it, and the table is not cut. Cross-attentions hand on zeros.
In uMT5 every self-attention has a table of its own, which is cut with its heads. The feed-forward block has one input
projection in the first release of T5, and a gate and a value in the later ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from secateurs.errors import UnsupportedModelError
from secateurs.structure.cut import Cut, Kind
from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]

ONE_BIAS = ("t5", "mt5")
"""Types with one position bias for all layers of a stack."""

TYPES = (*ONE_BIAS, "umt5")

_BLOCKS = {
    "encoder": (("heads", "SelfAttention", ""),),
    "decoder": (("heads", "SelfAttention", "self"), ("cross_heads", "EncDecAttention", "cross")),
}
"""Stack -> its attention blocks: end of the group name, name of the module, cache that it fills."""


@family(*TYPES)
def structure(model: Any) -> Structure:
    """The heads (of self- and of cross-attention) and the feed-forward neurons of every layer of both stacks."""
    if not hasattr(model, "encoder"):
        raise UnsupportedModelError(f"one stack of a {model.config.model_type} model cannot be pruned; load the model")
    stacks = [name for name in _BLOCKS if hasattr(model, name)]
    return Structure(tuple(group for stack in stacks for group in _groups(getattr(model, stack), stack)))


def _groups(module: Any, stack: str) -> Iterator[Group]:
    """The groups of one stack, in data order."""
    tokens = "decoder_attention_mask" if stack == "decoder" else "attention_mask"
    for index, layer in enumerate(module.block):
        path = f"{stack}.block.{index}"
        norms = [f"{path}.layer.{place}.layer_norm" for place in range(len(layer.layer))]
        # The stream after a block is the input of the norm before the next block.
        last = index == len(module.block) - 1
        end = f"{stack}.final_layer_norm" if last else f"{stack}.block.{index + 1}.layer.0.layer_norm"
        streams = [*norms[1:], end]
        for place, (name, block, cache) in enumerate(_BLOCKS[stack]):
            attention, at = getattr(layer.layer[place], block), f"{path}.layer.{place}.{block}"
            heads = attention.o.in_features // attention.key_value_proj_dim
            if heads:
                yield _attention(
                    attention,
                    at,
                    one_bias=module.config.model_type in ONE_BIAS,
                    name=f"{stack}.{index}.{name}",
                    kind=Kind.HEAD,
                    size=heads,
                    layer=path,
                    stream=streams[place],
                    norms=(norms[place],),
                    cache=cache,
                    tokens=tokens,
                    memory=tuple(f"{at}.{one}" for one in "kv" if cache == "cross"),
                )
        neurons, at = layer.layer[-1].DenseReluDense.wo.in_features, f"{path}.layer.{len(norms) - 1}.DenseReluDense"
        inputs = [name for name in ("wi", "wi_0", "wi_1") if hasattr(layer.layer[-1].DenseReluDense, name)]
        if neurons:
            yield Group(
                f"{stack}.{index}.intermediate",
                Kind.INTERMEDIATE,
                neurons,
                cuts=(*(Cut(f"{at}.{name}.weight", 0) for name in inputs), Cut(f"{at}.wo.weight", 1)),
                output_projection=f"{at}.wo",
                block=at,
                layer=path,
                stream=streams[-1],
                norms=(norms[-1],),
                tokens=tokens,
            )


def _attention(attention: Any, at: str, *, one_bias: bool, **fields: Any) -> Group:
    """The heads of one attention.

    Args:
        attention: the module.
        at: its path.
        one_bias: it gets the position bias of all heads and hands it on; or it computes that bias.
        fields: the other fields of the group.
    """
    width, table = attention.key_value_proj_dim, attention.has_relative_attention_bias
    cuts = [*(Cut(f"{at}.{name}.weight", 0, width) for name in "qkv"), Cut(f"{at}.o.weight", 1, width)]
    if one_bias:
        shared = {"position_bias": 1, "output[1]": 1, **({"compute_bias": 1} if table else {})}
        fields |= {"per_head": shared, "returns": "tuple with bias"}
    elif table:
        cuts.append(Cut(f"{at}.relative_attention_bias.weight", 1))
        fields["other_inputs"] = (f"{at}.relative_attention_bias",)
    return Group(
        cuts=tuple(cuts),
        output_projection=f"{at}.o",
        block=at,
        attributes={f"{at}.n_heads": 1, f"{at}.inner_dim": width},
        **fields,
    )


_ROLES: Roles = {
    "shared": Role.WRITES,
    **{f"{stack}.embed_tokens": Role.WRITES for stack in _BLOCKS},
    **{f"{stack}.block.*.layer.*.layer_norm": Role.NORMS for stack in _BLOCKS},
    **{f"{stack}.final_layer_norm": Role.NORMS for stack in _BLOCKS},
    **{
        f"{stack}.block.*.layer.*.{module}.{name}": Role.WRITES if name in ("o", "wo") else Role.READS
        for stack in _BLOCKS
        for module, names in (
            ("SelfAttention", "q k v o"),
            ("EncDecAttention", "q k v o"),
            ("DenseReluDense", "wi wi_0 wi_1 wo"),
        )
        for name in names.split()
    },
    **{f"{stack}.block.*.layer.*.SelfAttention.relative_attention_bias": Role.APART for stack in _BLOCKS},
    "lm_head": Role.READS,
    "qa_outputs": Role.READS,
    "classifier": Role.READS,
    "classification_head.dense": Role.READS,
    "classification_head.out_proj": Role.APART,
}


@stream(*TYPES)
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream. Tied embeddings start both stacks, so that they have one stream."""
    return _ROLES


@plain(*TYPES)
def plain_config(model: Any) -> PlainConfig | None:
    """One feed-forward width for both stacks. There is one number of heads for all layers, so every head must be present."""
    stacks = [getattr(model, name) for name in _BLOCKS if hasattr(model, name)]
    layers = [layer.layer for stack in stacks for layer in stack.block]
    widths = {layer[-1].DenseReluDense.wo.in_features for layer in layers}
    heads = model.config.num_heads * model.config.d_kv
    attentions = [getattr(one, name) for layer in layers for one in layer for name in ("SelfAttention", "EncDecAttention")
                  if hasattr(one, name)]  # fmt: skip
    if len(widths) != 1 or 0 in widths or any(attention.o.in_features < heads for attention in attentions):
        return None
    return PlainConfig({"d_ff": widths.pop()}, "encoder.block", tuple(range(len(model.encoder.block))))
