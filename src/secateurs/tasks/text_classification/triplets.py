"""Triplets of rerankers: a query with relevant and irrelevant texts becomes pairs with the labels 1 and 0."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from secateurs.tasks.base import Columns
from secateurs.tasks.data.columns import NO_LABELS

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Triplets"]

QUERIES = ("query", "anchor", "question", "sentence")
POSITIVES = ("positive", "positives", "pos")
NEGATIVES = ("negative", "negatives", "neg", "hard_negative", "hard_negatives")


@dataclass(frozen=True)
class Triplets:
    """Columns of triplets.

    Args:
        query: column of the query.
        positive: column of one relevant text, or of a list of them.
        negative: column of one irrelevant text, or of a list of them.
    """

    query: str
    positive: str
    negative: str

    @classmethod
    def find(cls, columns: Columns, rows: Dataset) -> Triplets | None:
        """The triplets of a data set, or ``None`` if it has none or the user named other columns.

        Args:
            columns: names given by the user.
            rows: rows of a split.
        """
        if columns.text is not None or columns.text_pair is not None or columns.label not in (None, NO_LABELS):
            return None
        usual = (QUERIES, POSITIVES, NEGATIVES)
        found = [next((name for name in names if name in rows.column_names), None) for names in usual]
        query, positive, negative = found
        return cls(query, positive, negative) if query and positive and negative else None

    def pairs(self, rows: Dataset) -> Dataset:
        """The pairs, of every triplet first the relevant texts, then the others; see ``columns`` for their columns.

        Args:
            rows: triplets.
        """
        from datasets import ClassLabel, Dataset, Features, Value

        texts, seconds, labels = [], [], []
        for query, positive, negative in zip(rows[self.query], rows[self.positive], rows[self.negative], strict=True):
            for value, label in ((positive, 1), (negative, 0)):
                for second in _as_list(value):
                    texts.append(query)
                    seconds.append(second)
                    labels.append(label)
        features = Features(
            {"text": Value("string"), "text_pair": Value("string"), "label": ClassLabel(names=["negative", "positive"])}
        )
        return Dataset.from_dict({"text": texts, "text_pair": seconds, "label": labels}, features=features)

    def columns(self, given: Columns) -> Columns:
        """Names of the columns of the pairs.

        Args:
            given: names given by the user; without labels, the pairs have none either.
        """
        return replace(given, text="text", text_pair="text_pair", label=given.label or "label")


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
