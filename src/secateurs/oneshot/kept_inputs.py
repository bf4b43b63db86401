"""``KeptInput``: what an output projection read in one batch, so that its block need not run again once the group is fitted.

A fit chooses some of the units it is given and gives them new weights. What the projection reads for these units does not
change, so the output of the block follows from some of the columns: of the projection's input where the block ends in
front of the projection, and of the projection's output where the block ends behind it. Whether it ends at one of the two
is found out on every batch, by comparing numbers. A block that ends elsewhere runs again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from secateurs.structure.structure import Group

__all__ = ["KEPT_BYTES", "KeptInput"]

KEPT_BYTES = 2.0**30
"""Memory for the inputs of one output projection in all batches; the blocks of the other batches run again."""


@dataclass
class KeptInput:
    """One batch at the end of a block.

    Attributes:
        inputs: what the output projection read; ``None`` = it did not run.
        ends: ``"before"`` = the block returns what the projection reads, ``"behind"`` = what the projection returns,
            empty = neither.
        rest: what the block returned behind its first tensor, in a tuple; ``None`` = it returned a tensor.
    """

    inputs: Float[Tensor, "*tokens columns"] | None = None
    ends: str = ""
    rest: tuple[Any, ...] | None = field(default=None, repr=False)

    @classmethod
    @contextmanager
    def watched(cls, model: nn.Module, group: Group) -> Iterator[Self]:
        """Within the context, the next run of the layer fills what is yielded.

        Args:
            model: the live model.
            group: its output projection and its block are watched.
        """
        kept, seen = cls(), dict[str, Any]()

        def project(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            kept.inputs, seen["written"] = args[0], output
            if _equal(seen.get("returned"), args[0]):
                kept.ends = "before"

        def end(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            seen["returned"], kept.rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
            if _equal(seen["returned"], seen.get("written")):
                kept.ends = "behind"

        paths = (group.output_projection, project), (group.block, end)
        handles = [model.get_submodule(path).register_forward_hook(hook) for path, hook in paths]
        try:
            yield kept
        finally:
            for handle in handles:
                handle.remove()

    @property
    def serves(self) -> bool:
        """Whether the output of the block follows from the input of the projection, and from nothing large."""
        return bool(self.ends) and not any(isinstance(value, Tensor) for value in self.rest or ())

    def fitted(self, projection: nn.Module, columns: Int[Tensor, " kept"]) -> Any:
        """What the block returns with these columns of its input.

        Args:
            projection: the output projection as it is now, on these columns.
            columns: indices of columns.
        """
        assert self.inputs is not None
        inputs = self.inputs.index_select(-1, columns.to(self.inputs.device))
        output = inputs if self.ends == "before" else projection(inputs)
        return output if self.rest is None else (output, *self.rest)

    @property
    def nbytes(self) -> int:
        """Bytes of the input."""
        return 0 if self.inputs is None else self.inputs.nbytes


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.shape == other.shape and bool(torch.equal(one, other))
