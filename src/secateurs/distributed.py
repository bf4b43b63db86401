"""Runs of several processes, started by torchrun: all processes train, and the first process does everything else.

Every process loads the model and the data and goes through the same pipeline. Work that must give the same result in
every process, or that must be done only once (measure, evaluate, write), is done by the first process, while the others
wait for its result.

Torch is imported when processes communicate: messages on the terminal, which ask ``is_first``, appear without it.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from threading import Event, Thread
from typing import Any, TypeVar

from secateurs.errors import FailedElsewhere, RecipeError, SecateursError

__all__ = ["count", "first", "is_first", "join", "together"]

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for another one, or for a sign of life of it, before it ends."""

SIGN_SECONDS = 60.0
"""While the first process works, which may take hours, it sends the others a sign of life after every so many seconds."""

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
    if count() == 1:
        return
    import torch
    from torch import distributed

    if distributed.is_initialized():
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
    from torch import distributed

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
    if not is_first():
        return _wait()
    token = _inside_first.set(True)
    result, failure = None, None
    try:
        with _signs_of_life():
            result = work()
    except SecateursError as error:
        failure = error
    finally:
        _inside_first.reset(token)
    _broadcast([True, failure is not None, result])
    if failure:
        raise failure
    return result  # pyright: ignore[reportReturnType]: without a failure it is the result of the work


def _broadcast(message: list[Any]) -> None:
    """Send a message of the first process to the others, in place.

    Args:
        message: whether it is the last one, whether the work failed, and the result of the work.
    """
    import torch
    from torch import distributed

    distributed.broadcast_object_list(message, src=0, device=torch.device("cpu"))


def _wait() -> Any:
    """The result of the first process.

    Raises:
        FailedElsewhere: its work failed.
        SecateursError: it has ended, or sends no signs of life.
    """
    message: list[Any] = [False, False, None]
    while not message[0]:
        try:
            _broadcast(message)
        except RuntimeError as error:  # torch's errors of connections and timeouts
            raise SecateursError(
                f"the first process of this run has ended, or was silent for {TIMEOUT.total_seconds() / 60:g} minutes "
                f"({str(error).strip().splitlines()[0]}); start the run again with --resume"
            ) from error
    if message[1]:
        raise FailedElsewhere()
    return message[2]


@contextmanager
def _signs_of_life() -> Iterator[None]:
    """Tell the other processes from time to time, in a thread, that this one is still at work."""
    ended = Event()

    def tell() -> None:
        with suppress(RuntimeError):  # another process has ended: the message with the result will meet the same error
            while not ended.wait(SIGN_SECONDS):
                _broadcast([False, False, None])

    thread = Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


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
    from torch import distributed

    failed: list[Any] = [None] * count()
    distributed.all_gather_object(failed, failure is not None)
    if any(failed):
        raise failure if failure and failed.index(True) == distributed.get_rank() else FailedElsewhere()
    return result  # pyright: ignore[reportReturnType]: without a failure it is the result of the work
