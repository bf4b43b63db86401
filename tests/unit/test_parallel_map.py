"""``parallel_map``: order of results, threads, errors, and equality with sequential calls."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from secateurs.numerics.obs import elimination_order
from secateurs.numerics.parallel_map import parallel_map


def test_keeps_the_order_of_the_items_and_runs_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=30)  # passed only by two calls at the same time

    def work(item: int) -> int:
        meeting.wait()
        return item * item

    assert list(parallel_map(work, [3, 1, 2, 0], threads=2)) == [9, 1, 4, 0]


def test_parallel_calls_have_one_blas_thread() -> None:
    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    with threadpool_limits(2):
        before = threads()
        assert list(parallel_map(lambda _: threads(), range(3), threads=2)) == [{1}] * 3
        assert threads() == before


def test_an_error_reaches_the_caller_and_cancels_the_rest() -> None:
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"):
        list(parallel_map(work, range(1000), threads=2))
    assert len(begun) < 1000


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_parallel_eliminations_equal_sequential_ones(threads: int) -> None:
    generator = np.random.default_rng(0)
    problems = []
    for _ in range(5):
        inputs = generator.standard_normal((200, 48))
        problems.append((torch.from_numpy(generator.standard_normal((16, 48))), torch.from_numpy(inputs.T @ inputs)))
    found = [result.order.tolist() for result in parallel_map(lambda pair: elimination_order(*pair), problems, threads)]
    assert found == [elimination_order(*pair).order.tolist() for pair in problems]
