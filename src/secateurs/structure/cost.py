"""``ParameterCost``: the number of parameters of a model as a function of its kept counts.

Like ``LatencyTable`` it takes ``counts`` (group name -> kept units; ints, floats or tensors) and is differentiable in
them. One object therefore serves an exact knapsack and a gate regulariser.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from secateurs.structure.structure import Structure

__all__ = ["Cost", "Count", "ParameterCost", "TimeCost", "matrix_shape", "share_of_zeros"]

Count = int | float | Tensor
"""A number of units: an exact number, or a differentiable expectation."""


class Cost(Protocol):
    """The cost of a model as a function of its kept counts, in parameters or in milliseconds."""

    unit: ClassVar[str]
    """``"parameters"`` or ``"ms"``."""

    @property
    def fixed(self) -> float:
        """The part of the cost that no cut can remove."""
        ...

    @property
    def largest_speedup(self) -> float:
        """The speed-up with every unit removed; 1 where the cost is not a time."""
        ...

    def __call__(self, counts: Mapping[str, Count]) -> Count:
        """The cost of a model with these kept counts."""
        ...

    def expected(self, present: Mapping[str, Count], counts: Mapping[str, Count]) -> Count:
        """The expected cost of a model with gates.

        Args:
            present: group name -> probability that the group is kept at all.
            counts: group name -> expected kept units, given that the group is kept.
        """
        ...

    def multiple(self, name: str) -> int:
        """The multiple to which the width of a group is best rounded, in units."""
        ...

    def group_cost(self, name: str, kept: int) -> float:
        """The cost of one group at ``kept`` units."""
        ...


class TimeCost(Cost, Protocol):
    """A cost in milliseconds that was measured in one environment."""

    @property
    def dense_ms(self) -> float:
        """Latency of the dense model, in milliseconds."""
        ...

    @property
    def environment(self) -> object:
        """The environment in which it was measured; its ``str`` appears in messages."""
        ...


@dataclass(frozen=True)
class ParameterCost:
    """Number of parameters, computed from the cuts alone.

    A cut parameter has ``prod over dims (size_d - sum over groups of width * (group size - kept))`` entries. The count is
    therefore multilinear in the kept counts, and equals the parameter count of the shrunk model exactly.

    Args:
        fixed: number of parameters that no cut touches.
        shapes: name of a cut parameter -> its shape at full size.
        cuts: parameter name -> ``(dim, name of the group or stream, width)`` of every cut of the parameter.
        sizes: name of the group or stream -> number of units at full size.
        stream: name of the stream, if the hidden size is pruned; otherwise ``None``.
        products: name of a group of ranks -> parameter names of its pair of factors, first and second. The pair counts
            as one matrix where one matrix has fewer entries.
        dense_prunable: prunable parameters of the dense model, if the dense model has other shapes than this model (one
            matrix in the place of a pair of factors). ``None`` = this model at full size.
        low_rank_options: name of a group of ranks whose matrix is not factorised -> ``(outputs, inputs)`` of the matrix.
            At a lower rank it has ``rank * (outputs + inputs)`` entries, where that is fewer.
    """

    fixed: int
    shapes: Mapping[str, tuple[int, ...]]
    cuts: Mapping[str, tuple[tuple[int, str, int], ...]]
    sizes: Mapping[str, int]
    stream: str | None = None
    products: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    dense_prunable: int | None = None
    low_rank_options: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])

    @classmethod
    def of(cls, model: nn.Module, structure: Structure, dense: nn.Module | None = None) -> ParameterCost:
        """The parameter cost of a model. Tied parameters count once.

        Args:
            model: the model at full size.
            structure: what can be removed from it.
            dense: the model that sparsities refer to, if it is another one.
        """
        cuts: dict[str, list[tuple[int, str, int]]] = {}
        for owner in (*structure.without_low_rank_options(), *([structure.stream] if structure.stream else [])):
            for cut in owner.cuts:
                cuts.setdefault(cut.parameter, []).append((cut.dim, owner.name, cut.width))
        named = dict(model.named_parameters())
        shapes = {name: tuple(named[name].shape) for name in cuts if name in named}
        fixed = sum(parameter.numel() for name, parameter in named.items() if name not in shapes)
        pairs = [group for group in structure.without_low_rank_options() if group.product]
        products = {group.name: (f"{group.product}.first.weight", group.output_cut.parameter) for group in pairs}
        low_rank_options = {group.name: matrix_shape(model, group.product) for group in structure.low_rank_options}
        dense_prunable = None if dense is None else sum(parameter.numel() for parameter in dense.parameters()) - fixed
        return cls(fixed, shapes, {name: tuple(cuts[name]) for name in shapes}, structure.sizes,
            structure.stream.name if structure.stream else None, products, dense_prunable, low_rank_options,
        )  # fmt: skip

    unit: ClassVar[str] = "parameters"

    @property
    def largest_speedup(self) -> float:
        """Always 1: a parameter count says nothing about time."""
        return 1.0

    def multiple(self, name: str) -> int:
        """Always 1: every single unit lowers the parameter count."""
        return 1

    def group_cost(self, name: str, kept: int) -> float:
        """Entries of the parameters that one group cuts, with ``kept`` units of it and all other groups at full size.

        No parameter is cut by two groups.
        """
        own = [parameter for parameter, cuts in self.cuts.items() if any(owner == name for _, owner, _ in cuts)]
        part = ParameterCost(
            0, {key: self.shapes[key] for key in own}, {key: self.cuts[key] for key in own}, self.sizes
        )
        return float(part.prunable({**self.sizes, name: kept}))

    def __call__(self, counts: Mapping[str, Count]) -> Count:
        """Number of parameters of the model with these kept counts."""
        return self.fixed + self.prunable(counts)

    def prunable(self, counts: Mapping[str, Count]) -> Count:
        """Entries of the parameters that some cut touches. For those of groups alone see ``of_groups``."""
        return self._entries(counts, multiplied=True)

    def _entries(self, counts: Mapping[str, Count], *, multiplied: bool) -> Count:
        """Entries of all cut parameters.

        Args:
            counts: group name -> kept units.
            multiplied: count a pair of factors as one matrix where that is smaller; otherwise as two matrices.
        """
        extents = {name: self._extent(name, counts) for name in self.shapes}
        total: Count = 0
        for first, second in self.products.values() if multiplied else ():
            pair, columns, rows = (extents.pop(first), extents.pop(second)), 1, 0  # rank x inputs, outputs x rank
            apart = sum(math.prod(extent) for extent in pair)
            total = total + min(apart, pair[0][columns] * pair[1][rows])
        for extent in extents.values():
            total = total + math.prod(extent)
        for name, (outputs, inputs) in self.low_rank_options.items():
            total = total + min(0, counts.get(name, self.sizes[name]) * (outputs + inputs) - outputs * inputs)
        return total

    def _extent(self, name: str, counts: Mapping[str, Count]) -> list[Count]:
        extent: list[Count] = list(self.shapes[name])
        for dim, group, width in self.cuts[name]:
            extent[dim] = extent[dim] - width * (self.sizes[group] - counts[group])
        return extent

    def expected(self, present: Mapping[str, Count], counts: Mapping[str, Count]) -> Count:
        """Expected number of parameters of a model with gates.

        The value is exact: the gates of different groups are independent, and the expectation of a product of independent
        counts is the product of the expectations. A pair of factors always counts as two matrices: counted as one matrix
        above the break-even rank, it would give its gates no gradient there.

        Args:
            present: group name -> probability that the group is kept at all; 1 for names that are missing (the stream).
            counts: group name -> expected kept units, given that the group is kept.
        """
        kept = {name: present.get(name, 1) * counts[name] for name in self.sizes}
        return self.fixed + self._entries(kept, multiplied=False)

    @property
    def dense(self) -> float:
        """Prunable parameters of the dense model."""
        return float(self.prunable(self.sizes)) if self.dense_prunable is None else float(self.dense_prunable)

    def sparsity(self, counts: Mapping[str, Count]) -> Count:
        """Removed fraction of the prunable parameters of the groups (without the stream), in [0, 1]."""
        own = self.of_groups()
        return 1 - own.prunable(counts) / own.dense

    def expected_sparsity(self, present: Mapping[str, Count], counts: Mapping[str, Count]) -> Count:
        """Expected ``sparsity`` of a model with gates; for the arguments see ``expected``."""
        own = self.of_groups()
        return 1 - (own.expected(present, counts) - own.fixed) / own.dense

    def of_groups(self) -> ParameterCost:
        """The cost of the groups alone: embeddings, norms and heads count at full size, as if the stream did not cut them.

        Sparsities refer to the matrices and biases of attention and feed-forward blocks, whether or not the hidden
        size is pruned.
        """
        if self.stream is None:
            return self
        names = [name for name, cuts in self.cuts.items() if any(owner != self.stream for _, owner, _ in cuts)]
        rest = sum(math.prod(shape) for name, shape in self.shapes.items() if name not in names)
        shapes = {name: self.shapes[name] for name in names}
        cuts = {name: self.cuts[name] for name in names}
        dense = None if self.dense_prunable is None else self.dense_prunable - rest
        return replace(self, fixed=self.fixed + rest, shapes=shapes, cuts=cuts, stream=None, dense_prunable=dense)


def matrix_shape(model: nn.Module, path: str) -> tuple[int, int]:
    """``(outputs, inputs)`` of the linear module at ``path``, a ``Linear`` or a transposed ``Conv1D``."""
    module: Any = model.get_submodule(path)
    rows, columns = module.weight.shape
    return (columns, rows) if hasattr(module, "nf") else (rows, columns)


def share_of_zeros(model: nn.Module, structure: Structure) -> float:
    """Fraction of the entries of all cut parameters that are exactly 0, in [0, 1].

    Args:
        model: a model with the parameter names of ``structure``, dense or shrunk. A pair of factors may have become one
            matrix again.
        structure: the groups, which name the parameters.
    """
    named = dict(model.named_parameters())
    names = {cut.parameter for group in structure for cut in group.cuts}
    names |= {f"{group.product}.weight" for group in structure if group.product}
    values = [named[name].detach() for name in names if name in named]
    entries = sum(value.numel() for value in values)
    return sum(int((value == 0).sum()) for value in values) / entries if entries else 0.0
