"""Several processes of one run, as torchrun starts them: all of them train, and the first does everything else.

Each process reads model and data and goes through the same pipeline. What must be the same everywhere, or may be done
once only (measure, evaluate, write), is done in the first, while the others wait for what came of it.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from secateurs.errors import FailedElsewhere, RecipeError, SecateursError

__all__ = ["count", "first", "is_first", "join", "together"]

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""The others wait so long for the first: a search may take hours, and the launcher ends all of them when one dies."""

_alone: ContextVar[bool] = ContextVar("alone", default=False)
"""The others are waiting for what this process is doing."""


def count() -> int:
    """Processes of this run."""
    return int(os.environ["WORLD_SIZE"]) if {"LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys() else 1


def is_first() -> bool:
    """Whether this process measures, evaluates, writes and prints."""
    return count() == 1 or os.environ["RANK"] == "0"


def join(device: str) -> None:
    """Meet the other processes, if there are any, until this one ends; each GPU serves one of them.

    Raises:
        RecipeError: one GPU is named for all.
    """
    if count() == 1 or distributed.is_initialized():
        return
    kind = torch.device(device)
    if kind.index is not None:
        raise RecipeError(f"{count()} processes cannot share {device}; name the device as {kind.type}")
    if kind.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("gloo" if kind.type == "cpu" else "cpu:gloo,cuda:nccl", timeout=PATIENCE)
    # a thread of gloo's that lets go of a tensor while the interpreter shuts down aborts the process: end them before
    atexit.register(_part)


def _part() -> None:
    """Leave the other processes, where that was not done yet."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def first(work: Callable[[], T]) -> T:
    """Work in the first process alone.

    Returns:
        What came of it, in every process: something that can be pickled.

    Raises:
        SecateursError: what the work raised; ``FailedElsewhere`` in the other processes.
    """
    if count() == 1 or _alone.get():
        return work()
    told: list[Any] = [None, False]
    failure = None
    if is_first():
        token = _alone.set(True)
        try:
            told[0] = work()
        except SecateursError as error:
            failure, told[1] = error, True
        finally:
            _alone.reset(token)
    distributed.broadcast_object_list(told, src=0, device=torch.device("cpu"))
    if told[1]:
        raise failure or FailedElsewhere()
    return told[0]


def together(work: Callable[[], T]) -> T:
    """Work in every process; where one fails, all do.

    Raises:
        SecateursError: what the work raised in the lowest process that failed; ``FailedElsewhere`` in the others.
    """
    if count() == 1:
        return work()
    result, failure = None, None
    try:
        result = work()
    except SecateursError as error:
        failure = error
    failed: list[Any] = [None] * count()
    distributed.all_gather_object(failed, failure is not None)
    if any(failed):
        raise failure if failure and failed.index(True) == distributed.get_rank() else FailedElsewhere()
    return result  # pyright: ignore[reportReturnType]: without a failure it is the work's
