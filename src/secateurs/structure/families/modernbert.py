"""ModernBERT: pre-LN, one fused projection for q|k|v, a gated feed-forward block whose two halves are one matrix.

Layers alternate between full and local attention, each with its own rotary embedding. The first layer takes its input from
the norm of the embeddings and has no norm of its own. Norms and projections may lack biases.
"""

from __future__ import annotations

from typing import Any

from secateurs.structure.cut import Cut, Kind
from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._one_width import with_one_width
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]


@family("modernbert")
def structure(model: Any) -> Structure:
    """The heads and the feed-forward neurons of every layer."""
    groups: list[Group] = []
    last = len(model.layers) - 1
    for index, module in enumerate(model.layers):
        layer = f"layers.{index}"
        attention, mlp = f"{layer}.attn", f"{layer}.mlp"
        head = module.attn.head_dim
        heads = module.attn.Wo.in_features // head
        if heads:
            groups.append(
                Group(
                    f"layer.{index}.heads",
                    Kind.HEAD,
                    heads,
                    cuts=(
                        *_fused(f"{attention}.Wqkv", module.attn.Wqkv, 3, heads * head, head),
                        Cut(f"{attention}.Wo.weight", 1, head),
                    ),
                    output_projection=f"{attention}.Wo",
                    block=attention,
                    layer=layer,
                    stream=f"{layer}.mlp_norm",
                    norms=(f"{layer}.attn_norm",) if hasattr(module.attn_norm, "weight") else (),
                )
            )
        neurons = module.mlp.Wo.in_features
        if neurons:
            groups.append(
                Group(
                    f"layer.{index}.intermediate",
                    Kind.INTERMEDIATE,
                    neurons,
                    cuts=(*_fused(f"{mlp}.Wi", module.mlp.Wi, 2, neurons, 1), Cut(f"{mlp}.Wo.weight", 1)),
                    output_projection=f"{mlp}.Wo",
                    block=mlp,
                    layer=layer,
                    stream=f"layers.{index + 1}.attn_norm" if index < last else "final_norm",
                    norms=(f"{layer}.mlp_norm",),
                )
            )
    return Structure(tuple(groups))


def _fused(path: str, linear: Any, parts: int, rows: int, width: int) -> list[Cut]:
    """The cuts of a matrix that holds several projections, one after the other, of equal size."""
    names = ("weight", "bias") if linear.bias is not None else ("weight",)
    return [Cut(f"{path}.{name}", 0, width, part * rows) for name in names for part in range(parts)]


_ROLES: Roles = {
    "embeddings.tok_embeddings": Role.WRITES,
    "embeddings.norm": Role.RENEWS,
    "layers.*.attn_norm": Role.NORMS,
    "layers.*.attn.Wqkv": Role.READS,
    "layers.*.attn.Wo": Role.WRITES,
    "layers.*.mlp_norm": Role.NORMS,
    "layers.*.mlp.Wi": Role.READS,
    "layers.*.mlp.Wo": Role.WRITES,
    "final_norm": Role.NORMS,
    "head.dense": Role.BRIDGES,
    "head.norm": Role.RENEWS,
    "decoder": Role.READS,
    "classifier": Role.READS,
}


@stream("modernbert")
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream; the same for every model.

    All task heads begin with the same ``head``, which is as wide as the stream because the decoder of a language model is
    tied to the embeddings.
    """
    return _ROLES


@plain("modernbert")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_one_width``."""
    sizes = [(layer.attn.Wo.in_features, layer.mlp.Wo.in_features) for layer in model.layers]
    return with_one_width("intermediate_size", "layers", sizes, model.config.hidden_size)
