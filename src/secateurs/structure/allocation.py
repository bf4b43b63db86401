"""``Allocation``: how many units of each group are kept."""

from __future__ import annotations

__all__ = ["Allocation"]

Allocation = dict[str, int]
"""Group name -> number of units kept. An allocation says how many units are kept, a ``Mask`` says which ones.

The latency and the parameter count of a pruned model depend on the allocation alone."""
