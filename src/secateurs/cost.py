"""``ParameterCost``: how many parameters a model has as a function of its kept counts.

Like ``LatencyTable`` it takes ``counts`` (group name -> kept units; ints, floats or tensors) and is differentiable in them,
so that the same object serves an exact knapsack and a gate regulariser.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import nn

from secateurs.latency_curve import Count
from secateurs.structure import Structure

__all__ = ["ParameterCost", "matrix_shape"]


@dataclass(frozen=True)
class ParameterCost:
    """Number of parameters, read off the cuts alone.

    A parameter that ``n`` groups cut has ``prod over dims (size_d - sum of width * (group size - kept))`` entries: the
    count is multilinear in the kept counts, and equals the real parameter count of the shrunk model exactly.

    Args:
        fixed: parameters that no cut touches.
        shapes: the shape of every cut parameter, by name.
        cuts: parameter name -> ``(dim, group or stream, width)`` of every cut on it.
        sizes: name of the group or stream -> units now present.
        stream: name of the stream, if its dimensions are units too.
        products: ranks -> their pair of factors, which is one matrix where that has fewer entries.
        whole: prunable parameters of the dense model, where it is built otherwise (of one matrix in place of a pair).
        alternatives: ranks of a matrix that is still whole -> its ``(outputs, inputs)``. Split, it has ``rank (outputs +
            inputs)`` entries, where that is less.
    """

    fixed: int
    shapes: Mapping[str, tuple[int, ...]]
    cuts: Mapping[str, tuple[tuple[int, str, int], ...]]
    sizes: Mapping[str, int]
    stream: str | None = None
    products: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    whole: int | None = None
    alternatives: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])

    @classmethod
    def of(cls, model: nn.Module, structure: Structure, dense: nn.Module | None = None) -> ParameterCost:
        """Read the table of a model; tied parameters count once.

        Args:
            model: of the structure.
            structure: what can go.
            dense: what sparsities refer to, if that is another model.
        """
        cuts: dict[str, list[tuple[int, str, int]]] = {}
        for owner in (*structure.without_alternatives(), *([structure.stream] if structure.stream else [])):
            for cut in owner.cuts:
                cuts.setdefault(cut.parameter, []).append((cut.dim, owner.name, cut.width))
        named = dict(model.named_parameters())
        shapes = {name: tuple(named[name].shape) for name in cuts if name in named}
        fixed = sum(parameter.numel() for name, parameter in named.items() if name not in shapes)
        pairs = [group for group in structure.without_alternatives() if group.product]
        products = {group.name: (f"{group.product}.first.weight", group.reader_cut.parameter) for group in pairs}
        alternatives = {group.name: matrix_shape(model, group.product) for group in structure.alternatives}
        whole = None if dense is None else sum(parameter.numel() for parameter in dense.parameters()) - fixed
        return cls(fixed, shapes, {name: tuple(cuts[name]) for name in shapes}, structure.sizes,
            structure.stream.name if structure.stream else None, products, whole, alternatives,
        )  # fmt: skip

    largest_speedup: ClassVar[float] = 1.0
    """Fewer parameters promise no time."""

    def multiple(self, name: str) -> int:
        """Every unit counts."""
        return 1

    def group_cost(self, name: str, kept: int) -> float:
        """Parameters that one group cuts, at ``kept`` units, all others as they are. Groups of one model share none."""
        own = [parameter for parameter, cuts in self.cuts.items() if any(owner == name for _, owner, _ in cuts)]
        part = ParameterCost(
            0, {key: self.shapes[key] for key in own}, {key: self.cuts[key] for key in own}, self.sizes
        )
        return float(part.prunable({**self.sizes, name: kept}))

    def __call__(self, counts: Mapping[str, Count]) -> Count:
        """Parameters left when ``counts`` units are kept."""
        return self.fixed + self.prunable(counts)

    def prunable(self, counts: Mapping[str, Count]) -> Count:
        """Of those, the entries of parameters that some cut touches (of a group: see ``of_groups``)."""
        return self._entries(counts, multiplied=True)

    def _entries(self, counts: Mapping[str, Count], *, multiplied: bool) -> Count:
        """Of all that is cut, pairs of factors counted as they are, or as one matrix where that is smaller."""
        extents = {name: self._extent(name, counts) for name in self.shapes}
        total: Count = 0
        for first, second in self.products.values() if multiplied else ():
            pair, columns, rows = (extents.pop(first), extents.pop(second)), 1, 0  # rank x inputs, outputs x rank
            apart = sum(math.prod(extent) for extent in pair)
            total = total + min(apart, pair[0][columns] * pair[1][rows])
        for extent in extents.values():
            total = total + math.prod(extent)
        for name, (outputs, inputs) in self.alternatives.items():
            total = total + min(0, counts.get(name, self.sizes[name]) * (outputs + inputs) - outputs * inputs)
        return total

    def _extent(self, name: str, counts: Mapping[str, Count]) -> list[Count]:
        extent: list[Count] = list(self.shapes[name])
        for dim, group, width in self.cuts[name]:
            extent[dim] = extent[dim] - width * (self.sizes[group] - counts[group])
        return extent

    def expected(self, present: Mapping[str, Count], counts: Mapping[str, Count]) -> Count:
        """Expected parameters when a group is there with probability ``present`` and then has ``counts`` units.

        What ``present`` does not name (the stream) is always there.

        All that groups decide independently of each other; a product of independent counts has the product of the
        expectations, so this is exact. A pair of factors counts as two matrices, whatever its rank: a count that stood
        still above break-even would tell gates nothing.
        """
        kept = {name: present.get(name, 1) * counts[name] for name in self.sizes}
        return self.fixed + self._entries(kept, multiplied=False)

    @property
    def dense(self) -> float:
        """Prunable parameters of the dense model."""
        return float(self.prunable(self.sizes)) if self.whole is None else float(self.whole)

    def sparsity(self, counts: Mapping[str, Count]) -> Count:
        """Removed fraction of the prunable parameters of the groups, in [0, 1]."""
        own = self.of_groups()
        return 1 - own.prunable(counts) / own.dense

    def expected_sparsity(self, present: Mapping[str, Count], counts: Mapping[str, Count]) -> Count:
        """The same of gates, by their probabilities: see ``expected``."""
        own = self.of_groups()
        return 1 - (own.expected(present, counts) - own.fixed) / own.dense

    def of_groups(self) -> ParameterCost:
        """The same with embeddings, norms and heads at their full size, though the stream cuts them too.

        Sparsities refer to the matrices and biases of attention and feed-forward blocks, whether or not the hidden
        size is pruned.
        """
        if self.stream is None:
            return self
        names = [name for name, cuts in self.cuts.items() if any(owner != self.stream for _, owner, _ in cuts)]
        rest = sum(math.prod(shape) for name, shape in self.shapes.items() if name not in names)
        shapes = {name: self.shapes[name] for name in names}
        cuts = {name: self.cuts[name] for name in names}
        whole = None if self.whole is None else self.whole - rest
        return replace(self, fixed=self.fixed + rest, shapes=shapes, cuts=cuts, stream=None, whole=whole)


def matrix_shape(model: nn.Module, path: str) -> tuple[int, int]:
    """Outputs and inputs of a linear module."""
    module: Any = model.get_submodule(path)
    rows, columns = module.weight.shape
    return (columns, rows) if hasattr(module, "nf") else (rows, columns)
