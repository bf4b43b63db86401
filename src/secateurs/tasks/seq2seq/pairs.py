"""Rows with a source text and a target text: which columns hold them, their tokens, and their batches.

The decoder's input is its start token and then the tokens of the target, so that every position but the last predicts the
next one (teacher forcing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

import torch

from secateurs.errors import DataError
from secateurs.tasks.base import Batch, Columns
from secateurs.tasks.data.batches import Collate, Rows, TextKey
from secateurs.tasks.data.columns import find_column
from secateurs.tasks.data.encode import Encode, Row

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

__all__ = ["SourceTargetRows", "find_pair", "named_languages", "start_token", "with_languages"]

PAIRS = (
    ("source", "target"),
    ("document", "summary"),
    ("article", "highlights"),
    ("article", "summary"),
    ("text", "summary"),
    ("dialogue", "summary"),
    ("input_text", "target_text"),
    ("input", "output"),
)
"""Columns of source and target; the first pair that exists is used."""

TRANSLATION = "translation"
"""Column whose cells hold one text for every language."""


def with_languages(splits: dict[str, Dataset]) -> dict[str, Dataset]:
    """The splits with a column for every language in place of the column ``translation``, if they have one."""

    def divided(rows: Dataset) -> Dataset:
        if TRANSLATION not in rows.column_names or not len(rows) or not isinstance(rows[0][TRANSLATION], dict):
            return rows
        names = list(rows[0][TRANSLATION])
        return rows.map(lambda row: {name: row[TRANSLATION][name] for name in names}, remove_columns=[TRANSLATION])

    return {name: divided(rows) for name, rows in splits.items()}


def named_languages(columns: Columns, tokenizer: Any, rows: Dataset) -> Columns:
    """The columns of the two languages that the tokenizer translates between, if it names them and neither column is given.

    Args:
        columns: names given by the user.
        tokenizer: tokenizer of the model; those of Marian, mBART and M2M-100 name their languages.
        rows: data set.
    """
    there = {*rows.column_names}
    if columns.text is not None or columns.text_pair is not None or any(set(pair) <= there for pair in PAIRS):
        return columns
    for names in (("source_lang", "target_lang"), ("src_lang", "tgt_lang")):
        source, target = (getattr(tokenizer, name, None) for name in names)
        if source in there and target in there and source != target:
            return replace(columns, text=source, text_pair=target)
    return columns


def find_pair(columns: Columns, rows: Dataset, source: str) -> Columns:
    """The columns with the names of source and target filled in.

    Args:
        columns: names given by the user.
        rows: data set.
        source: name of the data set in error messages.

    Raises:
        DataError: a given column does not exist, or no pair of columns is recognised.
    """
    there = list(rows.column_names)
    usual = next((pair for pair in PAIRS if set(pair) <= {*there}), None)
    if columns.text is None and columns.text_pair is None and usual is None:
        raise DataError(
            f"{source} has no source and target by usual names; name the two columns as text and text_pair (its columns "
            f"are {', '.join(there)})"
        )
    first, second = usual or ("source", "target")
    text = find_column(columns.text, "text", [first], rows, source)
    return replace(columns, text=text, text_pair=find_column(columns.text_pair, "text_pair", [second], rows, source))


def start_token(model: PreTrainedModel) -> int:
    """The first token of the decoder's input.

    Raises:
        DataError: the config of the model does not name it.
    """
    found = getattr(model.config, "decoder_start_token_id", None)
    if found is None:
        raise DataError("the config of the model has no decoder_start_token_id, which the decoder's input begins with")
    return int(found)


class PairCollate(Collate):
    """Pads the source as ``Collate`` does, and the decoder's input on the right."""

    def __call__(self, rows: list[Row]) -> Batch:
        """See ``Collate``."""
        sources = [{key: value for key, value in row.items() if not key.startswith("decoder_")} for row in rows]
        pad: Any = self.tokenizer.pad_token_id
        targets = [torch.tensor(row["decoder_input_ids"]) for row in rows]
        fill = torch.nn.utils.rnn.pad_sequence
        return super().__call__(sources) | {
            "decoder_input_ids": fill(targets, batch_first=True, padding_value=pad),
            "decoder_attention_mask": fill([torch.ones_like(target) for target in targets], batch_first=True),
        }


@final
class SourceTargetRows(Rows):
    """Rows of source and target texts, tokenized on access.

    Args:
        encode: tokenization of the sources; its length limits the targets too.
        sources: source text of every row.
        targets: target text of every row.
        start: first token of the decoder's input.
    """

    def __init__(self, encode: Encode, sources: list[str], targets: list[str], start: int) -> None:
        super().__init__(PairCollate.like(encode.tokenizer))
        self.encode, self.sources, self.targets, self.start = encode, sources, targets, start

    def __len__(self) -> int:
        return len(self.sources)

    def text_keys(self) -> list[TextKey]:
        """See ``Rows.text_keys``. Rows with the same source are neighbours."""
        return [TextKey(pair[0], pair) for pair in zip(self.sources, self.targets, strict=True)]

    def rows(self, indices: Sequence[int]) -> list[Row]:
        """See ``Rows.rows``."""
        rows = self.encode([self.sources[index] for index in indices])
        targets: Any = self.encode.tokenizer(
            text_target=[self.targets[index] for index in indices],
            truncation=True,
            max_length=self.encode.sequence_length - 1,
        )
        for row, ids in zip(rows, targets["input_ids"], strict=True):
            row["decoder_input_ids"] = [self.start, *ids]
        return rows
