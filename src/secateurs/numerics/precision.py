"""bfloat16 matrix products for work that tolerates rounding: training, and the comparison of candidates.

A forward pass is 3.2 times as fast in bfloat16 as in float32 on processors with bfloat16 instructions (see
``benchmarks/LOG.md``). Under autocast, weights, sums and norms stay in float32. In that measurement bfloat16 changed a
model's outputs by a divergence of 1e-5, which is less than the differences between candidates. Numbers that are reported
to the user (metrics, divergences) are always computed without it.
"""

from __future__ import annotations

import torch

__all__ = ["autocast_if_fast", "native_bfloat16"]


def native_bfloat16(device: torch.device | str) -> bool:
    """Whether the device multiplies bfloat16 matrices faster than float32 matrices."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if torch.device(device).type == "cpu":
        features = getattr(torch.cpu, "get_capabilities", dict)()  # missing in older PyTorch: then False
        return bool(features.get("avx512_bf16") or features.get("amx_bf16") or features.get("bf16"))
    return False


def autocast_if_fast(device: torch.device | str) -> torch.autocast:
    """Autocast to bfloat16 on devices where that is faster, a context without effect on other devices."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=native_bfloat16(device))
