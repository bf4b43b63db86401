"""Source and target texts: their columns, cells of translations, generated texts and their scores."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import processors
from torch import nn

from masks import without_blocks
from secateurs.errors import DataError, RecipeError
from secateurs.structure.cut import Kind
from secateurs.structure.families import discover
from secateurs.surgery.shrink import shrink, zero_masked
from secateurs.tasks import names, task
from secateurs.tasks.base import Columns, TaskData
from secateurs.tasks.metrics.generated_texts import score_texts
from secateurs.tasks.roles import RoleSizes
from secateurs.tasks.seq2seq.held_out import generated_texts
from tiny import WORDS, tiny_tokenizer, write_rows
from tiny_models import tiny_model

SOURCES = [" ".join(WORDS[i % 9 : i % 9 + 1 + i % 8]) for i in range(40)]


def model() -> Any:
    return tiny_model("bart", pad_token_id=0, decoder_start_token_id=3, eos_token_id=3)


def read(source: Path, tokenizer: Any = None, **options: Any) -> TaskData:
    settings = {"columns": Columns(), "batch_size": 4, "sequence_length": 16, "roles": RoleSizes(10), "seed": 0}
    return task("seq2seq").read(str(source), model(), tokenizer or tiny_tokenizer(), **{**settings, **options})


def write(folder: Path, targets: list[str] = SOURCES) -> Path:
    write_rows(folder / "train.parquet", source=SOURCES, target=SOURCES)
    write_rows(folder / "validation.parquet", source=SOURCES[: len(targets)], target=targets)
    return folder


class Copier(nn.Module):
    """A model that writes its source again; ``asked`` holds the options of the last generation."""

    asked: dict[str, Any]

    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: Any) -> torch.Tensor:
        assert not self.training
        self.asked = options
        return torch.cat([torch.full((len(input_ids), 1), 3), input_ids], 1)


def test_chrf_rouge_and_bleu_by_hand() -> None:
    # "cat" for "cats": all 3, 2 and 1 character n-grams of 1 to 3 characters are right, of 4, 3 and 2
    precision, recall = 1.0, (3 / 4 + 2 / 3 + 1 / 2) / 3
    chrf = score_texts("chrf", ["cat"], ["cats"])
    assert chrf.value == pytest.approx(5 * precision * recall / (4 * precision + recall))
    assert (chrf.name, chrf.higher_is_better, chrf.count) == ("chrf", True, 1)
    # the longest common subsequence is "the cat on mat": 4 of 5 and of 6 words; one pair of words of 4 and of 5
    rouge = score_texts("rouge", ["the cat ran on mat", "it"], ["the cat sat on the mat", "it"])
    assert rouge.value == pytest.approx((8 / 11 + 1) / 2)
    assert rouge.details["rouge2"] == pytest.approx((2 / 9 + 0) / 2)
    assert rouge.name == "rougeL"
    bleu = score_texts("bleu", ["the cat sat on the mat"], ["the cat sat on a mat"])
    assert bleu.value == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4))


@pytest.mark.parametrize("metric", ["chrf", "rouge", "bleu"])
def test_texts_are_compared_with_the_references_of_their_own_rows(tmp_path: Path, metric: str) -> None:
    """Batches are sorted by length, so that rows and references could come apart."""
    data = read(write(tmp_path), metric=metric, max_new_tokens=16)
    score = task("seq2seq").evaluate(Copier().train(), data.evaluation, "cpu")  # pyright: ignore
    assert score.value == pytest.approx(1.0)
    assert score.count == 40
    assert score.details["max_new_tokens"] == 16


def test_one_wrong_text_lowers_the_score_by_its_share(tmp_path: Path) -> None:
    data = read(write(tmp_path, ["red blue", *SOURCES[1:10]]), metric="rouge")
    copier: Any = Copier()
    assert task("seq2seq").evaluate(copier, data.evaluation, "cpu").value == pytest.approx(0.9)
    assert copier.asked["max_new_tokens"] == 16  # the sequence length, if nothing else is asked for


def test_the_perplexity_of_a_uniform_model_is_the_size_of_its_vocabulary(tmp_path: Path) -> None:
    class Uniform(nn.Module):
        def forward(self, decoder_input_ids: torch.Tensor, **_: Any) -> Any:
            return SimpleNamespace(logits=torch.zeros(*decoder_input_ids.shape, 50))

    data = read(write(tmp_path))
    score = task("seq2seq").evaluate(Uniform(), data.evaluation, "cpu")  # pyright: ignore
    assert (score.name, score.higher_is_better) == ("perplexity", False)
    assert score.value == pytest.approx(50)
    assert score.count == sum(len(text.split()) + 2 for text in SOURCES)


def test_generation_begins_with_the_special_token_that_all_references_begin_with(tmp_path: Path) -> None:
    """Such as the code of a language. A target that begins with a word forces nothing."""
    copier: Any = Copier()
    task("seq2seq").evaluate(copier, read(write(tmp_path), metric="chrf").evaluation, "cpu")
    assert copier.asked["forced_bos_token_id"] == 2  # <cls>
    plain = tiny_tokenizer()
    ending = processors.TemplateProcessing(single="$A <sep>", pair="$A <sep> $B <sep>", special_tokens=[("<sep>", 3)])
    plain.backend_tokenizer.post_processor = ending
    task("seq2seq").evaluate(copier, read(tmp_path, plain, metric="chrf").evaluation, "cpu")
    assert "forced_bos_token_id" not in copier.asked


def test_generated_texts_do_not_depend_on_the_batches_or_on_shrinking(tmp_path: Path) -> None:
    dense = model()
    wanted = {2, *range(5, 5 + len(WORDS))}  # <cls>, which is forced, and the words
    dense.generation_config.suppress_tokens = [token for token in range(50) if token not in wanted]
    torch.manual_seed(0)
    dense.lm_head.weight = nn.Parameter(torch.randn(50, 32, dtype=torch.float64))  # not tied: it would repeat its input
    structure = discover(dense)
    mask = without_blocks(structure, Kind.HEAD, {1})
    zero_masked(dense, structure, mask)
    evaluations: list[Any] = [
        read(write(tmp_path), metric="chrf", max_new_tokens=5, batch_size=size).evaluation for size in (1, 7)
    ]
    one, other = (
        dict(zip(held_out.references, generated_texts(dense, held_out, "cpu"), strict=True)) for held_out in evaluations
    )
    assert one == other
    assert len(set(one.values())) > 3
    assert max(len(text.split()) for text in one.values()) <= 5
    pruned = shrink(copy.deepcopy(dense), structure, mask)
    assert generated_texts(pruned, evaluations[1], "cpu") == generated_texts(dense, evaluations[1], "cpu")


def test_more_tokens_than_positions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="max_new_tokens 65 exceeds the 64 positions of the model"):
        read(write(tmp_path), metric="chrf", max_new_tokens=65)
    read(tmp_path, max_new_tokens=65)  # the perplexity generates nothing


@pytest.mark.parametrize(
    ("metric", "package"), [("rouge", "rouge-score"), ("chrf", "sacrebleu"), ("bleu", "sacrebleu")]
)
def test_a_missing_library_is_named(metric: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=rf"needs the package {package}.*pip install 'secateurs\[seq2seq\]'"):
        task("seq2seq").check_metric(metric)
    task("seq2seq").check_metric("perplexity")


@pytest.mark.parametrize("name", names())
def test_a_metric_that_a_task_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=f"the task {name.replace('_', '-')} has no metric 'beauty'"):
        task(name).check_metric("beauty")
    task(name).check_metric(None)
    for metric in task(name).metrics:
        task(name).check_metric(metric)


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_cells_of_translations_become_a_column_per_language(tmp_path: Path, ending: str) -> None:
    cells = [{"en": text, "de": text[::-1]} for text in SOURCES]
    if ending == "parquet":
        write_rows(tmp_path / "train.parquet", translation=cells, id=list(range(40)))
    else:
        (tmp_path / "train.jsonl").write_text("".join(json.dumps({"translation": cell}) + "\n" for cell in cells))
    with pytest.raises(DataError, match=r"name the two columns as text and text_pair \(its columns are .*en, de\)"):
        read(tmp_path)
    named = read(tmp_path, columns=Columns(text="de", text_pair="en"), evaluation_samples=None)
    assert any("source is 'de', target is 'en'" in found for _, found in named.understood)
    assert set(named.evaluation.references) <= set(SOURCES)  # pyright: ignore


@pytest.mark.parametrize("fields", [("source_lang", "target_lang"), ("src_lang", "tgt_lang")])
def test_a_tokenizer_that_names_its_languages_names_the_columns(tmp_path: Path, fields: tuple[str, str]) -> None:
    write_rows(tmp_path / "train.parquet", translation=[{"de": text, "en": text} for text in SOURCES])
    tokenizer = tiny_tokenizer()
    for field, language in zip(fields, ("en", "de"), strict=True):
        setattr(tokenizer, field, language)
    assert any("source is 'en', target is 'de'" in found for _, found in read(tmp_path, tokenizer).understood)
    other = read(tmp_path, tokenizer, columns=Columns(text="de", text_pair="en"))
    assert any("source is 'de', target is 'en'" in found for _, found in other.understood)
