"""Pruned models on disk, read back where Secateurs is not installed: one fresh environment reads all folders.

And the other way round: where it is installed, importing it is enough, and cheap.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from secateurs.checkpoint import load, save
from secateurs.factorize import factorize, matrices, rank_groups
from secateurs.families import discover, model_types
from secateurs.inputs import input_groups
from secateurs.mask import Mask
from secateurs.shrink import edits_of, shrink
from secateurs.structure import Kind, Structure
from tiny import tiny_tokenizer
from tiny_models import DECODERS, batch, fill, tiny_model

TYPES = model_types()
TOLERANCE = 1e-12
REMOVED = "removed blocks only"
HIDDEN = {
    "bert, hidden too": ("bert", "AutoModelForTokenClassification"),
    "roberta, hidden too": ("roberta", "AutoModelForMaskedLM"),
    "gpt2, hidden too": ("gpt2", "AutoModelForCausalLM"),
    "qwen3, hidden too": ("qwen3", "AutoModelForCausalLM"),
}
"""Whose hidden size is cut too: a classifier, and language heads that are tied to the embeddings."""
RANKS = {f"{model_type}, of low rank": model_type for model_type in ("bert", "distilbert", "gpt2", "llama")}
"""Whose matrices are pairs of factors, after heads and neurons went."""
OWN: dict[str, Callable[[Structure], Mask]] = {
    "adaptive, dense": Mask.full,
    "adaptive, narrower": lambda s: Mask(
        {
            g.name: (torch.arange(g.size) % 3 != 1) & (g.name != "embeddings.1.rank") | (g.kind is not Kind.RANK)
            for g in s
        }
    ),
    "adaptive, uneven": lambda s: Mask(
        {name: units & (name != "embeddings.1.rank") for name, units in uneven(s).kept.items()}
    ),
}
"""A model of our own always brings its code: unpruned; where its config says what was cut; and where it does not."""
INPUTS = {f"{model_type}, selected inputs": model_type for model_type in ("bert", "gpt2")}
"""Whose linear layers read some of their inputs."""
SCRIPT = Path(__file__).parents[1] / "elsewhere.py"  # not to be imported: it forbids Secateurs


def uneven(structure: Structure) -> Mask:
    kept = {name: torch.arange(size) % 3 != 1 for name, size in structure.sizes.items()}
    for name in ("layer.0.heads", "layer.1.intermediate"):
        kept[name][:] = False
    return Mask(kept)


def only_removed(structure: Structure) -> Mask:
    return Mask(dict(Mask.full(structure).kept) | {"layer.1.heads": torch.zeros(4).bool()})


def low_rank(model: Any) -> Any:
    """Rank 0, small ranks, and some that are multiplied back."""
    shrink(model, discover(model), uneven(discover(model)))
    factorize(model, matrices(model))
    groups = rank_groups(model)
    counts = {g.name: min(g.size, (0, 3, 5, g.size)[index % 4]) for index, g in enumerate(groups)}
    return shrink(model, groups, Mask.from_units(groups, {name: torch.arange(kept) for name, kept in counts.items()}))


def selected(model: Any) -> Any:
    """No inputs, some, and all of them."""
    groups = input_groups(model)
    kept = {g.name: torch.arange(g.size) % 3 != 1 for g in groups}
    kept[groups.groups[1].name][:] = False
    kept[groups.groups[2].name][:] = True
    return shrink(model, groups, Mask(kept))


def same_width(structure: Structure) -> Mask:
    return Mask({g.name: (torch.arange(g.size) < 12) | (g.kind is Kind.HEAD) for g in structure})


def fewer_layers_and_heads(structure: Structure) -> Mask:
    """The middle layer gone, one size for the others."""
    kept = {g.name: torch.arange(g.size) < (12 if g.kind is Kind.INTERMEDIATE else g.size - 1) for g in structure}
    return Mask({name: units & ("layer.1." not in name) for name, units in kept.items()})


PLAIN: dict[str, tuple[str, Callable[[Structure], Mask], dict[str, Any]]] = {
    "bert plain": ("bert", same_width, {}),
    "distilbert plain": ("distilbert", same_width, {}),
    "gpt2 plain": ("gpt2", same_width, {}),
    "llama plain": ("llama", fewer_layers_and_heads, {}),
    "mistral plain": ("mistral", fewer_layers_and_heads, {}),
    "qwen2 plain": ("qwen2", fewer_layers_and_heads, {}),
    "qwen3 plain": ("qwen3", fewer_layers_and_heads, {"attention_bias": False}),
}
NOT_PLAIN: dict[str, tuple[str, Callable[[Structure], Mask], dict[str, Any]]] = {
    "an output bias remains": ("qwen3", fewer_layers_and_heads, {"attention_bias": True}),
    "BERT has no head size": ("bert", lambda s: Mask({g.name: torch.arange(g.size) < g.size - 1 for g in s}), {}),
    "a norm remains": ("bert", lambda s: Mask({g.name: torch.arange(g.size) >= ("layer.1" in g.name) * g.size
                                               for g in s}), {}),
    "Llama wants divisible heads": ("llama", fewer_layers_and_heads, {"hidden_size": 54}),
    "no layer remains": ("llama", lambda s: Mask({g.name: torch.zeros(g.size).bool() for g in s}), {}),
}  # fmt: skip


def describe(root: Path, name: str, model: Any, auto: str, *, plain: bool = False) -> None:
    """A sub-folder for the other environment: the model, and what it should say."""
    expected = dict(batch(padding="right"))
    base = getattr(model, model.base_model_prefix, model)
    with torch.no_grad():
        outputs = {"logits": model(**expected).logits, "last_hidden_state": base(**expected).last_hidden_state}
    if model.can_generate():
        outputs["tokens"] = model.generate(expected["input_ids"][:1], max_new_tokens=8, do_sample=False)
    save(model, None, root / name / "model", details={"speedup": 2.0})
    save_file({**expected, **outputs}, root / name / "expected.safetensors")
    (root / name / "about.json").write_text(
        json.dumps({"auto": auto, "plain": plain, "generates": model.can_generate()})
    )


def auto_of(model_type: str) -> str:
    return "AutoModelForCausalLM" if model_type in DECODERS else "AutoModelForTokenClassification"


def renamed_on_disk() -> Any:
    """GPT-NeoX calls its head otherwise on disk. No family prunes it; its edits are written here by hand."""
    config = transformers.GPTNeoXConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=20,
        max_position_embeddings=64, pad_token_id=1, tie_word_embeddings=False,
    )  # fmt: skip
    model = fill(transformers.GPTNeoXForCausalLM(config).double().eval(), 0)
    shapes: dict[str, list[int]] = {}
    for name in ("dense_h_to_4h.weight", "dense_h_to_4h.bias", "dense_4h_to_h.weight"):
        path = f"layers.0.mlp.{name}"
        shape = [7 if size == 20 else size for size in model.gpt_neox.get_parameter(path).shape]
        shapes[path] = shape
    edits = {"shapes": shapes, "attributes": {}, "emptied": [], "skipped": {}}
    from secateurs.modeling_pruned import apply_edits

    model.config.secateurs = {"format": 1, "edits": edits, "groups": {}}
    apply_edits(model, edits)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("elsewhere")
    for model_type in TYPES:
        model = tiny_model(model_type)
        describe(root, model_type, shrink(model, discover(model), uneven(discover(model))), auto_of(model_type))
    for name, model_type in RANKS.items():
        describe(root, name, low_rank(tiny_model(model_type)), auto_of(model_type))
    for name, model_type in INPUTS.items():
        describe(root, name, selected(tiny_model(model_type)), auto_of(model_type))
    for name, (model_type, auto) in HIDDEN.items():
        model = tiny_model(model_type, auto=auto, tie_word_embeddings=True)
        structure = discover(model, hidden=True)
        describe(root, name, shrink(model, structure, uneven(structure)), auto)
    for name, mask in OWN.items():
        model = tiny_model("secateurs-adaptive-lm")
        structure = discover(model, embeddings=True)
        describe(root, name, shrink(model, structure, mask(structure)), "AutoModelForCausalLM")
    model = tiny_model("bert")
    describe(root, REMOVED, shrink(model, discover(model), only_removed(discover(model))), auto_of("bert"))
    for name, (model_type, mask, changes) in PLAIN.items():
        model = tiny_model(model_type, **changes)
        describe(root, name, shrink(model, discover(model), mask(discover(model))), auto_of(model_type), plain=True)
    describe(root, "gpt_neox", renamed_on_disk(), "AutoModelForCausalLM")
    base = tiny_model("bert", auto="AutoModel").float()
    save(shrink(base, discover(base), uneven(discover(base))), tiny_tokenizer(), root / "embedder", extras=_pooling)
    return root


def _pooling(folder: Path) -> None:
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
    kinds = [{"idx": int(index), "name": index, "path": path, "type": f"sentence_transformers.models.{kind}"}
             for index, path, kind in modules]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(kinds))
    (folder / "1_Pooling").mkdir()
    values = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(values))


@pytest.fixture(scope="module")
def answers(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an environment with this one's packages, but without Secateurs, says of the folders."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, symlinks=True, with_pip=False)
    packages = next(place.glob("lib/python*/site-packages"))
    # Folders named in a .pth file are searched, but their own .pth files (an editable Secateurs) are not read.
    packages.joinpath("shared.pth").write_text(
        "\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
    clean |= {"HF_HOME": str(place / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [place / "bin" / "python", SCRIPT, folders],
        env=clean,
        cwd=place,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folders / "results.json").read_text())


@pytest.mark.parametrize("name", [*TYPES, *HIDDEN, *OWN, *RANKS, *INPUTS, REMOVED, "gpt_neox"])
def test_the_folder_brings_its_own_loader(answers: dict[str, Any], name: str) -> None:
    found = answers["models"][name]
    assert max(found["remote"], found["resaved"], found["base"]) < TOLERANCE
    assert found["loose_keys"] == []
    assert found["from_config"]
    assert found.get("tokens", True)


@pytest.mark.parametrize("name", [*TYPES, *HIDDEN, *OWN, *RANKS, *INPUTS, REMOVED, "gpt_neox"])
def test_a_stock_class_refuses_it(answers: dict[str, Any], name: str) -> None:
    found = answers["models"][name]
    if "refused_direct" in found:
        assert "mismatched" in found["refused_auto"]
        assert "mismatched" in found["refused_direct"]
    else:  # a model of our own: no stock class can build it
        assert "trust_remote_code" in found["refused_auto"]


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_folder_needs_no_code(answers: dict[str, Any], folders: Path, name: str) -> None:
    assert answers["models"][name]["stock"] < TOLERANCE
    assert not (folders / name / "model" / "modeling_pruned.py").exists()
    config = json.loads((folders / name / "model" / "config.json").read_text())
    assert "auto_map" not in config
    assert "edits" not in config["secateurs"]
    assert config["secateurs"]["measured"] == {"speedup": 2.0}


def test_a_plain_folder_is_pruned_again(folders: Path) -> None:
    model = load(folders / "llama plain" / "model")
    structure = discover(model)
    assert structure.sizes["layer.1.heads"] == 2, "the third layer is now the second"
    shrink(model, structure, Mask({group.name: torch.arange(group.size) > 0 for group in structure}))
    assert edits_of(model)["groups"]["layer.1.heads"] == {"kind": "head", "size": 2, "kept": 1}


@pytest.mark.parametrize("name", OWN)
def test_a_model_of_our_own_is_edited_only_where_its_config_cannot_say_it(folders: Path, name: str) -> None:
    folder = folders / name / "model"
    block = json.loads((folder / "config.json").read_text())["secateurs"]
    assert ("edits" in block) == (name == "adaptive, uneven")
    model, again = load(folder), transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert type(model) is type(again)
    assert ("embeddings.1.rank" in discover(model, embeddings=True)) == (name == "adaptive, dense")
    with torch.no_grad():
        assert torch.equal(model(**batch()).logits, again(**batch()).logits)


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_a_config_cannot_say_keeps_its_loader(tmp_path: Path, name: str) -> None:
    model_type, mask, changes = NOT_PLAIN[name]
    model = tiny_model(model_type, **changes)
    shrink(model, discover(model), mask(discover(model)))
    folder = save(model, None, tmp_path / "model")
    assert (folder / "modeling_pruned.py").is_file()
    with torch.no_grad():
        assert (load(folder)(**batch()).logits - model(**batch()).logits).abs().max() < TOLERANCE


def test_sentence_transformers_reads_it(answers: dict[str, Any], folders: Path) -> None:
    model = load(folders / "embedder")
    with torch.no_grad():
        wanted = model(**tiny_tokenizer()("the cat sat", return_tensors="pt")).last_hidden_state[0].mean(0)
    assert (torch.tensor(answers["embedding"]) - wanted).abs().max() < 1e-6


def test_importing_is_enough_and_imports_nothing(folders: Path) -> None:
    """The hook waits for transformers' modelling code, which the import itself does not load."""
    code = (
        "import sys; from secateurs.loader import install; install(); install()\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys(), 'heavy'\n"
        "import transformers\n"
        f"model = transformers.BertForTokenClassification.from_pretrained({str(folders / 'bert' / 'model')!r})\n"
        "assert tuple(model.bert.encoder.layer[0].attention.self.query.weight.shape) == (0, 32)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folders)
    assert done.returncode == 0, done.stderr[-3000:]
