"""Arithmetic for what need not be exact: comparing candidates, and training.

Matrix products in bfloat16 are faster than in float32 where the processor has them (a forward pass: 3.2 times, see
``benchmarks/LOG.md``). Under autocast the weights, sums and norms stay in float32. Computing so moved the outputs of a
model by a divergence of 1e-5 there, less than the differences that decide; what a user reads (metrics, divergences) is
never computed so.
"""

from __future__ import annotations

import torch

__all__ = ["fast", "native_bfloat16"]


def native_bfloat16(device: torch.device | str) -> bool:
    """Whether the device multiplies bfloat16 matrices faster than float32 ones."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if torch.device(device).type == "cpu":
        features = getattr(torch.cpu, "get_capabilities", dict)()  # older ones cannot be asked
        return bool(features.get("avx512_bf16") or features.get("amx_bf16") or features.get("bf16"))
    return False


def fast(device: torch.device | str) -> torch.autocast:
    """Autocast to bfloat16 where that is faster; elsewhere a context that changes nothing."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=native_bfloat16(device))
