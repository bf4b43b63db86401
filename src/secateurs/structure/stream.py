"""``Stream``: the residual stream of a model, whose dimensions are units of the full model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from secateurs.errors import UnsupportedModelError
from secateurs.structure.cut import Cut

__all__ = ["Stream"]


@dataclass(frozen=True)
class Stream:
    """The residual stream: one unit is one dimension of the hidden size.

    A dimension contributes nothing when all writers are zero there *and* the norms leave it out of their statistics. The
    second condition is needed because a dimension of zeros changes the mean and the variance of a norm.

    Args:
        size: number of dimensions now present, at least 1.
        cuts: every parameter slice that is removed with a dimension, those of task heads included. A parameter that has
            two names (tied embeddings) is listed under both.
        writers: ``(parameter, dim)`` of every parameter that is added to the stream or replaces it: embeddings, output
            and down projections with their biases, and post-LN norms, whose output *is* the stream. Each of them is in
            ``cuts`` too.
        norms: paths of the norms that normalise over the stream.
        optional: paths of modules of the base model that exist under some task heads only, such as a pooler.
        name: key of the stream in masks, sizes and counts.
    """

    size: int
    cuts: tuple[Cut, ...]
    writers: tuple[tuple[str, int], ...]
    norms: tuple[str, ...]
    optional: tuple[str, ...] = ()
    name: str = "hidden"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UnsupportedModelError(f"the residual stream has size {self.size}; it needs at least one dimension")
        if loose := set(self.writers) - {(cut.parameter, cut.dim) for cut in self.cuts}:
            raise UnsupportedModelError(f"writers of the residual stream that are not cut with it: {sorted(loose)[:4]}")

    def prefixed(self, prefix: str) -> Stream:
        """The same stream with ``prefix`` in front of every path."""
        return replace(
            self,
            cuts=tuple(replace(cut, parameter=prefix + cut.parameter) for cut in self.cuts),
            writers=tuple((prefix + parameter, dim) for parameter, dim in self.writers),
            norms=tuple(prefix + norm for norm in self.norms),
            optional=tuple(prefix + path for path in self.optional),
        )
