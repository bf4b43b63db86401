"""GPT-2: pre-LN, one fused projection for q|k|v, and transposed ``Conv1D`` weights (inputs x outputs)."""

from __future__ import annotations

from typing import Any

from secateurs.errors import UnsupportedModelError
from secateurs.structure.cut import Cut, Kind
from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._one_width import with_one_width
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]


@family("gpt2")
def structure(model: Any) -> Structure:
    """The heads and the feed-forward neurons of every layer."""
    if model.config.add_cross_attention:
        raise UnsupportedModelError("GPT-2 with cross-attention cannot be pruned; only decoder-only GPT-2 is supported")
    groups: list[Group] = []
    last = len(model.h) - 1
    for index, module in enumerate(model.h):
        layer = f"h.{index}"
        attention, mlp = f"{layer}.attn", f"{layer}.mlp"
        head = module.attn.head_dim
        heads = module.attn.c_proj.nx // head
        if heads:
            fused = [part * heads * head for part in range(3)]  # where q, k and v start in the outputs of c_attn
            groups.append(
                Group(
                    f"layer.{index}.heads",
                    Kind.HEAD,
                    heads,
                    cuts=(
                        *(Cut(f"{attention}.c_attn.weight", 1, head, start) for start in fused),
                        *(Cut(f"{attention}.c_attn.bias", 0, head, start) for start in fused),
                        Cut(f"{attention}.c_proj.weight", 0, head),
                    ),
                    output_projection=f"{attention}.c_proj",
                    block=attention,
                    layer=layer,
                    stream=f"{layer}.ln_2",
                    norms=(f"{layer}.ln_1",),
                    attributes={f"{attention}.num_heads": 1, f"{attention}.split_size": head},
                )
            )
        neurons = module.mlp.c_proj.nx
        if neurons:
            groups.append(
                Group(
                    f"layer.{index}.intermediate",
                    Kind.INTERMEDIATE,
                    neurons,
                    cuts=(Cut(f"{mlp}.c_fc.weight", 1), Cut(f"{mlp}.c_fc.bias", 0), Cut(f"{mlp}.c_proj.weight", 0)),
                    output_projection=f"{mlp}.c_proj",
                    block=mlp,
                    layer=layer,
                    stream=f"h.{index + 1}.ln_1" if index < last else "ln_f",
                    norms=(f"{layer}.ln_2",),
                )
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
    "qa_outputs": Role.READS,
    "multiple_choice_head.summary": Role.READS,
}


@stream("gpt2")
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream; the same for every GPT-2."""
    return _ROLES


@plain("gpt2")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_one_width``."""
    sizes = [(layer.attn.c_proj.nx, layer.mlp.c_proj.nx) for layer in model.h]
    return with_one_width("n_inner", "h", sizes, model.config.n_embd)
