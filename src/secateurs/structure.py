"""What can be removed from a model, as data: ``Cut``, ``Group``, ``Stream``, ``Structure``.

A *unit* is the smallest thing removed (a head, a neuron). A *group* holds the units of one place that are ranked
together. The *stream* is the residual stream, whose dimensions are units of the whole model. A *cut* is the slice of one
parameter that goes when a unit goes. Seven readers share this one table: parameter cost, calibration hooks, gates, level
install, shrink, checkpoint replay and the report; none of them knows a model family. The values are frozen and know no
model: paths are dotted module names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property

from secateurs.errors import UnsupportedModelError

__all__ = ["Cut", "Group", "Kind", "Stream", "Structure"]


class Kind(StrEnum):
    """What one unit of a group is."""

    HEAD = "head"
    """An attention head: rows of q, k, v and columns of the output projection (under GQA one key-value head with
    its query heads)."""
    INTERMEDIATE = "intermediate"
    """A feed-forward neuron: a row of the up (and gate) projection and a column of the down projection."""
    HIDDEN = "hidden"
    """A dimension of the residual stream."""
    RANK = "rank"
    """A rank-1 component of a factorised linear layer."""
    INPUT = "input"
    """An input of a linear layer: a column of its matrix alone. What computes the input stays."""


@dataclass(frozen=True)
class Cut:
    """The slice of one parameter that goes with a unit.

    Unit ``u`` owns the indices ``offset + u * width .. offset + (u + 1) * width - 1`` along ``dim``.

    Args:
        parameter: dotted name, e.g. ``"bert.encoder.layer.0.output.dense.weight"``.
        dim: the axis that is cut. A transposed ``Conv1D`` weight is just another ``dim``.
        width: indices per unit.
        offset: where unit 0 starts; fused qkv projections use three cuts with three offsets.
    """

    parameter: str
    dim: int
    width: int = 1
    offset: int = 0


@dataclass(frozen=True)
class Group:
    """Units of one place that are ranked together.

    Args:
        name: unique and stable under pruning, e.g. ``"layer.3.heads"``.
        kind: what a unit is.
        size: number of units now present (>= 1; an emptied place has no group).
        cuts: every parameter slice that goes with a unit, the reader's own among them.
        reader: path of the module whose input columns are the units (output or down projection).
        block: path of the module that computes the units; it is skipped when none is left (a linear layer alone, or a
            pair of factors, is not: it emits its bias).
        layer: path of the transformer layer that holds both; empty where none does (widths of embeddings).
        stream: path of a module whose *input* is the residual stream right after this sub-block was added to it
            (a post-LN block's own norm, or a pre-LN model's next norm).
        norms: paths of norms that only feed this block (pre-LN); skipped with it.
        attributes: module fields to keep true, ``dotted.field -> value per unit kept``.
        product: path of the module that a pair of factors stands for (ranks): above break-even it becomes one matrix
            again. Empty where the two cannot be multiplied.
        instead_of: name of another group (ranks): the matrix is still whole, and may be split only while that group, which
            cuts it otherwise, keeps all its units. Empty for a pair that is there.
    """

    name: str
    kind: Kind
    size: int
    cuts: tuple[Cut, ...]
    reader: str
    block: str
    layer: str
    stream: str
    norms: tuple[str, ...] = ()
    attributes: Mapping[str, int] = field(default_factory=dict[str, int])
    product: str = ""
    instead_of: str = ""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UnsupportedModelError(f"group {self.name} has size {self.size}; a group needs at least one unit")
        if not any(cut.parameter == f"{self.reader}.weight" for cut in self.cuts):
            raise UnsupportedModelError(f"group {self.name} has no cut on its reader {self.reader}.weight")

    @cached_property
    def reader_cut(self) -> Cut:
        """The cut of the reader's weight: its input columns."""
        return next(cut for cut in self.cuts if cut.parameter == f"{self.reader}.weight")

    @property
    def width(self) -> int:
        """Reader input columns per unit (head size for heads, 1 for neurons)."""
        return self.reader_cut.width

    @cached_property
    def feeders(self) -> tuple[str, ...]:
        """Paths of the linear modules that compute the units, all from one input: q, k and v; up and gate."""
        weights = [cut.parameter.removesuffix(".weight") for cut in self.cuts if cut.parameter.endswith(".weight")]
        return tuple(dict.fromkeys(path for path in weights if path != self.reader))

    def prefixed(self, prefix: str) -> Group:
        """The same group with ``prefix`` in front of every path."""
        return replace(
            self,
            cuts=tuple(replace(cut, parameter=prefix + cut.parameter) for cut in self.cuts),
            reader=prefix + self.reader,
            block=prefix + self.block,
            layer=prefix + self.layer if self.layer else "",
            stream=prefix + self.stream,
            norms=tuple(prefix + norm for norm in self.norms),
            attributes={prefix + path: value for path, value in self.attributes.items()},
            product=prefix + self.product if self.product else "",
        )


@dataclass(frozen=True)
class Stream:
    """The residual stream: one unit is one of its dimensions, with everything that reads or writes it.

    A dimension contributes nothing when all writers are zero there *and* the norms leave it out of their statistics:
    a norm over the whole stream counts a dimension of zeros.

    Args:
        size: number of dimensions now present (>= 1).
        cuts: every parameter slice that goes with a dimension, heads on the model included. A parameter that has two
            names (tied embeddings) is listed under both.
        writers: ``(parameter, dim)`` of all that is added to the stream or replaces it, each of them cut too:
            embeddings, output and down projections with their biases, and post-LN norms, whose output *is* the stream.
        norms: paths of the norms that normalise over the stream.
        optional: paths of modules of the base model that only some heads have built: a pooler.
        name: key of its counts.
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


@dataclass(frozen=True)
class Structure:
    """All groups of a model, in the order in which data meets them, and its residual stream where that is to be cut.

    Iteration, length and look-up are of the groups alone; ``sizes`` has the stream too.

    >>> cut = Cut("mlp.down.weight", dim=1)
    >>> group = Group("layer.0.intermediate", Kind.INTERMEDIATE, 8, (cut,), "mlp.down", "mlp", "layer", "norm")
    >>> Structure((group,))["layer.0.intermediate"].size
    8
    """

    groups: tuple[Group, ...]
    stream: Stream | None = None

    def __post_init__(self) -> None:
        names = [group.name for group in self.groups] + ([self.stream.name] if self.stream else [])
        if len(set(names)) != len(names):
            raise UnsupportedModelError(f"group names must be unique, got {sorted(names)}")

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, name: str) -> Group:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @cached_property
    def _by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    @property
    def sizes(self) -> dict[str, int]:
        """Group name -> number of units now present; the stream comes last."""
        sizes = {group.name: group.size for group in self.groups}
        return sizes | ({self.stream.name: self.stream.size} if self.stream else {})

    @property
    def timed(self) -> Structure:
        """The groups that are of one layer, and so have a latency of their own."""
        return Structure(tuple(group for group in self.groups if group.layer))

    @cached_property
    def layers(self) -> dict[str, tuple[Group, ...]]:
        """Layer path -> its groups, both in data order."""
        found: dict[str, list[Group]] = {}
        for group in self.groups:
            found.setdefault(group.layer, []).append(group)
        return {path: tuple(groups) for path, groups in found.items()}

    @cached_property
    def alternatives(self) -> tuple[Group, ...]:
        """Groups of ranks whose matrices are still whole, and are cut by other groups."""
        return tuple(group for group in self.groups if group.instead_of)

    def without_alternatives(self) -> Structure:
        """The groups whose units are there."""
        return Structure(tuple(group for group in self.groups if not group.instead_of), self.stream)

    def within(self, layer: str) -> Structure:
        """The groups of one layer, with paths relative to that layer: the structure of the layer as a model.

        It has no stream: what one layer reads and writes is cut in all of them or in none.
        """
        start = len(layer) + 1
        return Structure(
            tuple(
                replace(
                    group,
                    cuts=tuple(replace(cut, parameter=cut.parameter[start:]) for cut in group.cuts),
                    reader=group.reader[start:],
                    block=group.block[start:],
                    layer="",
                    stream="",
                    norms=tuple(norm[start:] for norm in group.norms),
                    attributes={path[start:]: value for path, value in group.attributes.items()},
                    product=group.product[start:],
                )
                for group in self.layers[layer]
            )
        )

    def prefixed(self, prefix: str) -> Structure:
        """The same structure with ``prefix`` in front of every path (a base model inside a task model)."""
        if not prefix:
            return self
        stream = self.stream.prefixed(prefix) if self.stream else None
        return Structure(tuple(group.prefixed(prefix) for group in self.groups), stream)
