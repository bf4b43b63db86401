"""GPT-BigCode (SantaCoder, StarCoder): pre-LN, learned positions, one projection for queries, keys and values.

With ``multi_query`` all query heads share one key-value head: a unit is a query head, and the keys and values are never cut.
Without it, the rows of the projection are ordered by head, so one cut is enough.
"""

from __future__ import annotations

from typing import Any

from secateurs.errors import UnsupportedModelError
from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._blocks import feed_forward_groups, fused_heads
from secateurs.structure.families._one_width import with_one_width
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]


@family("gpt_bigcode")
def structure(model: Any) -> Structure:
    """The query heads (with their keys and values, if they have any) and the feed-forward neurons of every layer."""
    if model.config.add_cross_attention:
        raise UnsupportedModelError("GPT-BigCode with cross-attention cannot be pruned; only decoder-only models can")
    groups: list[Group] = []
    last = len(model.h) - 1
    for index, module in enumerate(model.h):
        layer = f"h.{index}"
        attention, attn, head = f"{layer}.attn", module.attn, module.attn.head_dim
        fields = {"embed_dim": head, "num_key_value_groups": 1} if attn.multi_query else {}
        groups += fused_heads(
            model,
            index,
            attention,
            ("c_attn", head if attn.multi_query else 3 * head),
            ("c_proj", head),
            layer=layer,
            stream=f"{layer}.ln_2",
            norms=(f"{layer}.ln_1",),
            attributes={f"{attention}.{name}": value for name, value in {"num_heads": 1, **fields}.items()},
        )
        groups += feed_forward_groups(
            model,
            index,
            f"{layer}.mlp",
            ("c_fc",),
            "c_proj",
            layer=layer,
            stream=f"h.{index + 1}.ln_1" if index < last else "ln_f",
            norms=(f"{layer}.ln_2",),
        )
    return Structure(tuple(groups))


_ROLES: Roles = {
    "wte": Role.WRITES,
    "wpe": Role.WRITES,
    "h.*.ln_1": Role.NORMS,
    "h.*.attn.c_attn": Role.READS,
    "h.*.attn.c_proj": Role.WRITES,
    "h.*.ln_2": Role.NORMS,
    "h.*.mlp.c_fc": Role.READS,
    "h.*.mlp.c_proj": Role.WRITES,
    "ln_f": Role.NORMS,
    "lm_head": Role.READS,
    "score": Role.READS,
    "classifier": Role.READS,
}


@stream("gpt_bigcode")
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream; the same for every GPT-BigCode."""
    return _ROLES


@plain("gpt_bigcode")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_one_width``."""
    sizes = [(layer.attn.c_proj.in_features, layer.mlp.c_proj.in_features) for layer in model.h]
    return with_one_width("n_inner", "h", sizes, model.config.hidden_size)
