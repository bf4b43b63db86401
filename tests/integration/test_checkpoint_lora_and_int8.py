"""LoRA on all linear modules and int8, without filters, on the structures that the methods produce."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import secateurs
from pruned_results import ADAPTIVE, RESULTS, TYPES, blocks_removed, factored, hidden
from remote_code import own_cache
from secateurs.checkpoint.hooks import install
from secateurs.checkpoint.save_load import load, save
from secateurs.modeling.pruned_modules import is_emptied
from secateurs.structure.families import discover
from secateurs.structure.mask import Mask
from secateurs.surgery.factorize import factorize, matrices
from secateurs.surgery.shrink import shrink, zero_masked
from tiny_models import DECODERS, batch, tiny_model

install()

COMBINATIONS = [
    pytest.param(model_type, made, id=f"{model_type}, {name}")
    for model_type in TYPES
    for name, made in RESULTS.items()
    if name != "widths of embeddings" or model_type == ADAPTIVE
]
every_result = pytest.mark.parametrize(("model_type", "made"), COMBINATIONS)
Made = Callable[[Any], Any]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(**batch(padding="right")).logits.float()


def distance(found: Any, wanted: Tensor) -> float:
    """The largest difference from the wanted outputs, relative to the largest output."""
    return float((logits(found) - wanted).abs().max() / wanted.abs().max())


@contextmanager
def without_secateurs(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[None]:
    """Transformers as it is without Secateurs, so that the code in a folder is what loads the folder."""
    with own_cache(monkeypatch, cache):
        secateurs.uninstall()
        try:
            yield
        finally:
            install()


@every_result
def test_lora_on_all_linear_modules(
    model_type: str, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained, saved, loaded and merged; the merged model is read with and without Secateurs."""
    peft = pytest.importorskip("peft", reason="peft is not installed; pip install peft")
    model = made(tiny_model(model_type)).float()
    folder, before = save(model, None, tmp_path / "model"), logits(model)
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    task = {"task_type": "CAUSAL_LM"} if model_type in DECODERS else {}
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", r=4, **task)).train()
    assert len(adapted.targeted_module_names) == len(linear - {"lm_head"}) > 0
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        adapted(**batch(), labels=batch()["input_ids"] % 5).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    trained = logits(adapted.eval())
    assert (trained - before).abs().max() > 1e-2
    adapted.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(load(folder), tmp_path / "adapter").eval()
    assert distance(again, trained) < 1e-4
    merged = again.merge_and_unload()
    assert distance(merged, trained) < 1e-4
    merged.save_pretrained(tmp_path / "merged")
    assert distance(load(tmp_path / "merged"), trained) < 1e-4
    with without_secateurs(monkeypatch, tmp_path / "code"):
        auto = (
            transformers.AutoModelForCausalLM
            if model_type in DECODERS
            else transformers.AutoModelForTokenClassification
        )
        read = auto.from_pretrained(tmp_path / "merged", trust_remote_code=True)
    assert (
        type(read).__module__.startswith("transformers_modules.") == (tmp_path / "merged/modeling_pruned.py").exists()
    )
    assert distance(read.eval(), trained) < 1e-4


@every_result
def test_int8(model_type: str, made: Made) -> None:
    """PyTorch's dynamic int8, which replaces every linear module, and torchao's: each close to the model."""
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed; pip install torchao")
    model = made(tiny_model(model_type)).float()
    wanted = logits(model)
    dynamic = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), dtype=torch.qint8)
    linear = [
        module for module in model.modules() if type(module).__name__ in ("Linear", "NonDynamicallyQuantizableLinear")
    ]
    replaced = [module for module in dynamic.modules() if type(module).__module__.startswith("torch.ao.nn.quantized")]
    assert len([module for module in replaced if "Params" not in type(module).__name__]) == len(linear) > 0
    assert 0 < distance(dynamic, wanted) < 0.6
    torchao.quantize_(model, torchao.Int8DynamicActivationInt8WeightConfig())
    assert 0 < distance(model, wanted) < 0.3


@every_result
def test_int8_while_loading(model_type: str, made: Made, tmp_path: Path) -> None:
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed; pip install torchao")
    model = made(tiny_model(model_type)).float()
    config = transformers.TorchAoConfig(torchao.Int8DynamicActivationInt8WeightConfig())
    folder = save(model, None, tmp_path / "model")
    again = type(model).from_pretrained(folder, dtype=torch.float32, quantization_config=config)
    replaced = [module for module in again.modules() if type(getattr(module, "weight", None)).__name__ == "Int8Tensor"]
    assert len(replaced) > 0 or model_type == "gpt2"  # whose matrices are no nn.Linear, and its head is left out
    assert bool(replaced) == (distance(again, logits(model)) > 0)
    assert distance(again, logits(model)) < 0.3


@every_result
def test_linear_modules_have_inputs_and_outputs(model_type: str, made: Made, tmp_path: Path) -> None:
    """In memory and after loading; and no ``nn.Linear`` has one input. Emptied modules keep the names of their parameters."""
    dense = set(tiny_model(model_type).state_dict())
    model = made(tiny_model(model_type))
    for each in (model, load(save(model, None, tmp_path / "model"))):
        for module in each.modules():
            assert not (isinstance(module, nn.Linear | Conv1D) and module.weight.numel() == 0)
            assert not (isinstance(module, nn.Linear) and module.in_features == 1)
        if made in (blocks_removed, hidden):
            assert any(map(is_emptied, each.modules()))
            assert set(each.state_dict()) == dense


def test_the_weight_of_a_pair_of_quantised_factors_is_a_placeholder() -> None:
    """Of the right shape: GPT-2 initialises it, without effect, while quantised weights are loaded."""
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed; pip install torchao")
    model = factored(tiny_model("gpt2")).float()
    pairs = [name for name, module in model.named_modules() if type(module).__name__ == "Factored"]
    pairs = [name for name in pairs if isinstance(model.get_submodule(name).second, nn.Linear)]
    assert pairs
    for path in pairs:
        pair = model.get_submodule(path)
        assert torch.equal(pair.weight, (pair.second.weight @ pair.first.weight).T)
    shapes = {path: model.get_submodule(path).weight.shape for path in pairs}
    dynamic = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), dtype=torch.qint8)
    torchao.quantize_(model, torchao.Int8DynamicActivationInt8WeightConfig())
    for each in (model, dynamic):
        wanted = logits(each)
        assert {path: each.get_submodule(path).weight.shape for path in pairs} == shapes
        for path in pairs:
            each.get_submodule(path).weight.data.normal_()
        assert torch.equal(logits(each), wanted)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "llama"])
def test_a_matrix_with_one_input_is_no_linear_module_and_is_pruned_again(model_type: str, tmp_path: Path) -> None:
    """One neuron is left; then none. The matrix can be factorised too."""
    model = tiny_model(model_type)
    structure = discover(model)
    shrink(model, structure, Mask.from_units(structure, {"layer.0.intermediate": torch.tensor([3])}))
    wanted = logits(model)
    assert [type(module).__name__ for module in model.modules()].count("OneInput") == 1
    assert distance(load(save(model, None, tmp_path / "model")).double(), wanted) == 0
    pairs = copy.deepcopy(model)
    factorize(pairs, matrices(pairs))
    assert distance(pairs, wanted) < 1e-6
    structure = discover(model)
    nothing = Mask.from_units(structure, {"layer.0.intermediate": torch.arange(0)})
    masked = copy.deepcopy(model)
    zero_masked(masked, structure, nothing)
    assert distance(shrink(model, structure, nothing), logits(masked)) < 1e-6
    assert not any(type(module).__name__ == "OneInput" for module in model.modules())
