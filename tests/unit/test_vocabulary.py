"""Vocabularies from text: their tokens, the order of the ids, and that text survives encoding and decoding."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateurs.adaptive_lm import byte_tokenizer, cutoffs, word_tokenizer
from secateurs.errors import DataError
from secateurs.tasks.causal_lm.task import _bytewise
from tiny import tiny_tokenizer

LINES = ["the cat sat on the mat", "", "the <unk> sat", "a mat , a cat and the moon"]


def test_words_are_numbered_by_falling_frequency() -> None:
    tokenizer, counts = word_tokenizer(LINES)
    ids = tokenizer("\n".join(LINES) + "\n")["input_ids"]
    assert counts == sorted(counts, reverse=True)
    assert counts == [ids.count(index) for index in range(len(tokenizer))], "the counts are those of the encoded text"
    assert sum(counts) == len(ids) == sum(len(line.split()) + 1 for line in LINES)
    assert set(tokenizer.convert_ids_to_tokens([0, 1])) == {"the", "<eos>"}


def test_words_survive_encoding_and_decoding() -> None:
    tokenizer, _ = word_tokenizer(LINES)
    text = "\n".join(LINES)
    assert tokenizer.decode(tokenizer(text)["input_ids"]).split() == text.replace("\n", " <eos> ").split()
    assert tokenizer("dog")["input_ids"] == [tokenizer.unk_token_id]
    assert tokenizer("a\n")["input_ids"][-1] == tokenizer.eos_token_id


def test_rare_words_are_left_out() -> None:
    twice, counts = word_tokenizer(LINES, least=2)
    assert set(twice.get_vocab()) == {"the", "cat", "sat", "mat", "a", "<unk>", "<eos>"}
    assert counts[twice.unk_token_id] == 1 + 4  # the one in the text, and "on", ",", "and", "moon"
    assert sum(counts) == sum(word_tokenizer(LINES)[1])
    few, _ = word_tokenizer(LINES, most=4)
    assert len(few) == 4 and {"<unk>", "<eos>", "the"} <= set(few.get_vocab())


def test_every_byte_survives_encoding_and_decoding() -> None:
    tokenizer, counts = byte_tokenizer([*LINES, "Senj\u014d \u8a9e \U0001f600"])
    assert len(tokenizer) == len(counts) == 257 and tokenizer.convert_ids_to_tokens(0) == "\u0120", (
        "most bytes are blanks"
    )
    assert counts == sorted(counts, reverse=True)
    text = "".join(map(chr, range(1, 256))) + "\u8a9e\U0001f600  two  blanks\n\nand the end\n"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode()) and tokenizer.decode(ids) == text
    assert len(set(ids)) > 190


def test_tokenizers_survive_saving_and_loading(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for name, tokenizer in (("word", word_tokenizer(LINES)[0]), ("byte", byte_tokenizer(LINES)[0])):
        tokenizer.save_pretrained(tmp_path / name)
        again = AutoTokenizer.from_pretrained(tmp_path / name)
        text = "\n".join(LINES)
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert again.decode(again(text)["input_ids"]) == tokenizer.decode(tokenizer(text)["input_ids"])


def test_byte_vocabularies_are_recognised() -> None:
    assert _bytewise(byte_tokenizer(LINES)[0])
    assert not _bytewise(word_tokenizer(LINES)[0])
    assert not _bytewise(tiny_tokenizer())


def test_clusters_cover_their_share_of_the_running_text() -> None:
    counts = [1000 // rank for rank in range(1, 400)]
    found = cutoffs(counts, (0.5, 0.9))
    for cutoff, mass in zip(found, (0.5, 0.9), strict=True):
        assert sum(counts[:cutoff]) >= mass * sum(counts) > sum(counts[: cutoff - 1])
    assert cutoffs([5, 1], (0.1, 0.2)) == [1], "no cluster is empty"
    assert cutoffs([7]) == []


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="needs text"):
        word_tokenizer([])
    with pytest.raises(DataError, match="needs text"):
        byte_tokenizer([])
    with pytest.raises(DataError, match="falling frequency"):
        cutoffs([1, 2])
    with pytest.raises(DataError, match="ascending fractions"):
        cutoffs([2, 1], (0.9, 0.5))
