"""The folder that is handed over is the dense one made smaller: everything but what was cut is as it was."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file
from tokenizers import Tokenizer

from secateurs.cli.inspect import tables
from secateurs.cli.saved_model import load_saved_model
from secateurs.errors import CheckpointError
from secateurs.pipeline.run import run
from secateurs.structure.families import discover
from secateurs.tasks import task as find
from secateurs.tasks.base import Columns
from secateurs.tasks.roles import RoleSizes
from tiny import WORDS, tiny_tokenizer, write_rows
from tiny_models import tiny_model
from tiny_run import model_folder, own_table, recipe, rows

TEXT = " ".join(WORDS[:14])
TEXTS = [TEXT, "the cat sat", "good film", "it was bad ."]


def dense(path: Path, model_type: str = "bert", *, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A tiny dense model whose tokenizer files are not those that transformers would write again."""
    model_folder(path, model_type, **changes)
    if dtype != torch.float32:
        getattr(transformers, tiny_auto(path)).from_pretrained(path, dtype=dtype).save_pretrained(path)
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    assert tokenizer["truncation"] is None
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))  # on one line
    (path / "vocab.txt").write_text("kept as it is\n")
    return path


def tiny_auto(path: Path) -> str:
    return json.loads((path / "config.json").read_text())["architectures"][0]


def deliver(folder: Path, model: Path, task: str = "text-classification", **changes: Any) -> Path:
    """Prune a dense model to twice the speed of an invented latency table; the delivered folder."""
    if not (folder / "data").exists():
        rows(folder / "data")
    settings = {"model": str(model), "method": "magnitude", "hyperparameters": {}, "speedup": (2.0,), **changes}
    made = recipe(folder, settings.pop("model_type", "bert"), task, **settings)
    report = run(made, folder / "out")
    return folder / "out" / report.models[0].path


def with_idle_units(model: Any) -> Any:
    """The model with zeros in all weights of half of its units, so that removing some of them changes nothing."""
    structure = discover(model)
    with torch.no_grad():
        for group in structure:
            kept = group.size // 2
            for cut in group.cuts:
                weights = model.get_parameter(cut.parameter)
                weights.narrow(cut.dim, cut.offset + kept * cut.width, (group.size - kept) * cut.width).zero_()
    return model


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    names = ("tokenizer", "special_tokens", "added_tokens", "vocab", "merges", "chat_template", "additional_chat")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: content for name, content in found.items() if name.startswith(names)}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dense classifier, and what is handed over."""
    folder = tmp_path_factory.mktemp("classifier")
    model = dense(folder / "dense")
    (model / "README.md").write_text("---\nlicense: mit\nlanguage: en\ndatasets:\n- glue\n---\n# A model\n")
    return model, deliver(folder, model)


def test_tokenizer_files_are_those_of_the_dense_model(classifier: tuple[Path, Path]) -> None:
    before, after = classifier
    assert tokenizer_files(after) == tokenizer_files(before)
    long = " ".join(["the cat"] * 100)
    assert len(Tokenizer.from_file(str(after / "tokenizer.json")).encode(long).ids) == 202


@pytest.mark.parametrize("task", ["token-classification", "question-answering", "embedding", "causal-lm"])
def test_no_task_changes_the_tokenizer_it_is_given(task: str, tmp_path: Path) -> None:
    """Nor one that has a truncation of its own, pads on the left, and has no padding token."""
    subject = find(task.replace("-", "_"))
    texts = [f"{TEXT} {word}" for word in WORDS[:24]]
    write_rows(tmp_path / "data" / "train.parquet", **subject.example(texts))
    model = tiny_model("llama" if task == "causal-lm" else "bert", auto=type(subject).auto_class, num_labels=2)
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(7)
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    tokenizer.pad_token = None
    before = tokenizer.backend_tokenizer.to_str(), tokenizer.init_kwargs, tokenizer.special_tokens_map
    settings: dict[str, Any] = {"batch_size": 4, "sequence_length": 24, "roles": RoleSizes(8), "seed": 0}
    data = subject.read(str(tmp_path / "data"), model.float(), tokenizer, columns=Columns(), **settings)
    assert all((batch["attention_mask"].diff(dim=1) <= 0).all() for batch in data.roles.fit.batches)
    assert (tokenizer.backend_tokenizer.to_str(), tokenizer.init_kwargs, tokenizer.special_tokens_map) == before
    assert tokenizer.padding_side == tokenizer.truncation_side == "left"
    assert tokenizer.pad_token is None


@pytest.mark.parametrize("padding", [True, False])
def test_a_decoder_generates_in_batches_as_one_by_one(padding: bool, tmp_path: Path) -> None:
    model = dense(tmp_path / "dense", "llama", pad_token_id=0 if padding else None)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, padding_side="left", truncation_side="left")
    tokenizer.pad_token = tokenizer.pad_token if padding else None
    tokenizer.save_pretrained(model)
    saved = json.loads((model / "tokenizer_config.json").read_text())
    assert saved["padding_side"] == "left"
    after = deliver(tmp_path, model, "causal-lm", model_type="llama")
    assert tokenizer_files(after) == tokenizer_files(model)
    again = transformers.AutoTokenizer.from_pretrained(after)
    assert (again.padding_side, again.truncation_side) == ("left", "left")
    configs = [json.loads((path / "config.json").read_text()) for path in (model, after)]
    assert configs[1].get("pad_token_id") == configs[0].get("pad_token_id")
    if not padding:
        assert again.pad_token is None
        return
    small = transformers.AutoModelForCausalLM.from_pretrained(after)
    options = {"max_new_tokens": 4, "do_sample": False}
    batch = again(["the", "the cat sat on"], padding=True, return_tensors="pt", return_token_type_ids=False)
    together = small.generate(**batch, **options)[:, -4:]
    for row, text in enumerate(["the", "the cat sat on"]):
        alone = small.generate(**again([text], return_tensors="pt", return_token_type_ids=False), **options)[:, -4:]
        assert together[row].tolist() == alone[0].tolist()


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("value", [0o022, 0o027, 0o077])
def test_files_have_the_mode_of_the_umask(value: int, tmp_path: Path) -> None:
    model = dense(tmp_path / "dense")
    with umask(value):
        after = deliver(tmp_path, model)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in after.rglob("*") if path.is_file()}
    assert {"model.safetensors", "mask.safetensors"} <= modes.keys()
    assert set(modes.values()) == {0o666 & ~value}
    assert {stat.S_IMODE(path.stat().st_mode) for path in after.parent.rglob("*") if path.is_file()} == {0o666 & ~value}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shards", ["5GB", "20KB"])
def test_half_precision_comes_back(dtype: torch.dtype, shards: str, tmp_path: Path) -> None:
    model = dense(tmp_path / "dense", dtype=dtype)
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(model, dtype=dtype)
    (model / "model.safetensors").unlink()
    whole.save_pretrained(model, max_shard_size=shards)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))  # the files decide
    after = deliver(tmp_path, model)
    tensors = load_file(after / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    sizes = [sum(file.stat().st_size for file in path.glob("model*.safetensors")) for path in (model, after)]
    assert sizes[1] < sizes[0]
    name = str(dtype).removeprefix("torch.")
    values = json.loads((after / "config.json").read_text())
    assert values["dtype"] == name
    assert values["secateurs"]["measured"]["quality_dtype"] == "float32"
    assert f"The weights are saved in {name}." in (after / "README.md").read_text()


def test_what_is_evaluated_in_half_precision_is_what_is_saved(tmp_path: Path) -> None:
    """In float32, the saved weights give the reported divergence from the dense model, to the last digit."""
    from secateurs.pipeline.load import load
    from secateurs.pipeline.recipe import Recipe
    from secateurs.training.evaluate import divergence, record_outputs

    model = dense(tmp_path / "dense", dtype=torch.bfloat16)
    after = deliver(tmp_path, model)
    measured = json.loads((after / "config.json").read_text())["secateurs"]["measured"]
    loaded = load(Recipe.load(after.parent / "recipe.yaml"))
    teacher = record_outputs(loaded.dense, loaded.task, loaded.data.roles.report.batches, "cpu")
    saved = load_saved_model(str(after), trust_remote_code=False)
    found = divergence(saved, loaded.task, loaded.data.roles.report.batches, teacher, "cpu")
    assert found == pytest.approx(measured["divergence"]["value"], rel=1e-6)


def test_float32_says_so(classifier: tuple[Path, Path]) -> None:
    assert "The weights are saved in float32." in (classifier[1] / "README.md").read_text()


def test_the_card_has_the_metadata_of_the_dense_card(classifier: tuple[Path, Path]) -> None:
    front = yaml.safe_load((classifier[1] / "README.md").read_text().split("---\n")[1])
    assert front["license"] == "mit"
    assert front["language"] == "en"
    assert front["datasets"] == ["glue"]
    (entry,) = front["model-index"]
    (evaluation,) = entry["results"]
    assert evaluation["task"] == {"type": "text-classification"}
    assert evaluation["dataset"] == {"name": "data", "type": "data"}
    (metric,) = evaluation["metrics"]
    measured = json.loads((classifier[1] / "config.json").read_text())["secateurs"]["measured"]["metric"]
    assert metric == {"type": "accuracy", "value": measured["value"], "name": "accuracy"}


def test_a_reranker_comes_back_with_all_its_files(tmp_path: Path) -> None:
    """A reranker with an activation and a length of its own, which loses idle units: the same scores."""
    from sentence_transformers import CrossEncoder

    plain = model_folder(tmp_path / "plain", num_labels=1)
    maker = CrossEncoder(str(plain), device="cpu", activation_fn=torch.nn.Tanh(), max_length=12)
    with_idle_units(maker[0].auto_model)
    maker.save_pretrained(str(tmp_path / "dense"))
    front = "---\nlibrary_name: sentence-transformers\npipeline_tag: text-ranking\n---\n"
    (tmp_path / "dense" / "README.md").write_text(front)
    pairs = [(TEXT, text) for text in TEXTS]
    texts = [first for first, _ in pairs] * 10
    write_rows(tmp_path / "data" / "train.parquet", text=texts, text_pair=TEXTS * 10, label=[0.1, 0.7, 0.4, 0.9] * 10)
    after = deliver(tmp_path, tmp_path / "dense", speedup=(1.2,))
    files = {path.name for path in (tmp_path / "dense").iterdir()}
    assert files <= {path.name for path in after.iterdir()}
    answers = [CrossEncoder(str(path), device="cpu").predict(pairs) for path in (tmp_path / "dense", after)]
    assert abs(answers[0] - answers[1]).max() < 1e-6
    assert abs(maker.predict(pairs) - answers[1]).max() < 1e-6
    card = (after / "README.md").read_text()
    assert "from sentence_transformers import CrossEncoder" in card
    found = yaml.safe_load(card.split("---\n")[1])
    assert (found["library_name"], found["pipeline_tag"]) == ("sentence-transformers", "text-ranking")


@pytest.mark.parametrize("nested", [False, True])
def test_an_embedder_comes_back_with_all_its_files(nested: bool, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    with_idle_units(tiny_model("bert", auto="AutoModel").float()).save_pretrained(tmp_path / "plain")
    tiny_tokenizer().save_pretrained(tmp_path / "plain")
    transformer = Transformer(str(tmp_path / "plain"), max_seq_length=9)
    maker = SentenceTransformer(
        modules=[transformer, Pooling(32, "cls"), Normalize()], device="cpu", prompts={"query": "the "}
    )
    before = tmp_path / "dense"
    maker.save_pretrained(str(before))
    if nested:  # the layout of older models
        inner = before / "0_Transformer"
        inner.mkdir()
        for path in list(before.iterdir()):
            if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json", "README.md"):
                path.rename(inner / path.name)
        modules = json.loads((before / "modules.json").read_text())
        modules[0]["path"] = inner.name
        (before / "modules.json").write_text(json.dumps(modules))
    after = deliver(tmp_path, before, "embedding", speedup=(1.2,))
    names = {path.name for path in before.rglob("*") if path.is_file()}
    assert names <= {path.name for path in after.rglob("*") if path.is_file()}
    assert tokenizer_files(after) == tokenizer_files(before / "0_Transformer" if nested else before)
    models = [SentenceTransformer(str(path), device="cpu") for path in (before, after)]
    for options in ({}, {"prompt_name": "query"}):
        wanted, found = (model.encode(TEXTS, **options) for model in models)
        assert abs(wanted - found).max() < 1e-6
    assert (
        yaml.safe_load((after / "README.md").read_text().split("---\n")[1])["library_name"] == "sentence-transformers"
    )


def test_a_pipeline_gives_the_same_answers(tmp_path: Path) -> None:
    model = dense(tmp_path / "dense", id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(model)
    with_idle_units(classifier).save_pretrained(model)
    after = deliver(tmp_path, model, speedup=(1.2,))
    wanted, found = (transformers.pipeline("text-classification", model=str(path))(TEXTS) for path in (model, after))
    for one, other in zip(wanted, found, strict=True):
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)


def test_code_is_mentioned_where_it_is(tmp_path: Path, classifier: tuple[Path, Path]) -> None:
    model = dense(tmp_path / "dense")
    changes: dict[str, Any] = {"model": str(model), "method": "agp-unstructured", "hyperparameters": {"steps": 4}}
    made = own_table(recipe(tmp_path, **changes, speedup=(), sparsity=(0.5,)), tmp_path / "own.json")
    zeros = tmp_path / "out" / run(made, tmp_path / "out").models[0].path
    pruned = classifier[1]
    assert (pruned / "modeling_pruned.py").is_file() and not (zeros / "modeling_pruned.py").exists()
    with_code, without = ((path / "README.md").read_text() for path in (pruned, zeros))
    assert "code in its folder" in with_code and "trust_remote_code" in with_code
    assert "code in its folder" not in without and "trust_remote_code=True)" not in without
    assert "0 in tensors of full size" in without and "cut out of the weights" not in without
    assert "1710.01878" in without and "ZipLM" not in without.split("## Citation")[1]


@pytest.mark.parametrize("head", ["BertForMaskedLM", "BertForSequenceClassification", "BertForPreTraining"])
@pytest.mark.parametrize("pooler", [True, False])
@pytest.mark.parametrize("remote", [True, False])
def test_a_head_that_has_no_weights_is_not_read(head: str, pooler: bool, remote: bool, tmp_path: Path) -> None:
    """As in all-mpnet-base-v2: the config names the class of the pretraining, the weights are those of the base model."""
    config = tiny_model("bert").config
    base = transformers.BertModel(config, add_pooling_layer=pooler)
    base.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "architectures": [head]}))
    model = load_saved_model(str(tmp_path), trust_remote_code=remote)
    assert type(model).__name__ == "BertModel"
    saved = base.state_dict()
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {n: t.shape for n, t in saved.items()}
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    assert next(iter(tables(str(tmp_path)))).row_count == 6


def test_a_head_that_lost_a_tensor_is_still_incomplete(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    transformers.BertForMaskedLM(tiny_model("bert").config).save_pretrained(tmp_path)
    for lost in ("cls.predictions.transform.dense.bias", "bert.encoder.layer.1.output.dense.weight"):
        tensors = load_file(tmp_path / "model.safetensors")
        del tensors[lost]
        (tmp_path / lost).mkdir()
        (tmp_path / lost / "config.json").write_text((tmp_path / "config.json").read_text())
        save_file(tensors, tmp_path / lost / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=f"incomplete: tensor {lost} is missing"):
            load_saved_model(str(tmp_path / lost), trust_remote_code=False)
