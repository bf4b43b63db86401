"""``Stitch``: puts any level of any group into a model in place, at its real size, and takes it out again.

The search tries hundreds of candidates. A copy of the model for each would be the main cost, and masked models of full
size would take the time of the dense model. Parameters are therefore swapped for slices of the original ones. A removed
group is installed as one unit with zero output, which gives the same outputs as the removed sub-block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from secateurs.modeling.own_config import set_field
from secateurs.modeling.per_head import heads_of, keep_heads
from secateurs.oneshot.levels import Level
from secateurs.structure.cut import Cut
from secateurs.structure.structure import Group, Structure
from secateurs.surgery.masked_norm import mask_joint_norms

__all__ = ["Stitch"]


class Stitch:
    """A live model and its original tensors.

    Args:
        model: changed in place by ``install``; ``reset`` restores it bit for bit.
        structure: what can be removed from ``model``.
    """

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        self.model = model
        self.structure = structure
        self._dense: dict[str, Tensor] = {}
        self._replaced: set[str] = set()
        with_shared = [group for group in structure if group.per_head]
        self._heads = {g.name: heads_of(model.get_submodule(g.block), g.size) for g in with_shared}
        for group in structure:
            for cut in group.cuts:
                self._dense[cut.parameter] = model.get_parameter(cut.parameter).data
            bias = self._bias_name(group)
            if bias:
                self._dense[bias] = model.get_parameter(bias).data

    def weight(self, name: str) -> Float[Tensor, "rows columns"]:
        """The dense weight of the output projection of a group, in Linear's orientation (out x in)."""
        cut = self.structure[name].output_cut
        weight = self._dense[cut.parameter]
        return weight if cut.dim == 1 else weight.T

    def bias(self, name: str) -> Float[Tensor, " rows"] | None:
        """The dense bias of the output projection, or ``None``."""
        bias = self._bias_name(self.structure[name])
        return self._dense[bias] if bias else None

    def linear(self, path: str) -> tuple[Float[Tensor, "out in"], Float[Tensor, " out"] | None]:
        """The dense weight (in Linear's orientation) and the dense bias of any linear module."""
        module: Any = self.model.get_submodule(path)
        own: Tensor = module.weight.data
        weight = self._dense.get(f"{path}.weight", own)
        bias = self._dense.get(f"{path}.bias", None if module.bias is None else module.bias.data)
        return self.oriented(path, weight), bias

    def oriented(self, path: str, weight: Tensor) -> Tensor:
        """``weight`` turned from Linear's orientation to that of the module at ``path``, or back, in its dtype."""
        module: Any = self.model.get_submodule(path)
        return (weight.T if hasattr(module, "nf") else weight).to(module.weight).contiguous()

    def replace(self, parameters: Mapping[str, Tensor]) -> None:
        """Replace the values of parameters that belong to no group, until ``reset_all``."""
        for name, value in parameters.items():
            parameter = self.model.get_parameter(name)
            self._dense.setdefault(name, parameter.data)
            self._replaced.add(name)
            parameter.data = value

    def install(self, name: str, level: Level) -> None:
        """Put a level into the model, at the size of its kept units.

        Args:
            name: name of the group.
            level: units of the *original* group and the weights of its output projection on them.
        """
        group, units = self.structure[name], level.units
        empty = len(units) == 0
        present = torch.zeros(1, dtype=torch.long) if empty else units
        for parameter, dim in dict.fromkeys((cut.parameter, cut.dim) for cut in group.cuts):
            dense = level.input_projections.get(parameter, self._dense[parameter])
            target = self.model.get_parameter(parameter)
            if parameter == group.output_cut.parameter:
                new = dense.new_zeros(dense.shape[1 - dim], group.width) if empty else level.weight.to(dense)
                target.data = (new if dim == 1 else new.T).contiguous()
            elif len(present) == group.size:
                target.data = dense
            else:
                stays = _indices(group, parameter, dim, present, dense.shape[dim])
                target.data = dense.index_select(dim, stays.to(dense.device))
        if level.bias is not None and (path := self._bias_name(group)):
            self.model.get_parameter(path).data = level.bias.to(self._dense[path])
        self._sync(group, len(present))
        self._select_heads(group, present.tolist())

    def mask(self, name: str, level: Level) -> None:
        """Put a level into the model at full size, with zeros in the columns of removed units: ready for ``shrink``.

        Args:
            name: name of the group.
            level: the level.
        """
        group, units = self.structure[name], level.units
        full = level.weight.new_zeros(level.weight.shape[0], group.size * group.width)
        if len(units):
            full[:, (units[:, None] * group.width + torch.arange(group.width)).flatten()] = level.weight
        self.install(name, Level(torch.arange(group.size), full, level.bias, level.input_projections))
        mask_joint_norms(self.model, group, torch.zeros(group.size).index_fill_(0, units, 1).bool())

    def reset(self, name: str, input_projections: Mapping[str, Tensor] = MappingProxyType({})) -> None:
        """Put the original tensors of one group back, but for these of its input_projections."""
        group = self.structure[name]
        for parameter in {cut.parameter for cut in group.cuts}:
            self.model.get_parameter(parameter).data = input_projections.get(parameter, self._dense[parameter])
        if path := self._bias_name(group):
            self.model.get_parameter(path).data = self._dense[path]
        self._sync(group, group.size)
        self._select_heads(group, range(group.size))

    def reset_all(self) -> None:
        """Restore every original tensor."""
        for group in self.structure:
            self.reset(group.name)
        for name in self._replaced:
            self.model.get_parameter(name).data = self._dense[name]
        self._replaced.clear()

    def _bias_name(self, group: Group) -> str | None:
        return (
            f"{group.output_projection}.bias"
            if getattr(self.model.get_submodule(group.output_projection), "bias", None) is not None
            else None
        )

    def _select_heads(self, group: Group, units: Iterable[int]) -> None:
        """Let the block use these of its dense heads from tensors that are shared by several layers."""
        if group.per_head:
            kept = [self._heads[group.name][unit] for unit in units]
            keep_heads(self.model.get_submodule(group.block), dict(group.per_head), kept)

    def _sync(self, group: Group, kept: int) -> None:
        """Set the fields that repeat a size (``num_heads``, ``split_size``, a Conv1D's ``nf``) to that of the tensors.

        Norms over all units normalise over those that are present, so that none of them is masked.
        """
        mask_joint_norms(self.model, group, torch.ones(kept).bool())
        for path, per_unit in group.attributes.items():
            set_field(self.model, path, per_unit * kept)
        for parameter in {cut.parameter for cut in group.cuts}:
            module: Any = self.model.get_submodule(parameter.rpartition(".")[0])
            if hasattr(module, "nf"):
                module.nf = module.weight.shape[1]
            elif hasattr(module, "in_features"):
                module.out_features, module.in_features = module.weight.shape


def _indices(group: Group, parameter: str, dim: int, units: Tensor, size: int) -> Int[Tensor, " indices"]:
    """Indices along one axis of this size that belong to these units or to no cut, such as keys that all heads share."""
    cuts: list[Cut] = [cut for cut in group.cuts if (cut.parameter, cut.dim) == (parameter, dim)]
    parts, end = list[Tensor](), 0
    for cut in sorted(cuts, key=lambda cut: cut.offset):
        parts.append(torch.arange(end, cut.offset))
        parts.append((cut.offset + units[:, None] * cut.width + torch.arange(cut.width)).flatten())
        end = cut.offset + group.size * cut.width
    return torch.cat([*parts, torch.arange(end, size)])
