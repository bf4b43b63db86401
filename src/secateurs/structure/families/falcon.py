"""Falcon: one projection for queries, keys and values, rotary positions, and usually both blocks of a layer in parallel.

The rows of ``query_key_value`` are ordered by key-value head: its queries, its keys, its values. So one cut is enough. Where
all query heads share one key-value head (7B), a unit is a query head, and the keys and values are never cut. Parallel blocks
read one norm or a norm each, and the residual stream after either block is the output of the layer.
"""

from __future__ import annotations

from typing import Any

from secateurs.errors import UnsupportedModelError
from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._blocks import feed_forward_groups, fused_heads
from secateurs.structure.families._one_width import with_one_width
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]


@family("falcon")
def structure(model: Any) -> Structure:
    """The heads (see above) and the feed-forward neurons of every layer."""
    config = model.config
    if config.alibi:
        raise UnsupportedModelError("Falcon with position biases for every head (alibi) cannot be pruned yet")
    groups: list[Group] = []
    last = len(model.h) - 1
    for index, module in enumerate(model.h):
        layer = f"h.{index}"
        attention = f"{layer}.self_attention"
        end = f"h.{index + 1}.{_first_norm(model.h[index + 1])}" if index < last else "ln_f"
        before, after = ((), ()) if config.parallel_attn else (("input_layernorm",), ("post_attention_layernorm",))
        if hasattr(module, "ln_attn"):
            before, after = ("ln_attn",), ("ln_mlp",)
        input_rows, output_columns, fields = _unit(module.self_attention)
        groups += fused_heads(
            model,
            index,
            attention,
            ("query_key_value", input_rows),
            ("dense", output_columns),
            layer=layer,
            stream=end if config.parallel_attn else f"{layer}.post_attention_layernorm",
            norms=tuple(f"{layer}.{norm}" for norm in before),
            attributes={f"{attention}.{name}": value for name, value in fields.items()},
        )
        groups += feed_forward_groups(
            model,
            index,
            f"{layer}.mlp",
            ("dense_h_to_4h",),
            "dense_4h_to_h",
            layer=layer,
            stream=end,
            norms=tuple(f"{layer}.{norm}" for norm in after),
        )
    return Structure(tuple(groups))


def _first_norm(module: Any) -> str:
    return "ln_attn" if hasattr(module, "ln_attn") else "input_layernorm"


def _unit(attn: Any) -> tuple[int, int, dict[str, int]]:
    """Rows of the fused projection and columns of the output projection per unit; fields of the module per unit."""
    head = attn.head_dim
    if attn.new_decoder_architecture:
        queries = attn.num_heads // attn.num_kv_heads if attn.num_kv_heads else 1
        return (queries + 2) * head, queries * head, {"num_heads": queries, "num_kv_heads": 1}
    if attn.multi_query:
        return head, head, {"num_heads": 1}
    return 3 * head, head, {"num_heads": 1, "num_kv_heads": 1}


_ROLES: Roles = {
    "word_embeddings": Role.WRITES,
    "h.*.input_layernorm": Role.NORMS,
    "h.*.ln_attn": Role.NORMS,
    "h.*.self_attention.query_key_value": Role.READS,
    "h.*.self_attention.dense": Role.WRITES,
    "h.*.post_attention_layernorm": Role.NORMS,
    "h.*.ln_mlp": Role.NORMS,
    "h.*.mlp.dense_h_to_4h": Role.READS,
    "h.*.mlp.dense_4h_to_h": Role.WRITES,
    "ln_f": Role.NORMS,
    "lm_head": Role.READS,
    "score": Role.READS,
    "classifier": Role.READS,
    "qa_outputs": Role.READS,
}


@stream("falcon")
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream; the same for every Falcon."""
    return _ROLES


@plain("falcon")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_one_width``."""
    sizes = [(layer.self_attention.dense.in_features, layer.mlp.dense_4h_to_h.in_features) for layer in model.h]
    return with_one_width("ffn_hidden_size", "h", sizes, model.config.hidden_size)
