"""T5 under other configs and with other heads, and its encoder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from masks import uneven, without_blocks
from secateurs.checkpoint.save_load import save
from secateurs.errors import UnsupportedModelError
from secateurs.structure.cut import Kind
from secateurs.structure.families import discover
from secateurs.surgery.shrink import shrink, zero_masked
from tiny_models import batch, fill, hidden_states, tiny_model

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("t5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),  # version 1.1: outputs are not scaled
    ("t5", {"num_layers": 3, "num_decoder_layers": 1}),
    ("mt5", {"d_kv": 16}),
]
HEADS = ("MT5EncoderModel", "T5EncoderModel", "T5ForTokenClassification", "T5ForQuestionAnswering", "T5Model")


def outputs(model: Any) -> list[Tensor]:
    inputs = dict(batch(model, padding="right"))
    if not any(name.startswith("decoder") for name, _ in model.named_modules()):
        inputs.pop("decoder_input_ids", None)
    with torch.no_grad():
        found = model(**inputs, output_hidden_states=True)
    return hidden_states(found)


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


def built(name: str) -> Any:
    """A tiny model of a class that no Auto class of the other tests has."""
    cls = getattr(transformers, name)
    return fill(cls(tiny_model("mt5" if name.startswith("M") else "t5").config).double().eval(), 0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("gone", [None, {0}])
@pytest.mark.parametrize("which", [*range(len(VARIANTS)), *HEADS])
def test_the_law(which: int | str, gone: set[int] | None, attention: str) -> None:
    model = built(which) if isinstance(which, str) else tiny_model(VARIANTS[which][0], **VARIANTS[which][1])
    model.set_attn_implementation(attention)
    structure = discover(model)
    mask = uneven(structure) if gone is None else without_blocks(structure, Kind.HEAD, gone)
    zero_masked(model, structure, mask)
    masked = outputs(model)
    assert difference(masked, outputs(shrink(model, structure, mask))) < 1e-12


def test_an_encoder_is_loaded_from_a_pruned_model(tmp_path: Path) -> None:
    model = tiny_model("t5")
    structure = discover(model)
    folder = save(shrink(model, structure, uneven(structure)), None, tmp_path / "model")
    encoder = transformers.T5EncoderModel.from_pretrained(folder)
    wanted = outputs(model)[: len(model.encoder.block) + 1]
    assert difference(outputs(encoder), wanted) < 1e-12
    assert discover(encoder).sizes == {k: size for k, size in discover(model).sizes.items() if k.startswith("encoder")}


def test_a_stack_alone_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="load the model"):
        discover(tiny_model("t5").encoder)
