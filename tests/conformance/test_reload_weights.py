"""A pruned model of every family that was saved, loaded, and put back into the model that it was cut from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from masks import two_blocks_removed
from secateurs.checkpoint.reload_weights import reload_weights
from secateurs.checkpoint.save_load import load, save
from secateurs.errors import CheckpointError
from secateurs.structure.families import discover, model_types, plain_config_of
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.surgery.shared_copy import shrunk_copy
from tiny_models import batch, hidden_states, tiny_model, tiny_structure

pytestmark = pytest.mark.usefixtures("norms_in_fp64")


def middle_layer_gone(structure: Structure) -> Mask:
    """Half of the units of every layer, and nothing of the middle one: a plain config leaves that layer out."""
    layers = list(structure.layers)
    return Mask(
        {
            group.name: (torch.arange(group.size) % 2 == 0) & (group.layer != layers[1 % len(layers)])
            for group in structure
        }
    )


CASES: list[tuple[str, Callable[[Structure], Mask]]] = [
    *((model_type, middle_layer_gone) for model_type in model_types()),
    *((model_type, two_blocks_removed) for model_type in ("bert", "llama", "t5")),
]


@pytest.mark.parametrize(("model_type", "mask"), CASES)
def test_every_tensor_comes_back_to_its_place(
    model_type: str, mask: Callable[[Structure], Mask], tmp_path: Path
) -> None:
    dense, structure = tiny_model(model_type), tiny_structure(model_type)
    kept = mask(structure)
    if not any(kept.counts.values()):
        pytest.skip("all layers of this family share their weights")
    trained = shrunk_copy(dense, structure, kept)
    with torch.no_grad():
        for parameter in trained.parameters():  # a training leaves sinusoids as they are
            parameter.mul_(2.0 if parameter.requires_grad else 1.0)
    folder = save(trained, None, tmp_path / "model")
    back = shrunk_copy(dense, structure, kept)
    reload_weights(back, load(folder, dtype=torch.float64))
    assert discover(back).sizes == {name: count for name, count in kept.counts.items() if count}
    with torch.no_grad():
        ours, theirs = (model.eval()(**batch(model), output_hidden_states=True) for model in (back, trained))
    for one, other in zip(hidden_states(ours), hidden_states(theirs), strict=True):
        assert torch.equal(one, other)


def test_some_families_number_their_layers_anew() -> None:
    """Otherwise the test above would not see that the layers come back to their places."""
    plain = {name: plain_config_of(_without_middle(name)) for name in ("llama", "gpt2", "opt")}
    assert any(found is not None and found.kept == (0, 2) for found in plain.values())


def _without_middle(model_type: str) -> torch.nn.Module:
    structure = tiny_structure(model_type)
    return shrunk_copy(tiny_model(model_type), structure, middle_layer_gone(structure))


def test_another_model_is_refused() -> None:
    structure = tiny_structure("bert")
    back = shrunk_copy(tiny_model("bert"), structure, middle_layer_gone(structure))
    with pytest.raises(CheckpointError, match="a tensor has another shape"):
        reload_weights(back, tiny_model("bert"))
    with pytest.raises(CheckpointError, match="tensors are not those of the pruned model"):
        reload_weights(back, tiny_model("roberta"))
