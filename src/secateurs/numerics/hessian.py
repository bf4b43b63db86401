"""Second moments of the inputs of a linear module, accumulated over calibration batches, and the damped Hessian.

The output error ``||W' X - W X||_F^2`` of a linear module is a quadratic form in the Gram matrix ``X X^T`` of its inputs.
Products are computed in float32 for one chunk of tokens at a time and summed in float64 over the chunks, so that the sums
of millions of tokens stay accurate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float, Float64
from torch import Tensor

__all__ = ["Moments", "damped", "transposed_product"]

_CHUNK = 4096  # tokens per product: few enough for float32, enough for the matrix product to run at full speed
_PANEL = 512  # rows of the Gram matrix per product; the columns to the right of a panel are never computed


class Moments:
    """Running second moments of the inputs ``x`` of one linear module, over tokens ``t`` with weights ``w_t``.

    Attributes:
        total: ``sum_t w_t x_t``, float64.
        count: ``sum_t w_t``; without weights the number of tokens.
    """

    def __init__(self, size: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        """Start with sums of zero.

        Args:
            size: number of input features.
            dtype: dtype of the products within a chunk; float64 makes the sums exact to the last digit.
            device: device of the sums; the products are computed on the device of the inputs.
        """
        self._dtype = dtype
        self._lower = torch.zeros(size, size, dtype=torch.float64, device=device)  # upper triangle unused
        self.total: Float64[Tensor, " d"] = torch.zeros(size, dtype=torch.float64, device=device)
        self.count = 0.0

    @property
    def gram(self) -> Float64[Tensor, "d d"]:
        """``sum_t w_t x_t x_t^T``, symmetric to the last bit; a new tensor at each call."""
        return _mirrored(self._lower)

    def update(self, inputs: Float[Tensor, "tokens d"], weights: Float[Tensor, " tokens"] | None = None) -> None:
        """Add the inputs of a batch of tokens to the sums.

        Args:
            inputs: one row per token, in any floating-point dtype.
            weights: weight of each token, at least 0; ``None`` = weight 1. Rows of weight 0 (padding) are dropped before
                any arithmetic, so they may be NaN.

        Raises:
            ValueError: a weight is negative.
        """
        for chunk, chunk_weights in _chunks(inputs, weights):
            rows, here = chunk.to(self._dtype), self._lower.device
            summed = rows.sum(0, dtype=torch.float64) if chunk_weights is None else _weighted_sum(rows, chunk_weights)
            self.total += summed.to(here)
            if chunk_weights is not None:
                rows = rows * chunk_weights.to(rows).sqrt()[:, None]
            for start in range(0, rows.shape[1], _PANEL):
                stop = start + _PANEL
                self._lower[start:stop, :stop] += transposed_product(rows[:, start:stop], rows[:, :stop]).to(here)
            self.count += len(chunk) if chunk_weights is None else float(chunk_weights.sum(dtype=torch.float64))

    def centred(self) -> Float64[Tensor, "d d"]:
        """``gram - total total^T / count``: the Gram matrix for a module whose bias is refitted together with its weight.

        Raises:
            ValueError: no token was added yet.
        """
        _require_tokens(self.count)
        return self.gram - torch.outer(self.total, self.total) / self.count

    def state_dict(self) -> dict[str, Tensor]:
        """The sums as tensors that a safetensors file can store."""
        return {"gram": self.gram, "total": self.total.clone(), "count": torch.tensor(self.count, dtype=torch.float64)}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], *, dtype: torch.dtype = torch.float32) -> Moments:
        """Restore the moments that ``state_dict`` returned, on the device of its tensors."""
        moments = cls(len(state["total"]), dtype=dtype, device=state["total"].device)
        moments._lower += state["gram"]
        moments.total += state["total"]
        moments.count = float(state["count"])
        return moments


def damped(gram: Float[Tensor, "d d"], fraction: float = 1e-2) -> Float64[Tensor, "d d"]:
    """The damped Hessian ``gram + fraction * mean(diagonal) * I``, with the mean over the inputs that are not always zero.

    An input that is always zero gets 1 on the diagonal. Its weight must be treated as zero: the 1 would otherwise count
    the weight as a contribution to the output.

    Args:
        gram: second moments, plain or centred.
        fraction: damping relative to the mean diagonal; 1e-2 keeps the condition number near 3e4 on the Hessians of
            language models.

    Raises:
        ValueError: ``gram`` is not finite, or its diagonal is negative.
    """
    hessian = gram.detach().to(torch.float64, copy=True)
    diagonal = hessian.diagonal()
    if not bool(torch.isfinite(hessian).all()) or bool((diagonal < 0).any()):
        raise ValueError("the second moments are not finite, or a diagonal entry is negative")
    dead = diagonal == 0
    if bool((~dead).any()):
        diagonal += fraction * diagonal[~dead].mean()
    hessian[dead, :] = 0.0
    hessian[:, dead] = 0.0
    hessian[dead, dead] = 1.0
    return hessian


def _chunks(
    inputs: Float[Tensor, "tokens d"], weights: Float[Tensor, " tokens"] | None
) -> Iterator[tuple[Float[Tensor, "chunk d"], Float[Tensor, " chunk"] | None]]:
    inputs = inputs.detach()
    if weights is not None:
        weights = weights.detach().to(inputs.device)
        if bool((weights < 0).any()):
            raise ValueError("token weights must not be negative")
        kept = weights > 0
        inputs, weights = inputs[kept], weights[kept]
    for start in range(0, len(inputs), _CHUNK):
        yield inputs[start : start + _CHUNK], None if weights is None else weights[start : start + _CHUNK]


def transposed_product(left: Float[Tensor, "tokens m"], right: Float[Tensor, "tokens d"]) -> Float[Tensor, "m d"]:
    """``left^T right`` at the full precision of its dtype, independent of autocast and TF32 settings."""
    if left.device.type == "cpu":
        # NumPy's BLAS is fast on every processor; the BLAS in PyTorch's wheels is slow on processors it does not know.
        return torch.from_numpy(left.numpy().T @ right.numpy())
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(left.device.type, enabled=False):
            return left.T @ right
    finally:
        torch.set_float32_matmul_precision(precision)


def _weighted_sum(rows: Float[Tensor, "tokens d"], weights: Float[Tensor, " tokens"]) -> Float64[Tensor, " d"]:
    return weights.to(rows.device, torch.float64) @ rows.to(torch.float64)


def _mirrored(lower: Float64[Tensor, "d d"]) -> Float64[Tensor, "d d"]:
    return lower.tril() + lower.tril(-1).T


def _require_tokens(count: float) -> None:
    if count <= 0:
        raise ValueError("no token was added to the moments yet")
