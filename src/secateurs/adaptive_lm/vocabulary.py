"""Vocabularies and cut-offs from the data: words or bytes, numbered by falling frequency as an adaptive softmax needs."""

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
"""Fractions of all running words that the clusters up to each cut-off cover: most words are in the narrow rest."""


def word_tokenizer(
    lines: Iterable[str], *, least: int = 1, most: int | None = None
) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """Words between blanks; every line break is an end token.

    Args:
        lines: the training text, without line breaks; ``<unk>`` and ``<eos>`` in it are the tokens of these names.
        least: words seen less often are unknown.
        most: size of the vocabulary, the two tokens included; the rarest words are left out.

    Returns:
        The tokenizer, and how often each id occurs in the text, in falling order.

    Raises:
        DataError: there is no text.
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
    """The 256 bytes of UTF-8, as for enwik8, and a token to pad with; nothing is unknown and there is no end token.

    Args:
        lines: the training text, without line breaks.

    Returns:
        The tokenizer, and how often each id occurs in the text, in falling order.

    Raises:
        DataError: there is no text.
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
    """Where to divide a vocabulary: cluster 0 covers the first mass of the running text, and so on.

    Args:
        counts: occurrences of every id, falling.
        masses: fractions between 0 and 1, ascending.

    Returns:
        Ids for ``AdaptiveLMConfig.cutoffs``; fewer than masses where a cluster would be empty.

    Raises:
        DataError: the counts do not fall, or the masses are not ascending fractions.

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
    """How the tokenizers library writes a byte: itself where it prints, a letter from 256 on elsewhere."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    names = {byte: chr(byte) for byte in printed}
    hidden = [byte for byte in range(256) if byte not in names]
    return names | {byte: chr(256 + index) for index, byte in enumerate(hidden)}
