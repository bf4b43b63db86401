"""Decoders whose config changes their modules: the law for heads, neurons and hidden size, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from masks import uneven
from secateurs.errors import UnsupportedModelError
from secateurs.structure.families import discover
from secateurs.surgery.shrink import shrink, zero_masked
from tiny_models import batch, tiny_model

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("gpt_neox", {"use_parallel_residual": False}),
    ("gpt_neox", {"attention_bias": False}),
    ("opt", {"enable_bias": False}),
    ("stablelm", {"use_parallel_residual": True}),
    ("hyperclovax", {"use_post_norm": False}),
    ("gpt_bigcode", {"multi_query": False}),
    ("falcon", {"multi_query": False, "bias": True}),
    ("falcon", {"multi_query": False, "parallel_attn": False}),
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1}),
]


def outputs(model: Any, kept: Tensor | None = None) -> list[Tensor]:
    with torch.no_grad():
        found = model(**batch(padding="right"), output_hidden_states=True)
    return [*(state if kept is None else state[..., kept] for state in found.hidden_states), found.logits]


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


@pytest.mark.usefixtures("norms_in_fp64")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("model_type", "changes"), VARIANTS)
def test_the_law_under_other_configs(model_type: str, changes: dict[str, Any], attention: str) -> None:
    model = tiny_model(model_type, **changes)
    model.set_attn_implementation(attention)
    structure = discover(model, hidden=True)
    mask, before = uneven(structure), outputs(model)
    zero_masked(model, structure, mask)
    masked = outputs(model, mask["hidden"])
    assert difference(masked, outputs(shrink(model, structure, mask))) < 1e-12
    assert (before[-1] - masked[-1]).abs().max() > 1e-3


@pytest.mark.parametrize("model_type", ["gpt_neox"])
@pytest.mark.parametrize("parallel", [True, False])
def test_the_stream_after_an_attention_depends_on_the_layout(model_type: str, parallel: bool) -> None:
    """In a parallel layer, both blocks are added to the stream before the layer, so the stream after both is its output."""
    first = list(discover(tiny_model(model_type, use_parallel_residual=parallel)))[:2]
    ends = [group.stream.rpartition(".")[2] for group in first]
    assert ends == ["input_layernorm" if parallel else "post_attention_layernorm", "input_layernorm"]


def test_what_is_not_settled_is_refused() -> None:
    for changes in ({"do_layer_norm_before": False}, {"word_embed_proj_dim": 16}):
        with pytest.raises(UnsupportedModelError, match=r"350m"):
            discover(tiny_model("opt", **changes))
    with pytest.raises(UnsupportedModelError, match=r"norm after its last layer"):
        discover(tiny_model("opt", _remove_final_layer_norm=True))
    with pytest.raises(UnsupportedModelError, match=r"no gains"):
        discover(tiny_model("opt", layer_norm_elementwise_affine=False), hidden=True)
    with pytest.raises(UnsupportedModelError, match=r"qk_layernorm"):
        discover(tiny_model("phi", qk_layernorm=True))
    with pytest.raises(UnsupportedModelError, match=r"qk_layernorm"):
        discover(tiny_model("stablelm", qk_layernorm=True))
    with pytest.raises(UnsupportedModelError, match=r"alibi"):
        discover(tiny_model("falcon", alibi=True))
    with pytest.raises(UnsupportedModelError, match=r"cross-attention"):
        discover(tiny_model("gpt_bigcode", add_cross_attention=True, multi_query=False))
