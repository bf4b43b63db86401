"""Question answering: windows, offsets, answers in tokens, the loss mask, and the best span."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForQuestionAnswering

from secateurs.errors import DataError, UnsupportedModelError
from secateurs.tasks import task
from secateurs.tasks.base import Columns, TaskData, model_inputs
from secateurs.tasks.data.encode import Encode
from secateurs.tasks.question_answering.questions import Questions
from secateurs.tasks.question_answering.spans import MASKED_LOGIT, SpanRows, best_spans, doc_stride
from secateurs.tasks.roles import RoleSizes
from tiny import tiny_tokenizer, write_rows

CONTEXT = "the small cat sat on the big mat and the red dog ran over it ."
ASK = "was it"


def model(**changes: Any) -> BertForQuestionAnswering:
    small = {
        "vocab_size": 40,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(0)
    return BertForQuestionAnswering(BertConfig(**{**small, **changes})).eval()


def read(source: Path, of: BertForQuestionAnswering | None = None, **options: Any) -> TaskData:
    settings = {"columns": Columns(), "batch_size": 2, "sequence_length": 32, "roles": RoleSizes(10), "seed": 0}
    return task("question_answering").read(str(source), of or model(), tiny_tokenizer(), **{**settings, **options})


def answer(text: str | None, context: str = CONTEXT) -> dict[str, list[Any]]:
    found = [text] if text is not None else []
    return {"text": found, "answer_start": [context.index(part) for part in found]}


def write(folder: Path, texts: tuple[str | None, ...] = ("red dog", "the small cat", "it .")) -> Path:
    rows = {"question": [ASK] * len(texts), "context": [CONTEXT] * len(texts), "answers": [answer(t) for t in texts]}
    for split in ("train", "validation"):
        write_rows(folder / f"{split}.parquet", **rows)
    return folder


def windows(text: str | None, length: int) -> list[Any]:
    given = [[(text, CONTEXT.index(text))]] if text is not None else [[]]
    data = Questions([ASK], [CONTEXT], given)
    return list(SpanRows(Encode(tiny_tokenizer(), length, ("input_ids",)), data, "here").windows([0]))


def text_at(window: Any, first: int, last: int) -> str:
    return CONTEXT[window.offsets[first, 0] : window.offsets[last, 1]]


def test_a_context_that_fits_is_one_window(tmp_path: Path) -> None:
    row = read(write(tmp_path)).train[0]
    # <cls> was it <sep> 16 words <sep>
    assert row["loss_mask"] == [1, 0, 0, 0, *[1] * 16, 0]
    assert row["labels"] == [14, 15]
    assert row["token_type_ids"] == [0] * 4 + [1] * 17


def test_windows_overlap_and_cover_everything() -> None:
    found = windows("red dog", 14)  # <cls> 2 <sep> 9 <sep>, of which 4 are shared
    assert doc_stride(14) == 4
    assert [len(window.row["input_ids"]) for window in found] == [14, 14, 11]
    words = CONTEXT.split()
    spans = []
    for window in found:
        inside = [i for i, offset in enumerate(window.offsets[:, 0]) if offset >= 0]
        assert inside == [i for i, one in enumerate(window.row["loss_mask"]) if one and i != window.no_answer]
        spans.append(text_at(window, inside[0], inside[-1]))
    assert spans == [" ".join(words[:9]), " ".join(words[5:14]), " ".join(words[10:])]
    assert (doc_stride(384), doc_stride(30)) == (128, 10)


def test_only_windows_with_the_complete_answer_are_labelled_with_it() -> None:
    found = windows("mat and the red dog", 14)
    # words 7..11: the first window ends at 8, the last begins at 10
    assert [window.row["labels"] for window in found] == [[0, 0], [6, 10], [0, 0]]
    assert text_at(found[1], 6, 10) == "mat and the red dog"
    first = windows("the small cat", 14)
    assert [window.row["labels"] for window in first] == [[4, 6], [0, 0], [0, 0]]
    assert [window.row["labels"] for window in windows(None, 14)] == [[0, 0]] * 3
    part = windows("bi", 14)[0]  # a part of a token is labelled with that token
    assert text_at(part, *part.row["labels"]) == "big"


def test_rows_are_numbered_through_all_windows(tmp_path: Path) -> None:
    data = read(write(tmp_path), sequence_length=14)
    assert len(data.train) == 9
    assert [data.train[i]["labels"] for i in (0, 1, 2)] == [window.row["labels"] for window in windows("red dog", 14)]
    assert data.train.rows([8, 3]) == [data.train[8], data.train[3]]
    assert "3 windows of 14 tokens" in data.description
    assert "3 questions to evaluate" in data.description


def test_tokens_outside_the_loss_mask_do_not_change_the_divergence() -> None:
    answering = task("question_answering")
    loss_mask = torch.tensor([[1, 0, 1, 1, 0], [1, 0, 1, 0, 0]])
    batch = {"loss_mask": loss_mask}

    def outputs(seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        start, end = (torch.randn(2, 5, generator=generator, requires_grad=True) for _ in range(2))
        return SimpleNamespace(start_logits=start, end_logits=end)

    student, teacher = outputs(0), outputs(1)
    ours, theirs = answering.compared_outputs(student, batch), answering.compared_outputs(teacher, batch)
    assert ours.shape == (4, 3)
    assert ours[2:, 2].tolist() == [MASKED_LOGIT, MASKED_LOGIT]
    apart = answering.divergence(ours, theirs)
    for row, (name, window) in enumerate(
        [("start_logits", 0), ("end_logits", 0), ("start_logits", 1), ("end_logits", 1)]
    ):
        chosen = loss_mask[window].bool()
        p = getattr(teacher, name)[window][chosen].detach().softmax(0)
        q = getattr(student, name)[window][chosen].detach().softmax(0)
        assert apart[row].item() == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-4)
    apart.sum().backward()
    gradient = student.start_logits.grad
    assert gradient.isfinite().all()
    assert (gradient[~loss_mask.bool()] == 0).all()
    assert (gradient[loss_mask.bool()] != 0).all()
    half = answering.divergence(ours.half(), theirs.half())
    torch.testing.assert_close(half, apart.detach(), atol=5e-3, rtol=5e-3, check_dtype=False)


def test_the_loss_ignores_tokens_outside_the_loss_mask() -> None:
    answering = task("question_answering")
    outputs = SimpleNamespace(
        start_logits=torch.tensor([[0.0, 99.0, 0.0]]), end_logits=torch.tensor([[0.0, 99.0, 2.0]])
    )
    batch = {"loss_mask": torch.tensor([[1, 0, 1]]), "labels": torch.tensor([[0, 2]])}
    expected = (math.log(2) + math.log(1 + math.exp(-2))) / 2
    assert answering.loss(outputs, batch).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(DataError, match=r"no labels.*column of answers"):
        answering.loss(outputs, {"loss_mask": batch["loss_mask"]})


def test_the_best_span_is_the_best_of_all_spans() -> None:
    generator = torch.Generator().manual_seed(0)
    start, end = torch.randn(3, 12, generator=generator), torch.randn(3, 12, generator=generator)
    start[:, :4] = end[:, :4] = MASKED_LOGIT
    score, first, last = best_spans(start, end, 5)
    for window in range(3):
        tried = {(i, j): start[window, i] + end[window, j] for i in range(4, 12) for j in range(i, min(i + 5, 12))}
        place = max(tried, key=lambda key: float(tried[key]))
        assert (int(first[window]), int(last[window])) == place
        assert score[window] == tried[place]


def test_spans_are_not_too_long_and_do_not_end_before_their_start() -> None:
    start, end = torch.zeros(1, 9), torch.zeros(1, 9)
    start[0, 1], end[0, 8] = 5, 5
    assert [int(part) for part in best_spans(start, end, 8)[1:]] == [1, 8]
    assert int(best_spans(start, end, 7)[0]) == 5
    start, end = torch.zeros(1, 3), torch.zeros(1, 3)
    start[0, 2], end[0, 0] = 5, 5
    assert int(best_spans(start, end, 3)[0]) == 5


class Pointer(torch.nn.Module):
    """A model whose highest start and end logits are at two given words.

    Args:
        start: word with the start logit 5; all other start logits are 0.
        end: word with the end logit 5; all other end logits are 0.
        no_answer: start and end logit of the no-answer token.
    """

    def __init__(self, start: str, end: str, no_answer: float = 0.0) -> None:
        super().__init__()
        ids: Any = tiny_tokenizer().convert_tokens_to_ids
        self.marks, self.no_answer = (ids(start), ids(end)), no_answer

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        start, end = (5.0 * (input_ids == mark) for mark in self.marks)
        start[:, 0] = end[:, 0] = self.no_answer
        return SimpleNamespace(start_logits=start, end_logits=end)


def test_the_predicted_text_comes_from_the_best_window(tmp_path: Path) -> None:
    data = read(write(tmp_path), sequence_length=14)
    score = task("question_answering").evaluate(Pointer("red", "dog"), data.evaluation, "cpu")
    assert (score.name, score.count, score.higher_is_better) == ("f1", 3, True)
    assert score.value == pytest.approx(1 / 3)
    assert score.details == {"exact_match": 1 / 3, "doc_stride": 4, "windows": 9, "longest_answer": 30}
    # "mat and the red dog" shares two words of four ("the" is dropped) with "red dog"
    score = task("question_answering").evaluate(Pointer("mat", "dog"), data.evaluation, "cpu")
    assert (score.value, score.details["exact_match"]) == (pytest.approx(2 / 3 / 3), 0)


def test_no_answer_is_predicted_if_the_data_has_unanswerable_questions(tmp_path: Path) -> None:
    answering = task("question_answering")
    some = read(write(tmp_path / "some", ("red dog", None, None)), sequence_length=14).evaluation
    score = answering.evaluate(Pointer("red", "dog", no_answer=6.0), some, "cpu")
    assert (score.value, score.details["exact_match"], score.details["unanswerable"]) == (pytest.approx(2 / 3),) * 2 + (
        2,
    )
    assert answering.evaluate(Pointer("red", "dog", no_answer=4.0), some, "cpu").value == pytest.approx(1 / 3)
    every = read(write(tmp_path / "every", ("red dog", "red dog", "it .")), sequence_length=14).evaluation
    assert answering.evaluate(Pointer("red", "dog", no_answer=6.0), every, "cpu").value == pytest.approx(2 / 3)


FORMS: dict[str, dict[str, list[Any]]] = {
    "flat": {"answers": [["red dog"]] * 5, "answer_start": [[CONTEXT.index("red dog")]] * 5},
    "one each": {"answer": ["red dog"] * 5, "answer_start": [CONTEXT.index("red dog")] * 5},
    "flattened": {"answers.text": [["red dog"]] * 5, "answers.answer_start": [[CONTEXT.index("red dog")]] * 5},
    "a list of answers": {"answers": [[{"text": "red dog", "answer_start": CONTEXT.index("red dog")}]] * 5},
}


@pytest.mark.parametrize("form", FORMS)
def test_answers_come_in_several_forms(tmp_path: Path, form: str) -> None:
    write_rows(tmp_path / "train.parquet", question=[ASK] * 5, context=[CONTEXT] * 5, **FORMS[form])
    assert [row["labels"] for row in read(tmp_path).train.rows(range(4))] == [[14, 15]] * 4


def test_without_answers_there_is_no_evaluation(tmp_path: Path) -> None:
    hidden = [answer(None)] * 5
    for answers in ({}, {"answers": [{"text": [""], "answer_start": [0]}] * 5}, {"answers": hidden}):
        write_rows(tmp_path / "all.parquet", question=[ASK] * 5, context=[CONTEXT] * 5, **answers)
        data = read(tmp_path)
        assert (data.evaluation, data.calibration_labels) == (None, False)
        assert all("labels" not in batch and "loss_mask" in batch for batch in data.roles.fit.batches)
        model()(**model_inputs(data.roles.fit.batches[0]))


def rows(**changes: Any) -> dict[str, list[Any]]:
    one = {"question": ASK, "context": CONTEXT, "answers": answer("red dog"), **changes}
    return {name: [value] * 5 for name, value in one.items() if value is not None}


BAD = {
    "no question": (
        rows(question=None),
        "no column 'question' or 'query'.*as text; its columns are context, answers",
    ),
    "no context": (rows(context=None), "no column 'context'.*as text_pair"),
    "an empty context": (rows(context=" ", answers=answer(None)), "row 0 of column 'context' .* is empty"),
    "another place": (rows(answers={"text": ["dog"], "answer_start": [0]}), "'dog' is not at character 0 .* 'the' is"),
    "a place before": (rows(answers={"text": ["."], "answer_start": [-1]}), "not at character -1"),
    "no places": (rows(answers=["red dog"]), "holds no answers with their positions.*beside a column answer_start"),
    "numbers": (rows(answers=3), "holds no answers with their positions: 3; give {text"),
    "uneven": (rows(answers={"text": ["dog"], "answer_start": [0, 1]}), "holds no answers with their positions"),
    "a long question": (rows(question=f"{ASK} " * 10), "has 20 tokens, and windows of 32 with a stride of 10 leave 18"),
    "no rows": ({name: [] for name in rows()}, "no rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_reported_in_one_line(tmp_path: Path, case: str) -> None:
    columns, message = BAD[case]
    write_rows(tmp_path / "train.parquet", **columns)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_short_sequences_and_slow_tokenizers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sequence_length 5 is too short for a question"):
        read(write(tmp_path), sequence_length=5)
    slow = SimpleNamespace(is_fast=False, pad_token_id=0)
    with pytest.raises(UnsupportedModelError, match=r"map tokens to characters.*fast tokenizer"):
        SpanRows(Encode(slow, 32, ("input_ids",)), Questions([ASK], [CONTEXT], None), "here")
