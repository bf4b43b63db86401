"""Entities in tagged words, and their precision, recall and F1.

The package ``seqeval`` computes the same numbers but is no longer maintained.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["Entity", "EntityCounts", "are_chunks", "entities", "score_entities"]

TAG = re.compile(r"([BIESLU])-(.+)", re.DOTALL)
ALIASES = {"L": "E", "U": "S"}
"""BILOU names the parts "last" and "unit" that BIOES names "end" and "single"."""


class Entity(NamedTuple):
    """Type of an entity, and the indices of its first and its last word."""

    kind: str
    first: int
    last: int


class EntityCounts(NamedTuple):
    """Micro averages over all entities of all sentences, as fractions, and the number of true entities."""

    precision: float
    recall: float
    f1: float
    num_true: int


def are_chunks(labels: Iterable[str]) -> bool:
    """Whether some label marks a part of an entity (``B-PER``); otherwise labels are classes of words (``NOUN``)."""
    return any(TAG.fullmatch(label) for label in labels)


def entities(tags: Sequence[str]) -> set[Entity]:
    """Entities of one sentence with tags in IOB1, IOB2, BIOES or BILOU, decoded as the script conlleval does.

    B and S start an entity. I and E continue an entity of the same type and otherwise start one, so an entity that
    starts without B counts as well. Every other tag is outside of all entities.

    >>> sorted(entities(["B-PER", "I-PER", "O", "I-LOC"]))
    [Entity(kind='LOC', first=3, last=3), Entity(kind='PER', first=0, last=1)]
    """
    complete: set[Entity] = set()
    running: Entity | None = None
    for position, tag in enumerate(tags):
        match = TAG.fullmatch(tag)
        part, kind = (ALIASES.get(match[1], match[1]), match[2]) if match else ("O", "")
        if running is not None and part in "IE" and kind == running.kind:
            running = running._replace(last=position)
        else:
            complete |= {running} if running is not None else set()
            running = Entity(kind, position, position) if part != "O" else None
        if running is not None and part in "ES":
            complete.add(running)
            running = None
    return complete | ({running} if running is not None else set())


def score_entities(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> EntityCounts:
    """Precision, recall and F1 of entities. A prediction is correct if its type, first and last word are correct.

    ``precision = correct / predicted``, ``recall = correct / true``, ``F1 = 2 correct / (true + predicted)``; a fraction
    whose denominator is 0 is 0.

    Args:
        true: true tags of the words of every sentence.
        predicted: predicted tags, of the same lengths.
    """
    num_true = num_predicted = num_correct = 0
    for true_tags, predicted_tags in zip(true, predicted, strict=True):
        true_entities, predicted_entities = entities(true_tags), entities(predicted_tags)
        num_true += len(true_entities)
        num_predicted += len(predicted_entities)
        num_correct += len(true_entities & predicted_entities)
    precision = num_correct / num_predicted if num_predicted else 0.0
    recall = num_correct / num_true if num_true else 0.0
    f1 = 2 * num_correct / (num_true + num_predicted) if num_true + num_predicted else 0.0
    return EntityCounts(precision, recall, f1, num_true)
