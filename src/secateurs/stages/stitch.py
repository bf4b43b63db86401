"""``Stitch``: put any level of any group into a model in place, at its real size, and take it out again.

The search tries hundreds of candidates. Copying the model for each would be its main cost, and running masked models
would cost dense time; so parameters are swapped for slices of the original ones. A removed group is stitched as one
unit with zero output, which computes the same as the removed sub-block.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from secateurs.structure import Cut, Group, Structure

__all__ = ["Stitch"]


class Stitch:
    """The model, and the tensors it had when this was made.

    Args:
        model: changed in place by ``install``; ``reset`` restores it bit for bit.
        structure: what can be removed from it.
    """

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        self.model = model
        self.structure = structure
        self._dense: dict[str, Tensor] = {}
        self._replaced: set[str] = set()
        for group in structure:
            for cut in group.cuts:
                self._dense[cut.parameter] = model.get_parameter(cut.parameter).data
            bias = self._bias_name(group)
            if bias:
                self._dense[bias] = model.get_parameter(bias).data

    def weight(self, name: str) -> Float[Tensor, "rows columns"]:
        """The dense output projection of a group in Linear's orientation (out x in)."""
        cut = self.structure[name].reader_cut
        weight = self._dense[cut.parameter]
        return weight if cut.dim == 1 else weight.T

    def bias(self, name: str) -> Float[Tensor, " rows"] | None:
        """The dense bias of that projection, if it has one."""
        bias = self._bias_name(self.structure[name])
        return self._dense[bias] if bias else None

    def linear(self, path: str) -> tuple[Float[Tensor, "out in"], Float[Tensor, " out"] | None]:
        """The dense weight, in Linear's orientation, and bias of any linear module."""
        module: Any = self.model.get_submodule(path)
        own: Tensor = module.weight.data
        weight = self._dense.get(f"{path}.weight", own)
        bias = self._dense.get(f"{path}.bias", None if module.bias is None else module.bias.data)
        return self.oriented(path, weight), bias

    def oriented(self, path: str, weight: Tensor) -> Tensor:
        """From Linear's orientation to that of the module at ``path``, or back, in the type of its weight."""
        module: Any = self.model.get_submodule(path)
        return (weight if isinstance(module, nn.Linear) else weight.T).to(module.weight).contiguous()

    def replace(self, parameters: Mapping[str, Tensor]) -> None:
        """Put other values in the place of parameters that belong to no group, until ``reset_all``."""
        for name, value in parameters.items():
            parameter = self.model.get_parameter(name)
            self._dense.setdefault(name, parameter.data)
            self._replaced.add(name)
            parameter.data = value

    def install(
        self,
        name: str,
        units: Int[Tensor, " kept"],
        weight: Float[Tensor, "rows kept*width"],
        bias: Float[Tensor, " rows"] | None,
        feeders: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Keep ``units`` (ascending) of a group, with these weights in its output projection.

        Args:
            name: the group.
            units: kept units of the *original* group.
            weight: columns of the kept units, Linear's orientation.
            bias: the new bias of the projection; ``None`` leaves it.
            feeders: parameter name -> what stands for the dense parameter of a feeder, at full size.
        """
        group = self.structure[name]
        empty = len(units) == 0
        stand_in = torch.zeros(1, dtype=torch.long) if empty else units
        for parameter, dim in dict.fromkeys((cut.parameter, cut.dim) for cut in group.cuts):
            dense = feeders.get(parameter, self._dense[parameter])
            target = self.model.get_parameter(parameter)
            if parameter == group.reader_cut.parameter:
                new = dense.new_zeros(dense.shape[1 - dim], group.width) if empty else weight.to(dense)
                target.data = (new if dim == 1 else new.T).contiguous()
            elif len(stand_in) == group.size:
                target.data = dense
            else:
                target.data = dense.index_select(dim, _indices(group, parameter, dim, stand_in).to(dense.device))
        if bias is not None and (path := self._bias_name(group)):
            self.model.get_parameter(path).data = bias.to(self._dense[path])
        self._sync(group, len(stand_in))

    def mask(
        self,
        name: str,
        units: Int[Tensor, " kept"],
        weight: Tensor,
        bias: Tensor | None,
        feeders: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Like ``install`` but at full size, with zeros in the columns of removed units: ready for ``shrink``."""
        group = self.structure[name]
        full = weight.new_zeros(weight.shape[0], group.size * group.width)
        if len(units):
            full[:, (units[:, None] * group.width + torch.arange(group.width)).flatten()] = weight
        self.install(name, torch.arange(group.size), full, bias, feeders)

    def reset(self, name: str, feeders: Mapping[str, Tensor] = MappingProxyType({})) -> None:
        """Put the original tensors of one group back, but for these of its feeders."""
        group = self.structure[name]
        for parameter in {cut.parameter for cut in group.cuts}:
            self.model.get_parameter(parameter).data = feeders.get(parameter, self._dense[parameter])
        if path := self._bias_name(group):
            self.model.get_parameter(path).data = self._dense[path]
        self._sync(group, group.size)

    def reset_all(self) -> None:
        """Put every original tensor back."""
        for group in self.structure:
            self.reset(group.name)
        for name in self._replaced:
            self.model.get_parameter(name).data = self._dense[name]
        self._replaced.clear()

    def _bias_name(self, group: Group) -> str | None:
        return (
            f"{group.reader}.bias"
            if getattr(self.model.get_submodule(group.reader), "bias", None) is not None
            else None
        )

    def _sync(self, group: Group, kept: int) -> None:
        """Fields that repeat a size (``num_heads``, ``split_size``, a Conv1D's ``nf``) follow the tensors."""
        for path, per_unit in group.attributes.items():
            module, _, field = path.rpartition(".")
            setattr(self.model.get_submodule(module), field, per_unit * kept)
        for parameter in {cut.parameter for cut in group.cuts}:
            module: Any = self.model.get_submodule(parameter.rpartition(".")[0])
            if isinstance(module, nn.Linear):
                module.out_features, module.in_features = module.weight.shape
            elif hasattr(module, "nf"):
                module.nf = module.weight.shape[1]


def _indices(group: Group, parameter: str, dim: int, units: Tensor) -> Int[Tensor, " indices"]:
    """Where the kept units lie along one axis; the cuts of a fused projection one after the other."""
    cuts: list[Cut] = [cut for cut in group.cuts if (cut.parameter, cut.dim) == (parameter, dim)]
    return torch.cat([(cut.offset + units[:, None] * cut.width + torch.arange(cut.width)).flatten() for cut in cuts])
