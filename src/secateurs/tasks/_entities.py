"""Entities in tagged words, and how many of them were found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["Entity", "Found", "are_chunks", "entities", "found"]

TAG = re.compile(r"([BIESLU])-(.+)", re.DOTALL)
ALIASES = {"L": "E", "U": "S"}
"""BILOU says last and unit where BIOES says end and single."""


class Entity(NamedTuple):
    """A type, and the first and last word of it."""

    kind: str
    first: int
    last: int


class Found(NamedTuple):
    """Fractions over all entities of all sentences (micro averages), and how many true ones there are."""

    precision: float
    recall: float
    f1: float
    wanted: int


def are_chunks(labels: Iterable[str]) -> bool:
    """Whether labels mark parts of entities (``B-PER``) rather than words of their own (``NOUN``)."""
    return any(TAG.fullmatch(label) for label in labels)


def entities(tags: Sequence[str]) -> set[Entity]:
    """What the tags of one sentence mark, in IOB1, IOB2, BIOES or BILOU, read as conlleval does.

    B and S open an entity. I and E go on with one of their own type and open one where there is none, so an entity that
    begins without B still counts. Every other tag is outside.

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


def found(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Found:
    """Entities of the same type over the same words count as found; 0 where there is nothing to divide by.

    Args:
        true: tags, a sequence a sentence.
        predicted: as many tags.
    """
    wanted = given = both = 0
    for ours, theirs in zip(predicted, true, strict=True):
        mine, gold = entities(ours), entities(theirs)
        wanted, given, both = wanted + len(gold), given + len(mine), both + len(mine & gold)
    precision, recall = both / given if given else 0.0, both / wanted if wanted else 0.0
    return Found(precision, recall, 2 * both / (wanted + given) if wanted + given else 0.0, wanted)
