"""Embeddings: one vector per text, of sentence-transformers models and plain encoders.

The embedding is the pooled last hidden state, scaled to length one. The pooling mode is read from the folder of the model
(``modules.json`` and the configuration of its pooling module); without these files it is the mean. The prompt prefixes
in ``config_sentence_transformers.json`` are not added to the texts; write them into the data if the model needs them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from secateurs.checkpoint.dense_files import copy_tokenizer
from secateurs.errors import DataError
from secateurs.tasks.answers import AnswerScores
from secateurs.tasks.base import Batch, Columns, DataRequest, Score, Task, TaskData, Understood
from secateurs.tasks.data.batches import Collate, Ordered, TextRows, forward, ordered_batches, sample
from secateurs.tasks.data.columns import check_label, find_label, find_texts, first_of_pair, skip_empty, texts_of
from secateurs.tasks.data.draw_roles import draw_roles
from secateurs.tasks.data.encode import Encode
from secateurs.tasks.data.sources import local_path, read_splits
from secateurs.tasks.data.splits import Division, divide
from secateurs.tasks.data.understood import about_columns, about_skipped, about_splits
from secateurs.tasks.embedding.pooling import SentenceFiles, pool
from secateurs.tasks.embedding.retrieval import Collection, find_collection
from secateurs.tasks.embedding.similarity import CosineToDense, ScoredPairs, Search

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Embedding"]

EVALUATION_BATCH = 64
"""Texts per batch in evaluation."""

SCORES = ("score", "similarity_score")
"""Names of label columns that hold scores."""

MAX_COMPARED_TEXTS = 2000
"""Maximum number of texts whose embeddings are compared with those of the dense model."""


@final
class Embedding(Task):
    """Sentence embeddings, scored by search, by scored pairs, or by their cosine to the embeddings of the dense model.

    The data decides which metric is used. A folder with ``corpus``, ``queries`` and ``qrels`` (or ``claims_*``) is
    searched. Pairs of texts with a floating-point label are scored by correlation. For all other data, the embeddings of
    held-out texts are compared with those of the dense model.
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

    @property
    def subfolder(self) -> str:
        """See ``Task.subfolder``."""
        return self.files.subfolder

    def load(
        self,
        source: str,
        *,
        dtype: torch.dtype | str,
        device: torch.device | str,
        trust_remote_code: bool = False,
        revision: str | None = None,
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """See ``Task.load``. The pooling mode of the model is stored in this task."""
        from secateurs.checkpoint.load_model import load

        self.files = SentenceFiles.find(source, revision)
        return load(
            source,
            self.auto_class,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            revision=revision,
            may_be_missing=self.may_be_missing,
            subfolder=self.subfolder,
        )

    def read_data(self, request: DataRequest) -> TaskData:
        """See ``Task.read_data``. Calibration uses queries and documents, or both texts of a pair, as single texts."""
        source, columns = request.source, request.columns
        encode = Encode.for_model(request.model, request.tokenizer, request.sequence_length)
        path = local_path(source)
        collection = find_collection(path) if path is not None and path.is_dir() else None
        if collection is not None:
            texts, evaluation, what, about = self._search(collection, encode, request.seed, request.evaluation_samples)
            held_out, trainable, split, held_out_split = None, True, "documents and queries", "none"
        else:
            texts, evaluation, what, held_out, division, about = self._texts(
                source, columns, encode, request.seed, request.evaluation_samples
            )
            trainable, split, held_out_split = division.trainable, division.rows_name, division.held_out_name
        drawn, train = draw_roles(
            TextRows(encode, texts),
            held_out,
            request.roles,
            split=split,
            held_out_split=held_out_split,
            batch_size=request.batch_size,
            seed=request.seed,
        )
        return TaskData(
            roles=drawn,
            calibration_labels=False,
            evaluation=evaluation,
            train=train if trainable else None,
            collate=Collate.like(request.tokenizer),
            description=f"{source}: {drawn.fit.rows} of {len(texts)} texts to calibrate, {what}",
            understood=tuple(about),
        )

    @staticmethod
    def _search(
        collection: Collection, encode: Encode, seed: int, size: int | None
    ) -> tuple[list[str], Search, str, list[Understood]]:
        chosen = sample(len(collection.queries), size, seed)
        queries = [collection.queries[i] for i in chosen]
        evaluation = Search(
            ordered_batches(TextRows(encode, collection.documents), EVALUATION_BATCH),
            ordered_batches(TextRows(encode, queries), EVALUATION_BATCH),
            [collection.relevance[i] for i in chosen],
            {"gain": collection.gain, "documents": len(collection.documents)},
        )
        # Calibration uses no relevance judgements, so evaluation queries may serve as texts if there are no others.
        own = not collection.other_queries
        texts = collection.documents + (collection.queries if own else collection.other_queries)
        what = f"{len(queries)} queries over {len(collection.documents)} documents to evaluate"
        found = sum(map(len, collection.relevance))
        about = [
            ("corpus", f"{len(collection.documents)} documents, for calibration, training and search"),
            ("queries", f"{len(collection.queries)} with relevant documents, for evaluation"),
            ("queries", "none besides these; calibration sees them, not their judgements")
            if own
            else ("queries", f"{len(collection.other_queries)} others, for calibration and training"),
            ("relevance", f"{found} relevant documents; gain: {collection.gain}"),
        ]
        what += " (calibration sees these queries, not their judgements)" if own else ""
        return texts, evaluation, what, about

    def _texts(
        self, source: str, columns: Columns, encode: Encode, seed: int, size: int | None
    ) -> tuple[list[str], ScoredPairs | CosineToDense, str, TextRows, Division, list[Understood]]:
        everything = read_splits(source)
        check_label(columns, everything, source)
        splits = skip_empty(everything, columns, source)
        division = divide(
            source,
            splits,
            usable=lambda rows: True,
            seed=seed,
            together=lambda rows: first_of_pair(columns, rows, source),
        )
        assert division.held_out is not None
        first, second = _sides(division.rows, columns, f"{source} ({division.rows_name})")
        rows = division.held_out
        scored = _scores(rows, columns)
        rows = rows.select(
            sample(len(rows), size if scored else min(size or MAX_COMPARED_TEXTS, MAX_COMPARED_TEXTS), seed)
        )
        left, right = _sides(rows, columns, f"{source} ({division.held_out_name})")

        def batches(texts: list[str]) -> Ordered:
            return ordered_batches(TextRows(encode, texts), EVALUATION_BATCH)

        scores = _scores(rows, columns)
        if right is not None and scores is not None:
            evaluation: ScoredPairs | CosineToDense = ScoredPairs(batches(left), batches(right), scores)
            what = f"{len(scores)} scored pairs to evaluate ({division.held_out_name})"
        else:
            evaluation = CosineToDense(batches(left))
            what = f"{len(left)} texts to compare with the dense model ({division.held_out_name})"
        scored = isinstance(evaluation, ScoredPairs)
        about = [
            *about_splits(division, splits),
            *about_skipped(everything, splits),
            *_about_columns(division.rows, columns, source, scored),
        ]
        held_out = TextRows(encode, left + (right or []))
        return first + (second or []), evaluation, what, held_out, division, about

    def compared_outputs(self, outputs: Any, batch: Batch) -> Float[Tensor, "rows features"]:
        """The embeddings, scaled to length one, one row per text."""
        return pool(outputs.last_hidden_state, batch["attention_mask"], self.files.modes)

    def divergence(
        self, student: Float[Tensor, "rows features"], teacher: Float[Tensor, "rows features"]
    ) -> Float[Tensor, " rows"]:
        """``1 - cos(student, teacher) = |student - teacher|^2 / 2`` for unit vectors.

        The squared distance is used because it is exactly 0 where the vectors are equal.
        """
        unit = torch.nn.functional.normalize
        return 0.5 * (unit(student, dim=-1) - unit(teacher, dim=-1)).square().sum(-1)

    def direction(
        self, teacher: Float[Tensor, "rows features"], noise: Float[Tensor, "rows features"]
    ) -> Float[Tensor, "rows features"]:
        """See ``Task.direction``: the noise at right angles to the embedding, divided by its length."""
        unit = torch.nn.functional.normalize(teacher, dim=-1)
        return (noise - unit * (unit * noise).sum(-1, keepdim=True)) / teacher.norm(dim=-1, keepdim=True)

    def answers(self, outputs: Any, batch: Batch) -> Shaped[Tensor, "texts ..."]:
        """See ``Answers.answers``: the vector of length one."""
        return self.compared_outputs(outputs, batch)

    def score_answers(
        self, ours: Shaped[Tensor, "texts ..."], dense: Shaped[Tensor, "texts ..."], batch: Batch
    ) -> AnswerScores:
        """See ``Answers.score_answers``: the cosine to the dense vector. Labelled pairs and queries are not used."""
        cosine = 1 - self.divergence(ours, dense).double()
        one = torch.ones_like(cosine)
        return AnswerScores("cosine to the dense vectors", torch.stack([cosine, one], -1), torch.stack([one, one], -1))

    def loss(self, outputs: Any, batch: Batch) -> Float[Tensor, ""]:
        """Not available: embedding models are trained by distillation.

        Raises:
            DataError: always.
        """
        raise DataError("the embedding task has no loss; train by distillation from the dense model")

    def evaluate(
        self, model: PreTrainedModel, evaluation: Search | ScoredPairs | CosineToDense, device: torch.device | str
    ) -> Score:
        """nDCG@10, Spearman's correlation, or the mean cosine to the dense model; see the docstring of the class."""
        return evaluation.score(lambda texts: self._embed(model, texts, device))

    def reference(self, model: PreTrainedModel, evaluation: Any, device: torch.device | str) -> Any:
        """See ``Task.reference``. Only ``CosineToDense`` needs the embeddings of the dense model."""
        if not isinstance(evaluation, CosineToDense):
            return evaluation
        return replace(evaluation, dense=self._embed(model, evaluation.texts, device))

    def save_extras(self, source: str, folder: Path) -> None:
        """See ``Task.save_extras``. The transformer of a sentence-transformers model moves to the top folder."""
        copy_tokenizer(source, folder, subfolder=self.subfolder)
        (self.files if self.files.files else SentenceFiles.find(source)).copy(folder)

    def _embed(
        self, model: PreTrainedModel, texts: Ordered, device: torch.device | str
    ) -> Float[Tensor, "texts features"]:
        rows = [self.compared_outputs(outputs, batch).cpu() for outputs, batch in forward(model, texts.batches, device)]
        return texts.restore(torch.cat(rows))


def _sides(rows: Dataset, columns: Columns, source: str) -> tuple[list[str], list[str] | None]:
    """The texts and, for pairs of texts, the second texts."""
    found = find_texts(columns, rows, source)
    second = texts_of(rows, found.text_pair, source) if found.text_pair is not None else None
    return texts_of(rows, found.text, source), second


def _about_columns(rows: Dataset, columns: Columns, source: str, scored: bool) -> list[Understood]:
    """Which column is what, and what the embeddings are scored by."""
    found = find_texts(columns, rows, source)
    label = find_label(columns, rows)
    lines = [about_columns(found, label if scored else None, "score", columns, rows.column_names)]
    if scored:
        return lines
    why = "there are no scored pairs of texts"
    if label is not None and found.text_pair is not None:
        why = f"the column {label!r} holds no scores (fractions, or numbers in a column called score)"
    return [*lines, ("evaluation", f"{why}: embeddings are compared with those of the dense model")]


def _scores(rows: Dataset, columns: Columns) -> list[float] | None:
    """Labels that are scores: fractions, or whole numbers in a column that is called score.

    Other whole numbers are classes, which do not measure similarity.
    """
    name = find_label(columns, rows)
    values = rows[name][:] if name is not None else []
    kinds = (int, float) if name in SCORES and len(set(values)) > 2 else float
    scored = all(isinstance(value, kinds) and not isinstance(value, bool) and value == value for value in values)
    return [float(value) for value in values] if values and scored else None
