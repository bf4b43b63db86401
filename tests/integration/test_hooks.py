"""The hooks touch pruned models only, can be removed, and refuse other versions of transformers."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers.modeling_utils import PreTrainedModel

import secateurs
from masks import two_blocks_removed
from secateurs.checkpoint import hooks, remote_code
from secateurs.checkpoint.save_load import load, save
from secateurs.checkpoint.transformers_version import OLDEST, TOO_NEW, check_version
from secateurs.errors import SecateursError
from secateurs.structure.families import discover
from secateurs.surgery.shrink import shrink
from tiny_models import tiny_model

CONFIG: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "vocab_size": 20,
}


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    hooks.install()
    yield
    hooks.uninstall()
    hooks.install()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tiny_model("bert")
    structure = discover(model)
    return save(shrink(model, structure, two_blocks_removed(structure)), None, tmp_path / "model")


def passes(code: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def fail(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError("a defect in a hook")


@pytest.mark.parametrize("field", [None, {"edits": {}}, {"measured": 1}, "a text", 3, ["edits"]])
def test_a_model_without_a_block_never_meets_a_hook(
    field: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "apply_block", fail)
    monkeypatch.setattr("secateurs.checkpoint.remote_code.add_code", fail)
    config = transformers.BertConfig(**CONFIG)
    if field is not None:
        config.secateurs = field
    transformers.BertModel(config).save_pretrained(tmp_path)
    assert transformers.BertModel.from_pretrained(tmp_path).config.hidden_size == 16


def test_a_failing_hook_of_a_pruned_model_is_not_hidden(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "apply_block", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        transformers.BertForTokenClassification.from_pretrained(folder)


def test_uninstall_leaves_transformers_as_it_was() -> None:
    """Every attribute that the hooks change is the same object as before they were installed, also the second time."""
    code = (
        "import sys, transformers\n"
        "from transformers.models.auto import configuration_auto, modeling_auto\n"
        "from transformers.modeling_utils import PreTrainedModel\n"
        "def state():\n"
        "    autos = configuration_auto, modeling_auto\n"
        "    names = [dict(table) for auto in autos for name, table in vars(auto).items() if name.endswith('_NAMES')]\n"
        "    extra = [dict(m._extra_content) for m in vars(modeling_auto).values() if hasattr(m, '_extra_content')]\n"
        "    return dict(vars(PreTrainedModel)), list(sys.meta_path), names, extra\n"
        "before = state()\n"
        "import secateurs\n"
        "from secateurs.checkpoint import hooks\n"
        "for _ in range(2):\n"
        "    hooks.install()\n"
        "    assert all(one != other for one, other in zip(before, state(), strict=True) if one is not before[3])\n"
        "    assert transformers.AutoConfig.for_model('secateurs-adaptive-lm')\n"
        "    secateurs.uninstall()\n"
        "    assert state() == before\n"
        "    for name, value in before[0].items():\n"
        "        assert vars(PreTrainedModel)[name] is value, name\n"
        "    assert not any('secateurs' in name for name in sys.modules if name.startswith('transformers'))\n"
        "secateurs.uninstall()\n"
    )
    passes(code)


def test_transformers_imported_later() -> None:
    """Its modules keep their own loader, old finders are passed over, and uninstalling works in both orders."""
    passes(
        "import secateurs, sys, inspect\n"
        "assert 'transformers' not in sys.modules\n"
        "class Old:\n"
        "    def find_module(self, *args): pass\n"
        "sys.meta_path.insert(1, Old())\n"
        "import transformers.modeling_utils as m\n"
        "assert type(m.__loader__).__name__ == type(m.__spec__.loader).__name__ == 'SourceFileLoader'\n"
        "assert inspect.getsource(m)\n"
        "assert m.PreTrainedModel.post_init.__wrapped__\n"
        "secateurs.uninstall()\n"
        "assert not hasattr(m.PreTrainedModel.post_init, '__wrapped__')\n"
        "import transformers.models.auto.modeling_auto as auto\n"
        "assert 'secateurs-adaptive-lm' not in auto.MODEL_MAPPING_NAMES\n"
    )


def test_load_save_and_install_after_uninstall(folder: Path) -> None:
    secateurs.uninstall()
    with pytest.raises(RuntimeError, match="mismatched"):
        transformers.BertForTokenClassification.from_pretrained(folder)
    model = load(folder)  # installs the hooks for this call
    assert not hooks.is_installed()
    again = save(model, None, folder.parent / "again")
    for name in ("pruned_modules.py", "modeling_pruned.py", "config.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    hooks.install()
    assert not load_info(folder)["mismatched_keys"]


def load_info(folder: Path) -> Any:
    return transformers.BertForTokenClassification.from_pretrained(folder, output_loading_info=True)[1]


def test_a_wrapper_of_another_library_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = PreTrainedModel.post_init

    def theirs(self: Any) -> None:
        ours(self)

    monkeypatch.setattr(PreTrainedModel, "post_init", theirs)
    secateurs.uninstall()
    assert PreTrainedModel.post_init is theirs
    with pytest.raises(RuntimeError, match="mismatched"):
        transformers.BertForTokenClassification.from_pretrained(folder)


def test_a_hook_that_cannot_be_installed_breaks_nothing(tmp_path: Path) -> None:
    """Not even where warnings are errors; a line in the log names the module."""
    done = passes(
        "import warnings; warnings.simplefilter('error', UserWarning)\n"
        "from secateurs.checkpoint import hooks\n"
        "def fail(module): raise RuntimeError('a defect')\n"
        "for name, hook in hooks._HOOKS.items(): hooks._HOOKS[name] = hook._replace(after_import=fail)\n"
        "import secateurs\n"
        "secateurs.uninstall(); hooks.install()\n"
        "import transformers\n"
        f"transformers.BertModel(transformers.BertConfig(**{CONFIG!r})).save_pretrained({str(tmp_path)!r})\n"
    )
    assert "could not change transformers.modeling_utils" in done.stderr


def test_the_error_of_another_finder_stays_its_error() -> None:
    code = "import secateurs, sys\nclass Finder:\n    def find_spec(self, *args): raise RuntimeError\n"
    code += "sys.meta_path.insert(1, Finder())\nimport transformers.modeling_utils\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "RuntimeError" and "after_import" not in done.stderr


def test_the_code_is_added_once_per_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By ``save`` itself, or by the hook where another tool saves. A cut hidden size builds every head once for it."""
    model = tiny_model("bert")
    structure = discover(model, hidden=True)
    shrink(model, structure, two_blocks_removed(structure))
    added, built = [], []
    real_add, real_shapes = remote_code.add_code, remote_code._cut_with_the_stream

    def add(*args: Any) -> None:
        added.append(args)
        real_add(*args)

    def shapes(config: Any, classes: Any, *rest: Any) -> Any:
        built.extend(classes)
        return real_shapes(config, classes, *rest)

    monkeypatch.setattr(remote_code, "add_code", add)
    monkeypatch.setattr("secateurs.checkpoint.save_load.add_code", add)
    monkeypatch.setattr(remote_code, "_cut_with_the_stream", shapes)
    save(model, None, tmp_path / "ours")
    assert len(added) == 1 and len(built) == len(set(built)) > 5
    model.save_pretrained(tmp_path / "theirs")
    assert len(added) == 2
    for name in ("config.json", "modeling_pruned.py", "pruned_modules.py"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()


@pytest.mark.parametrize("version", ["4.57.1", "5.19.0", "6.0.0rc1", "5"])
def test_other_versions_are_refused_in_one_line(version: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When Secateurs is used, never when it is imported."""
    model = load(folder)
    monkeypatch.setattr(sys.modules["transformers"], "__version__", version)
    secateurs.uninstall()
    for use in (hooks.install, lambda: load(folder), lambda: save(model, None, folder.parent / "again")):
        with pytest.raises(SecateursError) as caught:
            use()
        assert str(caught.value).count("\n") == 0
        assert version in str(caught.value) and "transformers>=5.20,<6" in str(caught.value)
    assert not hooks.is_installed()
    monkeypatch.undo()


def test_importing_secateurs_beside_another_version_changes_nothing_and_says_so() -> None:
    done = passes(
        "import warnings; warnings.simplefilter('error', UserWarning)\n"
        "import transformers; transformers.__version__ = '4.57.1'\n"
        "import secateurs\n"
        "from transformers.modeling_utils import PreTrainedModel as P\n"
        "assert P.post_init.__module__ == P.save_pretrained.__module__ == 'transformers.modeling_utils'\n"
        "assert not any(type(finder).__module__.startswith('secateurs') for finder in __import__('sys').meta_path)\n"
        f"transformers.BertModel(transformers.BertConfig(**{CONFIG!r}))\n"
    )
    assert len([line for line in done.stderr.splitlines() if "secateurs needs transformers>=5.20,<6" in line]) == 1


@pytest.mark.parametrize("version", ["5.20.0", "5.23.0", "5.99.0.dev0", "unknown"])
def test_known_versions_are_accepted(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["transformers"], "__version__", version)
    check_version()


def test_the_versions_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert f"transformers>={OLDEST[0]}.{OLDEST[1]},<{TOO_NEW[0]}" in project["dependencies"]
