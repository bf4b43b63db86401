"""One vector a text: sentence-transformers models and plain encoders.

The embedding is the pooled last hidden state, brought to length one. Pooling is read from the folder of the model
(``modules.json`` and the configuration of its pooling module), and is the mean where there is none. Prompt prefixes of
``config_sentence_transformers.json`` are not put in front of the texts; write them into the data where they matter.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from secateurs.errors import DataError
from secateurs.tasks import Batch, Columns, Score, Task, TaskData
from secateurs.tasks._batches import (
    Collate,
    Encode,
    Ordered,
    TextRows,
    calibration_batches,
    forward,
    ordered_batches,
    sample,
)
from secateurs.tasks._columns import check_label, find_label, find_texts, texts_of
from secateurs.tasks._pooling import SentenceFiles, pool
from secateurs.tasks._retrieval import Collection, find_collection
from secateurs.tasks._similarity import Agreement, ScoredPairs, Search
from secateurs.tasks._sources import divide, local_path, read_splits

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Embedding"]

EVALUATION_BATCH = 64
AGREEMENT_TEXTS = 2000


@final
class Embedding(Task):
    """Sentence embeddings, judged by search, by scored pairs, or by their cosine to the dense model's.

    Which one depends on the data: a folder with ``corpus``, ``queries`` and ``qrels`` (or ``claims_*``) is searched;
    pairs of texts with a number as label are scored; of all else held-out texts are compared with the dense model.
    """

    name = "embedding"
    divergence_name = "1 - cosine"
    pipeline_tag = "sentence-similarity"
    keeps_hidden_size = True
    auto_class = "AutoModel"
    needs_labels_for_metric = False
    has_loss = False
    may_be_missing = ("pooler.",)

    def __init__(self) -> None:
        self.files = SentenceFiles()

    def load(
        self,
        source: str,
        *,
        dtype: torch.dtype | str,
        device: torch.device | str,
        trust_remote_code: bool = False,
        revision: str | None = None,
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """See ``Task.load``; remembers how the model is pooled."""
        from secateurs.tasks._loading import load

        self.files = SentenceFiles.find(source, revision)
        return load(
            source,
            self.auto_class,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            revision=revision,
            may_be_missing=self.may_be_missing,
            subfolder=self.files.subfolder,
        )

    def read(
        self,
        source: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        columns: Columns,
        batch_size: int,
        sequence_length: int,
        calibration_samples: int,
        seed: int,
        evaluation_samples: int | None = None,
    ) -> TaskData:
        """See ``Task.read``. Queries and documents, or both texts of a pair, are calibrated on alike."""
        encode = Encode.for_model(model, tokenizer, sequence_length)
        path = local_path(source)
        collection = find_collection(path) if path is not None and path.is_dir() else None
        if collection is not None:
            texts, evaluation, what = self._search(collection, encode, seed, evaluation_samples)
            trainable = True
        else:
            texts, evaluation, what, trainable = self._texts(source, columns, encode, seed, evaluation_samples)
        rows = TextRows(encode, texts)
        calibration = calibration_batches(rows, calibration_samples, batch_size, seed)
        count = sum(len(batch["input_ids"]) for batch in calibration)
        return TaskData(
            calibration=calibration,
            calibration_labels=False,
            evaluation=evaluation,
            train=rows if trainable else None,
            collate=Collate.like(tokenizer),
            description=f"{source}: {count} of {len(texts)} texts to calibrate, {what}",
        )

    @staticmethod
    def _search(collection: Collection, encode: Encode, seed: int, size: int | None) -> tuple[list[str], Search, str]:
        chosen = sample(len(collection.queries), size, seed)
        queries = [collection.queries[i] for i in chosen]
        evaluation = Search(
            ordered_batches(TextRows(encode, collection.documents), EVALUATION_BATCH),
            ordered_batches(TextRows(encode, queries), EVALUATION_BATCH),
            [collection.relevance[i] for i in chosen],
            {"gain": collection.gain, "documents": len(collection.documents)},
        )
        # Calibration sees no judgement, so without other queries those that are evaluated may serve as texts.
        own = not collection.other_queries
        texts = collection.documents + (collection.queries if own else collection.other_queries)
        what = f"{len(queries)} queries over {len(collection.documents)} documents to evaluate"
        return texts, evaluation, what + (" (calibration sees these queries, not their judgements)" if own else "")

    def _texts(
        self, source: str, columns: Columns, encode: Encode, seed: int, size: int | None
    ) -> tuple[list[str], ScoredPairs | Agreement, str, bool]:
        splits = read_splits(source)
        check_label(columns, splits, source)
        division = divide(source, splits, usable=lambda rows: True, seed=seed)
        assert division.held_out is not None
        first, second = _sides(division.rows, columns, f"{source} ({division.rows_name})")
        rows = division.held_out
        scored = _scores(rows, columns)
        rows = rows.select(sample(len(rows), size if scored else min(size or AGREEMENT_TEXTS, AGREEMENT_TEXTS), seed))
        left, right = _sides(rows, columns, f"{source} ({division.held_out_name})")

        def batches(texts: list[str]) -> Ordered:
            return ordered_batches(TextRows(encode, texts), EVALUATION_BATCH)

        scores = _scores(rows, columns)
        if right is not None and scores is not None:
            evaluation: ScoredPairs | Agreement = ScoredPairs(batches(left), batches(right), scores)
            what = f"{len(scores)} scored pairs to evaluate ({division.held_out_name})"
        else:
            evaluation = Agreement(batches(left))
            what = f"{len(left)} texts to compare with the dense model ({division.held_out_name})"
        return first + (second or []), evaluation, what, division.trainable

    def signal(self, outputs: Any, batch: Batch) -> Float[Tensor, "rows features"]:
        """The embedding of every text, of length one."""
        return pool(outputs.last_hidden_state, batch["attention_mask"], self.files.modes)

    def divergence(
        self, student: Float[Tensor, "rows features"], teacher: Float[Tensor, "rows features"]
    ) -> Float[Tensor, " rows"]:
        """1 - cosine, as half the squared distance of the unit vectors: exactly 0 where they are equal."""
        unit = torch.nn.functional.normalize
        return 0.5 * (unit(student, dim=-1) - unit(teacher, dim=-1)).square().sum(-1)

    def loss(self, outputs: Any, batch: Batch) -> Float[Tensor, ""]:
        """There is none; embeddings are trained by distillation."""
        raise DataError("the embedding task has no loss of its own; recover by distillation from the dense model")

    def evaluate(
        self, model: PreTrainedModel, evaluation: Search | ScoredPairs | Agreement, device: torch.device | str
    ) -> Score:
        """nDCG@10, Spearman's correlation, or the mean cosine to the dense model; see the class."""
        return evaluation.score(lambda texts: self._embed(model, texts, device))

    def reference(self, model: PreTrainedModel, evaluation: Any, device: torch.device | str) -> Any:
        """For the cosine to the dense model: the evaluation data with the dense embeddings."""
        if not isinstance(evaluation, Agreement):
            return evaluation
        return replace(evaluation, dense=self._embed(model, evaluation.texts, device))

    def save_extras(self, source: str, folder: Path) -> None:
        """Copy what makes the folder a sentence-transformers model, if the dense one was."""
        (self.files if self.files.files else SentenceFiles.find(source)).copy(folder)

    def _embed(
        self, model: PreTrainedModel, texts: Ordered, device: torch.device | str
    ) -> Float[Tensor, "texts features"]:
        rows = [self.signal(outputs, batch).cpu() for outputs, batch in forward(model, texts.batches, device)]
        return texts.restore(torch.cat(rows))


def _sides(rows: Dataset, columns: Columns, source: str) -> tuple[list[str], list[str] | None]:
    found = find_texts(columns, rows, source)
    second = texts_of(rows, found.text_pair, source) if found.text_pair is not None else None
    return texts_of(rows, found.text, source), second


def _scores(rows: Dataset, columns: Columns) -> list[float] | None:
    """Floating-point labels; whole numbers are classes, which say nothing about distances."""
    name = find_label(columns, rows)
    values = rows[name][:] if name is not None else []
    scored = bool(values) and all(isinstance(value, float) and value == value for value in values)
    return list(values) if scored else None
