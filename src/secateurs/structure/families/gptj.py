"""GPT-J: attention and feed-forward block read one norm and are both added to its input; partial rotary positions.

The residual stream after either block is the output of the layer. No norm belongs to one block alone.
"""

from __future__ import annotations

from typing import Any

from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._blocks import attention_groups, feed_forward_groups
from secateurs.structure.families._one_width import with_one_width
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]


@family("gptj")
def structure(model: Any) -> Structure:
    """The heads and the feed-forward neurons of every layer."""
    groups: list[Group] = []
    last = len(model.h) - 1
    for index in range(last + 1):
        layer = f"h.{index}"
        end = f"h.{index + 1}.ln_1" if index < last else "ln_f"
        groups += attention_groups(
            model,
            index,
            f"{layer}.attn",
            "out_proj",
            layer=layer,
            stream=end,
            attributes={f"{layer}.attn.num_attention_heads": 1},
        )
        groups += feed_forward_groups(model, index, f"{layer}.mlp", ("fc_in",), "fc_out", layer=layer, stream=end)
    return Structure(tuple(groups))


_ROLES: Roles = {
    "wte": Role.WRITES,
    "h.*.ln_1": Role.NORMS,
    "h.*.attn.q_proj": Role.READS,
    "h.*.attn.k_proj": Role.READS,
    "h.*.attn.v_proj": Role.READS,
    "h.*.attn.out_proj": Role.WRITES,
    "h.*.mlp.fc_in": Role.READS,
    "h.*.mlp.fc_out": Role.WRITES,
    "ln_f": Role.NORMS,
    "lm_head": Role.READS,
    "score": Role.READS,
    "qa_outputs": Role.READS,
}


@stream("gptj")
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream; the same for every GPT-J."""
    return _ROLES


@plain("gptj")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_one_width``."""
    sizes = [(layer.attn.out_proj.in_features, layer.mlp.fc_out.in_features) for layer in model.h]
    return with_one_width("n_inner", "h", sizes, model.config.hidden_size)
