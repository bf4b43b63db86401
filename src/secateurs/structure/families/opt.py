"""OPT: pre-LN, biases everywhere, learned positions.

The feed-forward block is no module, so its first projection stands for it. The layer flattens the tokens of a batch in front
of the feed-forward block, so ``fc1``, ``fc2`` and the norm before them see one axis of tokens.
"""

from __future__ import annotations

from typing import Any

from secateurs.errors import UnsupportedModelError
from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._blocks import attention_groups, feed_forward_groups
from secateurs.structure.families._one_width import with_one_width
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]


@family("opt")
def structure(model: Any) -> Structure:
    """The heads and the feed-forward neurons of every layer."""
    decoder = model.decoder
    if not model.config.do_layer_norm_before or decoder.project_in is not None:
        raise UnsupportedModelError(
            "OPT with norms after its blocks or with projected embeddings (350m) cannot be pruned yet"
        )
    if decoder.final_layer_norm is None:
        raise UnsupportedModelError("OPT without a norm after its last layer cannot be pruned yet")
    groups: list[Group] = []
    last = len(decoder.layers) - 1
    for index in range(last + 1):
        layer = f"decoder.layers.{index}"
        middle = f"{layer}.final_layer_norm"
        groups += attention_groups(
            model,
            index,
            f"{layer}.self_attn",
            "out_proj",
            layer=layer,
            stream=middle,
            norms=(f"{layer}.self_attn_layer_norm",),
            attributes={f"{layer}.self_attn.num_heads": 1},
        )
        groups += feed_forward_groups(
            model,
            index,
            layer,
            ("fc1",),
            "fc2",
            layer=layer,
            block=f"{layer}.fc1",
            stream=f"decoder.layers.{index + 1}.self_attn_layer_norm" if index < last else "decoder.final_layer_norm",
            norms=(middle,),
        )
    return Structure(tuple(groups))


_ROLES: Roles = {
    "decoder.embed_tokens": Role.WRITES,
    "decoder.embed_positions": Role.WRITES,
    "decoder.layers.*.self_attn_layer_norm": Role.NORMS,
    "decoder.layers.*.self_attn.q_proj": Role.READS,
    "decoder.layers.*.self_attn.k_proj": Role.READS,
    "decoder.layers.*.self_attn.v_proj": Role.READS,
    "decoder.layers.*.self_attn.out_proj": Role.WRITES,
    "decoder.layers.*.final_layer_norm": Role.NORMS,
    "decoder.layers.*.fc1": Role.READS,
    "decoder.layers.*.fc2": Role.WRITES,
    "decoder.final_layer_norm": Role.NORMS,
    "lm_head": Role.READS,
    "score": Role.READS,
    "qa_outputs": Role.READS,
}


@stream("opt")
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream. A norm is cut by its gain, so it must have one."""
    if not base.config.layer_norm_elementwise_affine:
        raise UnsupportedModelError("the hidden size of an OPT whose norms have no gains cannot be pruned")
    return _ROLES


@plain("opt")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_one_width``."""
    sizes = [(one.self_attn.out_proj.in_features, one.fc2.in_features) for one in model.decoder.layers]
    return with_one_width("ffn_dim", "decoder.layers", sizes, model.config.hidden_size)
