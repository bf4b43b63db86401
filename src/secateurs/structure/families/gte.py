"""GTE, Nomic BERT and Jina embeddings v3: post-LN encoders with rotary positions and the module names of Llama.

The feed-forward block of GTE and Nomic BERT is gated, that of Jina is not. The fused projections of their checkpoints are
split by transformers when it loads them.
"""

from __future__ import annotations

from typing import Any

from secateurs.structure.cut import Cut, Kind
from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._one_width import with_one_width
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]

_TYPES = ("gte", "nomic_bert", "jina_embeddings_v3")


@family(*_TYPES)
def structure(model: Any) -> Structure:
    """The heads and the feed-forward neurons of every layer."""
    groups: list[Group] = []
    for index, module in enumerate(model.layers):
        layer = f"layers.{index}"
        attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
        head = module.self_attn.head_dim
        heads = module.self_attn.o_proj.in_features // head
        if heads:
            groups.append(
                Group(
                    f"layer.{index}.heads",
                    Kind.HEAD,
                    heads,
                    cuts=(
                        *_rows(attention, module.self_attn, ("q_proj", "k_proj", "v_proj"), head),
                        Cut(f"{attention}.o_proj.weight", 1, head),
                    ),
                    output_projection=f"{attention}.o_proj",
                    block=attention,
                    layer=layer,
                    stream=f"{layer}.post_attention_layernorm",
                )
            )
        ups, down = _feed_forward(module.mlp)
        neurons = getattr(module.mlp, down).in_features
        if neurons:
            groups.append(
                Group(
                    f"layer.{index}.intermediate",
                    Kind.INTERMEDIATE,
                    neurons,
                    cuts=(*_rows(mlp, module.mlp, ups, 1), Cut(f"{mlp}.{down}.weight", 1)),
                    output_projection=f"{mlp}.{down}",
                    block=mlp,
                    layer=layer,
                    stream=f"{layer}.post_mlp_layernorm",
                )
            )
    return Structure(tuple(groups))


def _feed_forward(mlp: Any) -> tuple[tuple[str, ...], str]:
    """Names of the input projections and of the output projection of a feed-forward block."""
    return (("gate_proj", "up_proj"), "down_proj") if hasattr(mlp, "down_proj") else (("fc1",), "fc2")


def _rows(path: str, block: Any, names: tuple[str, ...], width: int) -> list[Cut]:
    """Cuts of the rows of input projections, and of their biases where they have some."""
    cuts = [Cut(f"{path}.{name}.weight", 0, width) for name in names]
    return cuts + [Cut(f"{path}.{name}.bias", 0, width) for name in names if getattr(block, name).bias is not None]


_ROLES: Roles = {
    "embeddings.word_embeddings": Role.WRITES,
    "embeddings.token_type_embeddings": Role.WRITES,
    "embeddings.LayerNorm": Role.RENEWS,
    "layers.*.self_attn.q_proj": Role.READS,
    "layers.*.self_attn.k_proj": Role.READS,
    "layers.*.self_attn.v_proj": Role.READS,
    "layers.*.self_attn.o_proj": Role.WRITES,
    "layers.*.post_attention_layernorm": Role.RENEWS,
    "layers.*.mlp.gate_proj": Role.READS,
    "layers.*.mlp.up_proj": Role.READS,
    "layers.*.mlp.down_proj": Role.WRITES,
    "layers.*.mlp.fc1": Role.READS,
    "layers.*.mlp.fc2": Role.WRITES,
    "layers.*.post_mlp_layernorm": Role.RENEWS,
    "pooler.dense": Role.POOLS,
    "lm_head": Role.APART,
    "lm_head.dense": Role.BRIDGES,
    "lm_head.layer_norm": Role.RENEWS,
    "lm_head.decoder": Role.READS,
    "cls.predictions": Role.APART,
    "cls.predictions.transform.dense": Role.BRIDGES,
    "cls.predictions.transform.layer_norm": Role.RENEWS,
    "cls.predictions.decoder": Role.READS,
    "classifier.dense": Role.READS,
    "classifier.out_proj": Role.APART,
    "qa_outputs": Role.READS,
}


@stream(*_TYPES)
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream. A single ``classifier`` layer takes its input from a pooler, if any."""
    return {**_ROLES, "classifier": Role.READS if getattr(base, "pooler", None) is None else Role.APART}


@plain(*_TYPES)
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_one_width``."""
    config = model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    sizes = []
    for layer in model.layers:
        _, down = _feed_forward(layer.mlp)
        sizes.append((layer.self_attn.o_proj.in_features, getattr(layer.mlp, down).in_features))
    return with_one_width("intermediate_size", "layers", sizes, config.num_attention_heads * head)
