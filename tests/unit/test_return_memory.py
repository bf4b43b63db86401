"""Freed blocks between used ones are given back to the system."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from secateurs.return_memory import return_memory


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and trims the heap of glibc")
def test_free_blocks_between_used_ones_are_returned() -> None:
    block = 2**16  # below the size from which glibc maps blocks on their own
    blocks = [torch.ones(block, dtype=torch.uint8) for _ in range(4000)]
    used = blocks[::2]
    del blocks
    before = resident()
    return_memory()
    assert before - resident() > 0.3 * 2000 * block
    assert all(bool(one.all()) for one in used)
