"""Saved models, loaded where Secateurs is not installed: one new environment loads all folders.

The last tests check that ``import secateurs`` is enough where it is installed, and that the import is fast.
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

from masks import two_blocks_removed
from secateurs.checkpoint.save_load import describe, load, save
from secateurs.structure.cut import Kind
from secateurs.structure.families import discover, model_types
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.surgery.config_block import block_of
from secateurs.surgery.factorize import factorize, matrices, rank_groups
from secateurs.surgery.input_selection import input_groups
from secateurs.surgery.shrink import shrink
from tiny import tiny_tokenizer
from tiny_models import auto_name, batch, tiny_model

TYPES = model_types()
TOLERANCE = 1e-12
REMOVED = "removed blocks only"
HIDDEN = {
    "bert, hidden too": ("bert", "AutoModelForTokenClassification"),
    "roberta, hidden too": ("roberta", "AutoModelForMaskedLM"),
    "gpt2, hidden too": ("gpt2", "AutoModelForCausalLM"),
    "qwen3, hidden too": ("qwen3", "AutoModelForCausalLM"),
}
"""Models whose hidden size is cut too: a classifier, and language heads that are tied to the embeddings."""
RANKS = {f"{model_type}, of low rank": model_type for model_type in ("bert", "distilbert", "gpt2", "llama")}
"""Models with pairs of factors, after heads and neurons were pruned."""
ADAPTIVE: dict[str, Callable[[Structure], Mask]] = {
    "adaptive, dense": Mask.full,
    "adaptive, narrower": lambda s: Mask(
        {
            g.name: (torch.arange(g.size) % 3 != 1) & (g.name != "embeddings.1.rank") | (g.kind is not Kind.RANK)
            for g in s
        }
    ),
    "adaptive, uneven": lambda s: Mask(
        {name: units & (name != "embeddings.1.rank") for name, units in two_blocks_removed(s).kept.items()}
    ),
}
"""Adaptive language models, which are always saved with code: dense, with a plain config, and with edits."""
INPUTS = {f"{model_type}, selected inputs": model_type for model_type in ("bert", "gpt2")}
"""Models whose linear layers use some of their inputs."""
SCRIPT = Path(__file__).parents[1] / "elsewhere.py"  # run as a script only, because it blocks the import of Secateurs


def only_removed(structure: Structure) -> Mask:
    return Mask(dict(Mask.full(structure).kept) | {"layer.1.heads": torch.zeros(4).bool()})


def pruned(model: Any) -> Any:
    structure = discover(model)
    return shrink(model, structure, two_blocks_removed(structure))


def low_rank(model: Any) -> Any:
    """A model with ranks of 0, 3 and 5, and with full ranks, which are multiplied back."""
    pruned(model)
    factorize(model, matrices(model))
    groups = rank_groups(model)
    counts = {g.name: min(g.size, (0, 3, 5, g.size)[index % 4]) for index, g in enumerate(groups)}
    return shrink(model, groups, Mask.from_units(groups, {name: torch.arange(kept) for name, kept in counts.items()}))


def selected(model: Any) -> Any:
    """A model whose layers use none, some or all of their inputs."""
    groups = input_groups(model)
    kept = {g.name: torch.arange(g.size) % 3 != 1 for g in groups}
    kept[groups.groups[1].name][:] = False
    kept[groups.groups[2].name][:] = True
    return shrink(model, groups, Mask(kept))


def same_width(structure: Structure) -> Mask:
    return Mask({g.name: (torch.arange(g.size) < 12) | (g.kind is Kind.HEAD) for g in structure})


def fewer_layers_and_heads(structure: Structure) -> Mask:
    """Drop the middle layer, and give the others equal sizes."""
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


def write_case(root: Path, name: str, model: Any, auto: str, *, plain: bool = False) -> None:
    """Write a sub-folder for the other environment: the model, and its expected outputs."""
    expected = dict(batch(model, padding="right"))
    base = getattr(model, model.base_model_prefix, None)
    with torch.no_grad():
        outputs = {"logits": model(**expected).logits}
        if base is not None:
            outputs["last_hidden_state"] = base(**expected).last_hidden_state
        elif "pixel_values" not in expected:  # a language model of T5 has the modules of the base model itself
            last = model(**expected, output_hidden_states=True).decoder_hidden_states[-1]
            outputs["last_hidden_state"] = last.clone()
    generates = model.can_generate() and "input_ids" in expected
    if generates:
        outputs["tokens"] = model.generate(expected["input_ids"][:1], max_new_tokens=8, do_sample=False)
    describe(save(model, None, root / name / "model"), {"speedup": 2.0}, "")
    save_file({**expected, **outputs}, root / name / "expected.safetensors")
    (root / name / "about.json").write_text(json.dumps({"auto": auto, "plain": plain, "generates": generates}))


def auto_of(model_type: str) -> str:
    return auto_name(model_type)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("elsewhere")
    for model_type in TYPES:
        write_case(root, model_type, pruned(tiny_model(model_type)), auto_of(model_type))
    for name, model_type in RANKS.items():
        write_case(root, name, low_rank(tiny_model(model_type)), auto_of(model_type))
    for name, model_type in INPUTS.items():
        write_case(root, name, selected(tiny_model(model_type)), auto_of(model_type))
    for name, (model_type, auto) in HIDDEN.items():
        model = tiny_model(model_type, auto=auto, tie_word_embeddings=True)
        structure = discover(model, hidden=True)
        write_case(root, name, shrink(model, structure, two_blocks_removed(structure)), auto)
    for name, mask in ADAPTIVE.items():
        model = tiny_model("secateurs-adaptive-lm")
        structure = discover(model, embeddings=True)
        write_case(root, name, shrink(model, structure, mask(structure)), "AutoModelForCausalLM")
    model = tiny_model("bert")
    write_case(root, REMOVED, shrink(model, discover(model), only_removed(discover(model))), auto_of("bert"))
    for name, (model_type, mask, changes) in PLAIN.items():
        model = tiny_model(model_type, **changes)
        write_case(root, name, shrink(model, discover(model), mask(discover(model))), auto_of(model_type), plain=True)
    base = tiny_model("bert", auto="AutoModel").float()
    save(pruned(base), tiny_tokenizer(), root / "embedder", extras=_pooling)
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
    """The results of ``elsewhere.py`` in an environment with the same packages, but without Secateurs."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, symlinks=True, with_pip=False)
    packages = next(place.glob("lib/python*/site-packages"))
    # Python searches folders named in a .pth file, but ignores .pth files inside them (an editable Secateurs).
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


@pytest.mark.parametrize("name", [*TYPES, *HIDDEN, *ADAPTIVE, *RANKS, *INPUTS, REMOVED])
def test_the_folder_loads_with_its_own_code(answers: dict[str, Any], name: str) -> None:
    found = answers["models"][name]
    assert max(found["remote"], found["resaved"], found.get("base", 0.0)) < TOLERANCE
    assert found["loose_keys"] == []
    assert found["from_config"]
    assert found.get("tokens", True)


@pytest.mark.parametrize("name", [*TYPES, *HIDDEN, *ADAPTIVE, *RANKS, *INPUTS, REMOVED])
def test_the_class_of_transformers_refuses_it(answers: dict[str, Any], name: str) -> None:
    found = answers["models"][name]
    if "refused_direct" in found:
        assert "mismatched" in found["refused_auto"]
        assert "mismatched" in found["refused_direct"]
    else:  # an adaptive language model: transformers has no class for it
        assert "trust_remote_code" in found["refused_auto"]


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_folder_needs_no_code(answers: dict[str, Any], folders: Path, name: str) -> None:
    assert answers["models"][name]["without_code"] < TOLERANCE
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
    assert block_of(model)["groups"]["layer.1.heads"] == {"kind": "head", "size": 2, "kept": 1}


@pytest.mark.parametrize("name", ADAPTIVE)
def test_an_adaptive_model_has_edits_only_without_a_plain_config(folders: Path, name: str) -> None:
    folder = folders / name / "model"
    block = json.loads((folder / "config.json").read_text())["secateurs"]
    assert ("edits" in block) == (name == "adaptive, uneven")
    model, again = load(folder), transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert type(model) is type(again)
    assert ("embeddings.1.rank" in discover(model, embeddings=True)) == (name == "adaptive, dense")
    with torch.no_grad():
        assert torch.equal(model(**batch()).logits, again(**batch()).logits)


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_a_model_without_a_plain_config_keeps_its_code(tmp_path: Path, name: str) -> None:
    model_type, mask, changes = NOT_PLAIN[name]
    model = tiny_model(model_type, **changes)
    shrink(model, discover(model), mask(discover(model)))
    folder = save(model, None, tmp_path / "model")
    assert (folder / "modeling_pruned.py").is_file()
    with torch.no_grad():
        assert (load(folder)(**batch()).logits - model(**batch()).logits).abs().max() < TOLERANCE


def test_sentence_transformers_loads_it(answers: dict[str, Any], folders: Path) -> None:
    model = load(folders / "embedder")
    with torch.no_grad():
        wanted = model(**tiny_tokenizer()("the cat sat", return_tensors="pt")).last_hidden_state[0].mean(0)
    assert (torch.tensor(answers["embedding"]) - wanted).abs().max() < 1e-6


def test_import_installs_the_hooks_without_importing_transformers(folders: Path) -> None:
    """The hook is installed after transformers' modelling code is imported; ``import secateurs`` does not import it."""
    code = (
        "import sys; from secateurs.checkpoint.hooks import install; install(); install()\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys(), 'heavy'\n"
        "import transformers\n"
        f"model = transformers.BertForTokenClassification.from_pretrained({str(folders / 'bert' / 'model')!r})\n"
        "assert tuple(model.bert.encoder.layer[0].attention.self.query.weight.shape) == (0, 32)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folders)
    assert done.returncode == 0, done.stderr[-3000:]
