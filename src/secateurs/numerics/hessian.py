"""Centred second moments of the inputs of a linear module, accumulated over calibration batches, and the damped Hessian.

The output error ``||W' X - W X||_F^2`` of a linear module is a quadratic form in the Gram matrix ``X X^T`` of its inputs, or
in their centred Gram matrix if the bias is refitted together with the weight.

Every chunk of tokens is centred on its own mean before the products, and chunks are merged by the update of Chan, Golub and
LeVeque (1983), ``M + M' + n n' / (n + n') d d^T`` with ``d`` the difference of the two means. All terms are positive
semi-definite, so no variance can become negative, and the variance of a constant input is exactly zero. Products are computed
in float32 for one chunk of tokens at a time and summed in float64 over the chunks, so that the sums of millions of tokens
stay accurate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

__all__ = ["CentredRows", "Moments", "centred_rows", "damped", "transposed_product"]

_CHUNK = 4096  # tokens per product: few enough for float32, enough for the matrix product to run at full speed
_PANEL = 512  # rows of the Gram matrix per product; the columns to the right of a panel are not stored
_ROUNDING = 8.0  # an input whose standard deviation is below this number of rounding errors of its mean is constant


@dataclass(frozen=True)
class CentredRows:
    """One chunk of tokens around its own mean.

    Attributes:
        rows: ``sqrt(w_t) (x_t - mean)``.
        mean: weighted mean of the chunk.
        count: sum of the weights.
    """

    rows: Float[Tensor, "tokens d"]
    mean: Float64[Tensor, " d"]
    count: float


class Moments:
    """Running centred second moments of the inputs ``x`` of one linear module, over tokens ``t`` with weights ``w_t``.

    Attributes:
        mean: ``sum_t w_t x_t / sum_t w_t``, float64; zero before the first token.
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
        self._panels = [
            torch.zeros(
                min(start + _PANEL, size) - start, min(start + _PANEL, size), dtype=torch.float64, device=device
            )
            for start in range(0, size, _PANEL)
        ]
        self.mean: Float64[Tensor, " d"] = torch.zeros(size, dtype=torch.float64, device=device)
        self.count = 0.0

    @property
    def total(self) -> Float64[Tensor, " d"]:
        """``sum_t w_t x_t``."""
        return self.mean * self.count

    @property
    def gram(self) -> Float64[Tensor, "d d"]:
        """``sum_t w_t x_t x_t^T``, symmetric to the last bit; a new tensor at each call."""
        return self._symmetric().add_(torch.outer(self.mean, self.mean), alpha=self.count)

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
            self.add(centred_rows(chunk.to(self._dtype), chunk_weights))

    def add(self, centred: CentredRows) -> None:
        """Add one chunk of tokens, centred on its own mean."""
        rows, here, count = centred.rows, self.mean.device, centred.count
        step = centred.mean.to(here) - self.mean
        scaled = step * (self.count * count / (self.count + count))
        for start, panel in zip(range(0, rows.shape[1], _PANEL), self._panels, strict=True):
            stop = start + _PANEL
            panel += transposed_product(rows[:, start:stop], rows[:, :stop]).to(here)
            if self.count:
                panel += torch.outer(scaled[start:stop], step[:stop])
        self.count += count
        self.mean = self.mean + step * (count / self.count)

    def centred(self) -> Float64[Tensor, "d d"]:
        """``sum_t w_t (x_t - mean) (x_t - mean)^T``: the Gram matrix for a module whose bias is refitted with its weight.

        Its diagonal is never negative.

        Raises:
            ValueError: no token was added yet.
        """
        _require_tokens(self.count)
        return self._symmetric()

    def dead(self, *, centred: bool) -> Bool[Tensor, " d"]:
        """Inputs on which the output error does not depend.

        Args:
            centred: whether the bias is refitted. With it an input is dead if it is constant: its standard deviation is at
                most a few rounding errors of its mean. Without it an input is dead if it is always zero.
        """
        diagonal = torch.cat([panel.diagonal(panel.shape[1] - panel.shape[0]) for panel in self._panels])
        variance = diagonal / max(self.count, torch.finfo(torch.float64).tiny)
        if centred:
            return variance <= (_ROUNDING * torch.finfo(self._dtype).eps * self.mean).square()
        return (variance == 0) & (self.mean == 0)

    def _symmetric(self) -> Float64[Tensor, "d d"]:
        """The whole matrix from the panels of its lower triangle; a new tensor."""
        whole = self.mean.new_empty(len(self.mean), len(self.mean))
        for start, panel in zip(range(0, len(self.mean), _PANEL), self._panels, strict=True):
            stop = start + len(panel)
            whole[start:stop, :start] = panel[:, :start]
            whole[:start, start:stop] = panel[:, :start].T
            square = panel[:, start:]
            whole[start:stop, start:stop] = square.tril() + square.tril(-1).T
        return whole

    @staticmethod
    def bytes_for(size: int) -> int:
        """Bytes of the sums over ``size`` input features."""
        return 8 * sum(min(_PANEL, size - start) * min(start + _PANEL, size) for start in range(0, size, _PANEL))

    def state_dict(self) -> dict[str, Tensor]:
        """The sums as tensors that a safetensors file can store."""
        return {
            "centred": self._symmetric(),
            "mean": self.mean.clone(),
            "count": torch.tensor(self.count, dtype=torch.float64),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], *, dtype: torch.dtype = torch.float32) -> Moments:
        """Restore the moments that ``state_dict`` returned, on the device of its tensors.

        Raises:
            ValueError: the state was written before moments were centred.
        """
        if "gram" in state:
            raise ValueError("an earlier version wrote it, without centred moments")
        moments = cls(len(state["mean"]), dtype=dtype, device=state["mean"].device)
        for start, panel in zip(range(0, len(moments.mean), _PANEL), moments._panels, strict=True):
            panel += state["centred"][start : start + _PANEL, : panel.shape[1]]
        moments.mean += state["mean"]
        moments.count = float(state["count"])
        return moments


def damped(
    gram: Float[Tensor, "d d"], fraction: float = 1e-2, dead: Bool[Tensor, " d"] | None = None
) -> Float64[Tensor, "d d"]:
    """The damped Hessian ``gram + fraction * mean(diagonal) * I``, with the mean over the inputs that are not dead.

    A dead input gets 1 on the diagonal and zeros elsewhere in its row and column. Its weight must be treated as zero: the 1
    would otherwise count the weight as a contribution to the output. ``elimination_order`` and ``LevelFactor`` therefore take
    the same mask.

    Args:
        gram: second moments, plain or centred.
        fraction: damping relative to the mean diagonal; 1e-2 keeps the condition number near 3e4 on the Hessians of
            language models.
        dead: mask of the dead inputs (``Moments.dead``); inputs with zero on the diagonal are dead in any case.

    Raises:
        ValueError: ``gram`` is not finite, or its diagonal is negative.
    """
    hessian = gram.detach().to(torch.float64, copy=True)
    diagonal = hessian.diagonal()
    if not bool(torch.isfinite(hessian).all()) or bool((diagonal < 0).any()):
        raise ValueError("the second moments are not finite, or a diagonal entry is negative")
    none = diagonal == 0
    dead = none if dead is None else none | dead.to(none)
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
        if not bool(kept.all()):
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


def centred_rows(rows: Float[Tensor, "tokens d"], weights: Float[Tensor, " tokens"] | None) -> CentredRows:
    """Rows minus their mean, times the root of their weights.

    The median of three rows is subtracted before the mean is taken, so that a constant column is exactly 0. It is not a
    single row, because that of a first token may be a thousand times larger than the others, which would then lose digits.
    The mean is in the precision of the rows: the error of a variance is less than the rounding error of the inputs, squared.

    Args:
        rows: one row per token, at least one.
        weights: weight of each token, more than 0; ``None`` = 1.
    """
    last = len(rows) - 1
    middle = rows[[0, last // 2, last]].median(0).values
    shifted = rows - middle
    if weights is None:
        count = float(len(rows))
        mean = shifted.mean(0)
    else:
        count = float(weights.sum(dtype=torch.float64))
        share = weights.to(rows.device, torch.float64) / count
        mean = share.to(rows.dtype) @ shifted
    shifted -= mean
    if weights is not None:
        shifted *= weights.to(shifted).sqrt()[:, None]
    return CentredRows(shifted, middle.double() + mean.double(), count)


def _require_tokens(count: float) -> None:
    if count <= 0:
        raise ValueError("no token was added to the moments yet")
