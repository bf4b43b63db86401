"""Encoders whose config changes their modules: the law for heads, neurons and hidden size, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from masks import uneven
from secateurs.errors import UnsupportedModelError
from secateurs.structure.cut import Kind
from secateurs.structure.families import discover, model_types
from secateurs.surgery.shrink import shrink, zero_masked
from tiny_configs import DECODERS, ENCODER_DECODERS, IMAGE_TYPES, SOUND_TYPES
from tiny_models import batch, copied, tiny_model

OWN_POSITIONS = {"share_att_key": False, "position_biased_input": True, "type_vocab_size": 2, "legacy": False}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("deberta-v2", OWN_POSITIONS),
    ("deberta-v2", {"embedding_size": 16, "norm_rel_ebd": "none"}),
    ("deberta-v2", {"relative_attention": False}),
    ("roformer", {"embedding_size": 16}),
    ("roc_bert", {"concat_input": False, "pronunciation_embed_dim": 32, "shape_embed_dim": 32}),
    ("roc_bert", {"enable_shape": False}),
    (
        "esm",
        {
            "position_embedding_type": "absolute",
            "emb_layer_norm_before": True,
            "token_dropout": True,
            "mask_token_id": 3,
        },
    ),
    ("modernbert", {"norm_bias": True, "mlp_bias": True, "attention_bias": True, "classifier_bias": True}),
]


DEBERTA: list[dict[str, Any]] = [
    {"pos_att_type": ["c2p"]},
    {"pos_att_type": ["p2c"], "position_biased_input": True, "type_vocab_size": 2},
    {"relative_attention": False, "pos_att_type": None, "embedding_size": 16},
]
"""Configs of DeBERTa (v1), whose norms cannot be masked."""


def outputs(model: Any, kept: Tensor | None = None) -> list[Tensor]:
    with torch.no_grad():
        found = model(**batch(padding="right"), output_hidden_states=True)
    states = [state if kept is None else state[..., kept] for state in found.hidden_states]
    return [*states, *([found.logits] if "logits" in found else [])]


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


@pytest.mark.usefixtures("norms_in_fp64")
@pytest.mark.parametrize("auto", ["AutoModelForMaskedLM", "AutoModelForSequenceClassification"])
@pytest.mark.parametrize(("model_type", "changes"), VARIANTS)
def test_the_law_under_other_configs(model_type: str, changes: dict[str, Any], auto: str) -> None:
    model = tiny_model(model_type, auto=auto, **changes)
    structure = discover(model, hidden=True)
    mask, before = uneven(structure), outputs(model)
    zero_masked(model, structure, mask)
    masked = outputs(model, mask["hidden"])
    assert difference(masked, outputs(shrink(model, structure, mask))) < 1e-12
    assert (before[-1] - masked[-1]).abs().max() > 1e-3


@pytest.mark.parametrize("changes", DEBERTA)
def test_the_law_without_the_hidden_size(changes: dict[str, Any]) -> None:
    model = tiny_model("deberta", auto="AutoModelForMaskedLM", **changes)
    structure = discover(model)
    mask, before = uneven(structure), outputs(model)
    zero_masked(model, structure, mask)
    masked = outputs(model)
    assert difference(masked, outputs(shrink(model, structure, mask))) < 1e-12
    assert (before[-1] - masked[-1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "model_type", sorted({*model_types()} - DECODERS - ENCODER_DECODERS - IMAGE_TYPES - SOUND_TYPES)
)
def test_an_embedding_model_needs_no_pooler(model_type: str) -> None:
    """Sentence encoders are base models, often without a pooler."""
    model = tiny_model(model_type, auto="AutoModel")
    if hasattr(model, "pooler"):
        model.pooler = None
    structure = discover(model)
    mask = uneven(structure)
    masked = copied(model)
    zero_masked(masked, structure, mask)
    assert difference(outputs(masked), outputs(shrink(model, structure, mask))) < 1e-12


def test_position_projections_are_no_input_projections() -> None:
    """A correction of the drift of the stream must not change how positions are projected."""
    heads = [g for g in discover(tiny_model("deberta-v2")) if g.kind is Kind.HEAD]
    assert {path.rpartition(".")[2] for group in heads for path in group.input_projections} == {"value_proj"}
    heads = [g for g in discover(tiny_model("deberta-v2", **OWN_POSITIONS)) if g.kind is Kind.HEAD]
    named = {path.rpartition(".")[2] for group in heads for path in group.input_projections}
    assert named == {"query_proj", "key_proj", "value_proj"}
    assert {len(group.cuts) for group in heads} == {11}


def test_what_is_not_settled_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"convolution after its first layer"):
        discover(tiny_model("deberta-v2", conv_kernel_size=3, conv_act="gelu"))
    for model_type in ("deberta", "deberta-v2"):
        repeating = tiny_model(model_type)
        repeating.deberta.z_steps = 2
        with pytest.raises(UnsupportedModelError, match=r"repeats its last layer"):
            discover(repeating)
    with pytest.raises(UnsupportedModelError, match=r"heads are mixed \(talking_head\)"):
        discover(tiny_model("deberta", talking_head=True))
    with pytest.raises(UnsupportedModelError, match=r"hidden size of deberta models cannot be pruned yet"):
        discover(tiny_model("deberta"), hidden=True)
