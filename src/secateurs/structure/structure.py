"""What can be removed from a model, as data: ``Group`` and ``Structure``.

A *unit* is the smallest thing that can be removed (a head, a neuron). A *group* holds the units of one place that are
ranked together. The *stream* (``secateurs.structure.stream``) is the residual stream; its dimensions are units of the full
model. A *cut* (``secateurs.structure.cut``) is the slice of one parameter that is removed with a unit.

The parameter cost, the calibration hooks, the gates, the installation of levels, ``shrink``, the loading of checkpoints
and the report all use this one table, and none of them depends on a model family. The values are immutable and hold no
reference to a model: a path is a dotted module name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from secateurs.errors import UnsupportedModelError
from secateurs.structure.cut import Cut, Kind
from secateurs.structure.stream import Stream

__all__ = ["Group", "Structure"]


@dataclass(frozen=True)
class Group:
    """Units of one place that are ranked together.

    Args:
        name: unique name that does not change when the model is pruned, e.g. ``"layer.3.heads"``.
        kind: what one unit is.
        size: number of units now present, at least 1. A place without units has no group.
        cuts: every parameter slice that is removed with a unit, those of the output projection included.
        output_projection: path of the module whose input columns are the units (output or down projection).
        block: path of the module that computes the units. It is skipped when no unit is left; a single linear layer,
            which may be an input projection, is not skipped; nor is a pair of factors. It outputs its bias.
        layer: path of the transformer layer that holds the block and its output projection; empty for units that belong
            to no layer (widths of embeddings).
        stream: path of a module whose *input* is the residual stream right after this sub-block was added to it (the
            norm of a post-LN block, or the next norm of a pre-LN model).
        norms: paths of the norms whose output only this block uses (pre-LN). They are skipped together with the block.
        attributes: module fields that repeat the number of units: dotted path of the field -> its value per kept unit. A
            field of the ``config`` of a module is set for this module alone.
        post_norm: path of a norm between the output projection and the residual stream (sandwich norms); empty = none.
        scale: factor by which the output of the sub-block is multiplied before it is added to the stream.
        channel_scale: path of a parameter with such a factor for every dimension (layer scale); empty = none.
        product: for ranks, path of the linear module that the pair of factors replaces. Above the break-even rank the
            pair becomes one matrix again. Empty where the two factors cannot be multiplied.
        per_head: tensors that other layers use too and that have one entry for every head, such as a shared position bias:
            name of an argument of the block, or of a method of it that computes the tensor, or ``"output[1]"`` for an
            entry of the tuple it returns -> axis of the heads. They are not cut; a pruned block selects its heads from them.
        joint_norms: paths of norms inside the block that normalise over all its units at once, such as a norm over the
            queries of all heads. Their gains are in ``cuts``. A masked model takes their statistics over the kept units, as
            the shrunk model does.
        returns: what the block returns, a key of ``SKIPPED`` in ``modeling_pruned``; empty = ``"tuple"`` for heads, else
            ``"tensor"``.
        other_inputs: paths of linear modules in ``cuts`` whose input is not, or not only, the common input of the input
            projections: projections of relative positions. Corrections of the common input do not apply to them.
        instead_of: for ranks of a low-rank option, name of the group that cuts the matrix otherwise. The matrix is not
            factorised yet, and may be factorised only while that group keeps all its units. Empty for existing pairs.
        cache: key-value cache that an attention fills: ``"self"``, ``"cross"``, or empty for an encoder, which fills none.
        cache_slot: field of an attention that holds its slot in the cache.
        tokens: mask in a batch of the tokens of this stack: ``"attention_mask"``, in a decoder ``"decoder_attention_mask"``.
        memory: paths of the input projections whose input is the output of an encoder (k and v of a cross-attention).
    """

    name: str
    kind: Kind
    size: int
    cuts: tuple[Cut, ...]
    output_projection: str
    block: str
    layer: str
    stream: str
    norms: tuple[str, ...] = ()
    attributes: Mapping[str, int] = field(default_factory=dict[str, int])
    post_norm: str = ""
    scale: float = 1.0
    channel_scale: str = ""
    product: str = ""
    instead_of: str = ""
    cache: str = "self"
    cache_slot: str = "layer_idx"
    tokens: str = "attention_mask"
    memory: tuple[str, ...] = ()
    per_head: Mapping[str, int] = field(default_factory=dict[str, int])
    joint_norms: tuple[str, ...] = ()
    returns: str = ""
    other_inputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UnsupportedModelError(f"group {self.name} has size {self.size}; a group needs at least one unit")
        if not any(cut.parameter == f"{self.output_projection}.weight" for cut in self.cuts):
            raise UnsupportedModelError(
                f"group {self.name} does not cut the weight of its output projection {self.output_projection}"
            )

    @cached_property
    def output_cut(self) -> Cut:
        """The cut of the weight of the output projection: its input columns."""
        return next(cut for cut in self.cuts if cut.parameter == f"{self.output_projection}.weight")

    @property
    def width(self) -> int:
        """Input columns of the output projection per unit: the head size for heads, 1 for neurons."""
        return self.output_cut.width

    @cached_property
    def input_projections(self) -> tuple[str, ...]:
        """Paths of the linear modules that compute the units: q, k and v, or up and gate. Those in ``memory`` come last."""
        weights = [cut.parameter.removesuffix(".weight") for cut in self.cuts if cut.parameter.endswith(".weight")]
        others = (self.output_projection, *self.other_inputs, *self.joint_norms)
        paths = dict.fromkeys(path for path in weights if path not in others)
        return tuple(sorted(paths, key=self.memory.__contains__))

    @property
    def inputs(self) -> tuple[tuple[str, ...], ...]:
        """The input projections, divided into sets with one common input: the stream, and the output of an encoder."""
        own = self.input_projections[: len(self.input_projections) - len(self.memory)]
        return tuple(paths for paths in (own, self.memory) if paths)

    def tokens_of(self, path: str) -> str:
        """Like ``tokens``, for an input projection (a pair of factors, too) or the output projection."""
        return "attention_mask" if {path, f"{path}.second"} & {*self.memory} else self.tokens

    def prefixed(self, prefix: str) -> Group:
        """The same group with ``prefix`` in front of every path."""
        return replace(
            self,
            cuts=tuple(replace(cut, parameter=prefix + cut.parameter) for cut in self.cuts),
            output_projection=prefix + self.output_projection,
            block=prefix + self.block,
            layer=prefix + self.layer if self.layer else "",
            stream=prefix + self.stream,
            norms=tuple(prefix + norm for norm in self.norms),
            attributes={prefix + path: value for path, value in self.attributes.items()},
            post_norm=prefix + self.post_norm if self.post_norm else "",
            channel_scale=prefix + self.channel_scale if self.channel_scale else "",
            product=prefix + self.product if self.product else "",
            joint_norms=tuple(prefix + path for path in self.joint_norms),
            other_inputs=tuple(prefix + path for path in self.other_inputs),
            memory=tuple(prefix + path for path in self.memory),
        )


@dataclass(frozen=True)
class Structure:
    """All groups of a model in data order, and its residual stream if the hidden size is pruned.

    Iteration, length and look-up cover the groups only; ``sizes`` includes the stream.

    >>> cut = Cut("mlp.down.weight", dim=1)
    >>> group = Group("layer.0.intermediate", Kind.INTERMEDIATE, 8, (cut,), "mlp.down", "mlp", "layer", "norm")
    >>> Structure((group,))["layer.0.intermediate"].size
    8

    Args:
        groups: the groups, in the order in which the data flows through them.
        stream: the residual stream; ``None`` if the hidden size is not pruned.
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
        """Name -> number of units now present, for every group and then the stream."""
        sizes = {group.name: group.size for group in self.groups}
        return sizes | ({self.stream.name: self.stream.size} if self.stream else {})

    @property
    def timed(self) -> Structure:
        """The groups that belong to one layer. Only these have a measured latency."""
        return Structure(tuple(group for group in self.groups if group.layer))

    @cached_property
    def layers(self) -> dict[str, tuple[Group, ...]]:
        """Layer path -> its groups, both in data order."""
        found: dict[str, list[Group]] = {}
        for group in self.groups:
            found.setdefault(group.layer, []).append(group)
        return {path: tuple(groups) for path, groups in found.items()}

    @cached_property
    def low_rank_options(self) -> tuple[Group, ...]:
        """Groups of ranks of matrices that are not factorised yet and that other groups cut."""
        return tuple(group for group in self.groups if group.instead_of)

    def without_low_rank_options(self) -> Structure:
        """The structure without its low-rank options: every group whose cuts name existing parameters."""
        return Structure(tuple(group for group in self.groups if not group.instead_of), self.stream)

    def within(self, layer: str) -> Structure:
        """The groups of one layer, with paths relative to that layer, so that the layer can be pruned as a model.

        The result has no stream: a dimension of the stream is cut in all layers or in none.

        Args:
            layer: path of the layer.
        """
        start = len(layer) + 1
        return Structure(
            tuple(
                replace(
                    group,
                    cuts=tuple(replace(cut, parameter=cut.parameter[start:]) for cut in group.cuts),
                    output_projection=group.output_projection[start:],
                    block=group.block[start:],
                    layer="",
                    stream="",
                    norms=tuple(norm[start:] for norm in group.norms),
                    attributes={path[start:]: value for path, value in group.attributes.items()},
                    post_norm=group.post_norm[start:],
                    channel_scale=group.channel_scale[start:],
                    product=group.product[start:],
                    joint_norms=tuple(path[start:] for path in group.joint_norms),
                    other_inputs=tuple(path[start:] for path in group.other_inputs),
                    memory=tuple(path[start:] for path in group.memory),
                )
                for group in self.layers[layer]
            )
        )

    def prefixed(self, prefix: str) -> Structure:
        """The same structure with ``prefix`` in front of every path, for a base model inside a task model."""
        if not prefix:
            return self
        stream = self.stream.prefixed(prefix) if self.stream else None
        return Structure(tuple(group.prefixed(prefix) for group in self.groups), stream)
