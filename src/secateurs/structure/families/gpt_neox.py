"""GPT-NeoX (Pythia): pre-LN, one projection for queries, keys and values, and both blocks of a layer in parallel.

The rows of ``query_key_value`` are ordered by head: queries, keys and values of head 0, then those of head 1. So one cut is
enough. With ``use_parallel_residual`` both blocks read the stream before the layer, each through a norm of its own.
"""

from __future__ import annotations

from typing import Any

from secateurs.structure.cut import Cut, Kind
from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._blocks import feed_forward_groups
from secateurs.structure.families._one_width import with_one_width
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]


@family("gpt_neox")
def structure(model: Any) -> Structure:
    """The heads and the feed-forward neurons of every layer."""
    groups: list[Group] = []
    last = len(model.layers) - 1
    for index, module in enumerate(model.layers):
        layer = f"layers.{index}"
        path, middle = f"{layer}.attention", f"{layer}.post_attention_layernorm"
        end = f"layers.{index + 1}.input_layernorm" if index < last else "final_layer_norm"
        attention, head = module.attention, module.attention.head_size
        if heads := attention.dense.in_features // head:
            parts = ("weight",) if attention.query_key_value.bias is None else ("weight", "bias")
            groups.append(
                Group(
                    f"layer.{index}.heads",
                    Kind.HEAD,
                    heads,
                    cuts=(
                        *(Cut(f"{path}.query_key_value.{part}", 0, 3 * head) for part in parts),
                        Cut(f"{path}.dense.weight", 1, head),
                    ),
                    output_projection=f"{path}.dense",
                    block=path,
                    layer=layer,
                    stream=end if module.use_parallel_residual else middle,
                    norms=(f"{layer}.input_layernorm",),
                )
            )
        groups += feed_forward_groups(
            model,
            index,
            f"{layer}.mlp",
            ("dense_h_to_4h",),
            "dense_4h_to_h",
            layer=layer,
            stream=end,
            norms=(middle,),
        )
    return Structure(tuple(groups))


_ROLES: Roles = {
    "embed_in": Role.WRITES,
    "layers.*.input_layernorm": Role.NORMS,
    "layers.*.attention.query_key_value": Role.READS,
    "layers.*.attention.dense": Role.WRITES,
    "layers.*.post_attention_layernorm": Role.NORMS,
    "layers.*.mlp.dense_h_to_4h": Role.READS,
    "layers.*.mlp.dense_4h_to_h": Role.WRITES,
    "final_layer_norm": Role.NORMS,
    "lm_head": Role.READS,
    "score": Role.READS,
    "classifier": Role.READS,
    "qa_outputs": Role.READS,
}


@stream("gpt_neox")
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream; the same for every GPT-NeoX."""
    return _ROLES


@plain("gpt_neox")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_one_width``."""
    sizes = [(one.attention.dense.in_features, one.mlp.dense_4h_to_h.in_features) for one in model.layers]
    return with_one_width("intermediate_size", "layers", sizes, model.config.hidden_size)
