"""Vocabularies of words or bytes, numbered by falling frequency as an adaptive softmax needs, and cut-offs for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from secateurs.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["END", "MASSES", "PADDING", "UNKNOWN", "byte_tokenizer", "cutoffs", "word_tokenizer"]

UNKNOWN, END, PADDING = "<unk>", "<eos>", "<pad>"

MASSES = (0.8, 0.95)
"""Fractions of the running text that the clusters before each cut-off cover. Most words of the vocabulary are in the last,
narrow cluster."""


def word_tokenizer(
    lines: Iterable[str], *, least: int = 1, most: int | None = None
) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """A tokenizer whose tokens are the words between blanks; every line break becomes an end token.

    Args:
        lines: lines of the training text, without line breaks. ``<unk>`` and ``<eos>`` in the text are the special tokens.
        least: smallest number of occurrences of a word; rarer words become ``<unk>``.
        most: largest size of the vocabulary, special tokens included; the rarest words are left out. ``None`` = no limit.

    Returns:
        The tokenizer, and the number of occurrences of each id in the text, in falling order.

    Raises:
        DataError: the text has no words.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    counts: Counter[str] = Counter()
    for line in lines:
        counts.update([*line.split(), END])
    if not counts.keys() - {UNKNOWN, END}:
        raise DataError("a vocabulary needs text with at least one word in it")
    known = [(word, n) for word, n in counts.items() if n >= least and word not in (UNKNOWN, END)]
    known = sorted(known, key=lambda pair: (-pair[1], pair[0]))[: None if most is None else max(0, most - 2)]
    lost = sum(counts.values()) - sum(n for _, n in known) - counts[END]
    ranked = sorted([*known, (UNKNOWN, lost), (END, counts[END])], key=lambda pair: (-pair[1], pair[0]))
    tokenizer = Tokenizer(models.WordLevel({word: index for index, (word, _) in enumerate(ranked)}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Replace(Regex("\n"), f" {END} ")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNKNOWN, eos_token=END, clean_up_tokenization_spaces=False
    )
    return wrapped, [n for _, n in ranked]


def byte_tokenizer(lines: Iterable[str]) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """A tokenizer whose tokens are the 256 bytes of UTF-8 text, as used for enwik8, and a padding token.

    It has no unknown token and no end token.

    Args:
        lines: lines of the training text, without line breaks.

    Returns:
        The tokenizer, and the number of occurrences of each id in the text, in falling order.

    Raises:
        DataError: there are no lines.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    counts: Counter[int] = Counter()
    for line in lines:
        counts.update(f"{line}\n".encode())
    if not counts:
        raise DataError("a vocabulary needs text")
    names = _names_of_bytes()
    ranked = sorted(range(256), key=lambda byte: (-counts[byte], byte))
    tokenizer = Tokenizer(models.BPE({names[byte]: index for index, byte in enumerate(ranked)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PADDING, clean_up_tokenization_spaces=False)
    return wrapped, [*(counts[byte] for byte in ranked), 0]


def cutoffs(counts: Sequence[int], masses: Sequence[float] = MASSES) -> list[int]:
    """Choose where to divide a vocabulary: the clusters before cut-off ``i`` cover at least ``masses[i]`` of the text.

    Args:
        counts: number of occurrences of every id, in falling order.
        masses: fractions of the running text, ascending, each between 0 and 1.

    Returns:
        Ids for ``AdaptiveLMConfig.cutoffs``. There are fewer cut-offs than masses if a cluster would be empty.

    Raises:
        DataError: the counts rise somewhere, or the masses are not ascending fractions.

    >>> cutoffs([50, 30, 10, 6, 4], masses=(0.8, 0.95))
    [2, 4]
    """
    if not counts or any(after > before for before, after in pairwise(counts)):
        raise DataError("cut-offs need the counts of a vocabulary that is numbered by falling frequency")
    if any(after <= before for before, after in zip([0.0, *masses], [*masses, 1.0], strict=True)):
        raise DataError(f"masses {tuple(masses)} must be ascending fractions between 0 and 1, both excluded")
    sums = list(accumulate(counts))
    found = (next(index for index, mass in enumerate(sums, 1) if mass >= share * sums[-1]) for share in masses)
    return [cutoff for cutoff in dict.fromkeys(found) if cutoff < len(counts)]


def _names_of_bytes() -> dict[int, str]:
    """Byte -> the character that the tokenizers library writes for it: the byte itself if printable, else one from 256 on."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    names = {byte: chr(byte) for byte in printed}
    hidden = [byte for byte in range(256) if byte not in names]
    return names | {byte: chr(256 + index) for index, byte in enumerate(hidden)}
