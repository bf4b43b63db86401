"""Runs of several processes, started by torchrun: all processes train, and the first process does everything else.

Every process loads the model and the data and goes through the same pipeline. Work that must give the same result in
every process, or that must be done only once (measure, evaluate, write), is done by the first process, while the others
wait for its result.
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

TIMEOUT = timedelta(days=7)
"""How long the other processes wait for the first. It is long because a search may take hours; when one process dies, the
launcher ends all of them."""

_inside_first: ContextVar[bool] = ContextVar("inside_first", default=False)
"""True while this process runs work given to ``first``: the other processes wait, so nested calls must not communicate."""


def count() -> int:
    """Number of processes of this run; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if {"LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys() else 1


def is_first() -> bool:
    """Whether this is the first process (rank 0), which measures, evaluates, writes and prints."""
    return count() == 1 or os.environ["RANK"] == "0"


def join(device: str) -> None:
    """Join the process group until this process ends; each process uses the GPU with the number of its local rank.

    A run of one process does nothing here.

    Args:
        device: name of the device without an index, such as ``"cuda"`` or ``"cpu"``.

    Raises:
        RecipeError: ``device`` has an index, so that all processes would share one GPU.
    """
    if count() == 1 or distributed.is_initialized():
        return
    kind = torch.device(device)
    if kind.index is not None:
        raise RecipeError(f"{count()} processes cannot share {device}; name the device as {kind.type}")
    if kind.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("gloo" if kind.type == "cpu" else "cpu:gloo,cuda:nccl", timeout=TIMEOUT)
    # A gloo thread that frees a tensor while the interpreter shuts down aborts the process: end these threads before.
    atexit.register(_leave)


def _leave() -> None:
    """Leave the process group, if this process is still in it."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def first(work: Callable[[], T]) -> T:
    """Run ``work`` in the first process and give its result to all processes.

    Args:
        work: a function without arguments whose result can be pickled. Every process must call ``first`` with it.

    Returns:
        The result of ``work``, in every process.

    Raises:
        SecateursError: what ``work`` raised, in the first process; ``FailedElsewhere`` in the other processes.
    """
    if count() == 1 or _inside_first.get():
        return work()
    message: list[Any] = [None, False]  # the result, and whether the work failed
    failure = None
    if is_first():
        token = _inside_first.set(True)
        try:
            message[0] = work()
        except SecateursError as error:
            failure, message[1] = error, True
        finally:
            _inside_first.reset(token)
    distributed.broadcast_object_list(message, src=0, device=torch.device("cpu"))
    if message[1]:
        raise failure or FailedElsewhere()
    return message[0]


def together(work: Callable[[], T]) -> T:
    """Run ``work`` in every process; if it fails in one process, this call fails in all of them.

    Args:
        work: a function without arguments.

    Returns:
        The result of ``work`` in this process.

    Raises:
        SecateursError: what ``work`` raised, in the failed process of lowest rank; ``FailedElsewhere`` in the others.
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
    return result  # pyright: ignore[reportReturnType]: without a failure it is the result of the work
