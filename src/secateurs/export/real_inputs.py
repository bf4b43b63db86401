"""Real inputs on which an exported file is checked: texts of many lengths, in batches of several sizes, with padding.

Random token ids would not do: they are all of one length, and models are confident about none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from secateurs.checkpoint.load_model import padding_token
from secateurs.checkpoint.refusals import first_line
from secateurs.errors import CheckpointError, DataError
from secateurs.latency.environment import Environment
from secateurs.latency.workload import random_batch, sequence_limit

__all__ = ["LONGEST", "TEXTS", "batches_of", "read_texts"]

_STORY = (
    "The bridge had been closed since the spring, and nobody in the village could say when it would open again. "
    "Every morning the baker looked across the water at the road on the other side, counted the cars that turned back, "
    "and went in to light the oven. By noon the bread was sold anyway, because those who lived here bought twice as much "
    "as before, out of pity or out of boredom, and the children carried what was left to the ferry, where the pilot paid "
    "in stories. "
)

TEXTS = (
    "Excellent.",
    "I have rarely been so bored in a cinema, and I have seen a great deal.",
    "How do I change the address on my card before it is delivered?",
    "no",
    "The trial was stopped after 14 weeks because 3 of 212 patients had developed a fever above 39.5 degrees.",
    "Wall St. opened lower on Tuesday as higher oil prices weighed on airlines and makers of cars.",
    "It isn't bad, it isn't good; it simply ends.",
    "Please play something quiet for the evening, and turn the lights in the kitchen down to thirty per cent.",
    _STORY,
    _STORY * 4,
    "Zürich, naïve café: 東京 and Москва in one line?",
    "A man is slicing an onion. A woman plays the violin.",
)
"""Texts of 1 to some 400 words that are used if the user gives none."""

SIZES = (1, 3, 8)
"""Rows of the batches, in turns."""

LONGEST = 256
"""Tokens to which texts are truncated, if the model has that many positions."""


def read_texts(path: Path) -> list[str]:
    """The lines of a file that are not empty.

    Raises:
        DataError: the file cannot be read, or has no line.
    """
    try:
        texts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the texts {path}: {first_line(error)}; give a text file, one text a line"
        ) from None
    if not texts:
        raise DataError(f"the file {path} has no text; give one text a line")
    return texts


def batches_of(model: Any, source: str, texts: Sequence[str], *, trust_remote_code: bool) -> list[dict[str, Tensor]]:
    """Batches of real texts for a model; for a model of images, batches of random pixels.

    Args:
        model: transformers model.
        source: its folder or hub id, which has the tokenizer.
        texts: the texts.
        trust_remote_code: whether Python code of the checkpoint may be run.

    Returns:
        Batches of 1, 3 and 8 rows in turns. Each is padded on the right to its longest row.

    Raises:
        CheckpointError: there is no tokenizer.
        RecipeError: the model takes neither texts nor images.
    """
    random = {
        name: value
        for name, value in random_batch(model, Environment(batch_size=3, sequence_length=4), seed=0).items()
        if isinstance(value, Tensor)
    }
    if "input_ids" not in random:
        return [{name: value[:rows] for name, value in random.items()} for rows in (1, 3)]
    tokenizer = _tokenizer(source, trust_remote_code)
    limit = min(LONGEST, sequence_limit(model) or LONGEST)
    names = ["input_ids", "attention_mask", *_types(model)]
    found, start = [], 0
    while start < len(texts):
        rows = SIZES[len(found) % len(SIZES)]
        some = [texts[(start + row) % len(texts)] for row in range(rows)]
        encoded = tokenizer(some, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        found.append({name: encoded[name] for name in names if name in encoded})
        start += rows
    return found


def _types(model: Any) -> list[str]:
    """``token_type_ids``, where the model has embeddings for them."""
    return ["token_type_ids"] if (getattr(model.config, "type_vocab_size", 0) or 0) > 1 else []


def _tokenizer(source: str, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except Exception as error:  # tokenizer back ends raise exceptions of many classes
        raise CheckpointError(f"cannot load the tokenizer of {source}: {first_line(error)}") from error
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = padding_token(tokenizer)
    return tokenizer
