"""``fold``: the gates multiplied into the weights that they scale. A unit with gate 0 can then be cut away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from secateurs.structure.cut import Cut, Kind
from secateurs.structure.mask import Mask
from secateurs.structure.stream import Stream
from secateurs.structure.structure import Group, Structure

__all__ = ["Opening", "fold"]


SLIM = 0.8
"""If at most this fraction of the components of a pair is open, closed components are left out of its products."""


@dataclass(frozen=True)
class Opening:
    """The values of all gates.

    Args:
        fine: group name -> one value per unit.
        coarse: group name -> one value.
        stream: name of the residual stream -> one value per dimension; empty if the hidden size is not pruned.
    """

    fine: Mapping[str, Float[Tensor, " units"]]
    coarse: Mapping[str, Float[Tensor, ""]]
    stream: Mapping[str, Float[Tensor, " hidden"]] = field(default_factory=dict)

    def present(self) -> dict[str, bool]:
        """Group name -> whether any of its units contributes; one transfer from a GPU for all groups."""
        names = list(self.fine)
        most = torch.stack([self.fine[name].detach().max() * self.coarse[name].detach() for name in names])
        return {name: value > 0 for name, value in zip(names, most.tolist(), strict=True)}

    def mask(self) -> Mask:
        """The units that contribute."""
        groups = {name: fine * self.coarse[name] for name, fine in self.fine.items()}
        return Mask({name: (value > 0).detach().cpu() for name, value in (groups | dict(self.stream)).items()})


def fold(model: nn.Module, structure: Structure, opening: Opening, *, slim: bool = False) -> dict[str, Tensor]:
    """The weights multiplied by the gates; differentiable in both.

    Args:
        model: the model of ``structure``.
        structure: the groups that have gates.
        opening: the values of the gates.
        slim: leave closed components out of pairs of factors if they are many; the sums are the same over fewer terms.

    Returns:
        Parameter name -> value, for the output projections and their biases, and, with hidden gates, for everything that
        writes to the residual stream.
    """
    folded: dict[str, Tensor] = {}
    few = _few_open(structure, opening) if slim else {}
    for group in structure:
        cut = group.output_cut
        weight = model.get_parameter(cut.parameter)
        fine = opening.fine[group.name].repeat_interleave(cut.width) * opening.coarse[group.name]
        if group.kind is Kind.RANK:
            folded |= _fold_pair(model, group, fine, few.get(group.name))
            continue  # the bias belongs to no component
        folded[cut.parameter] = weight * (fine if cut.dim == 1 else fine[:, None]).to(weight.dtype)
        bias = getattr(model.get_submodule(group.output_projection), "bias", None)
        if bias is not None:
            folded[f"{group.output_projection}.bias"] = bias * opening.coarse[group.name].to(bias.dtype)
    stream = structure.stream
    if stream and not _all_open(opening.stream[stream.name]):
        _fold_stream(model, stream, opening.stream[stream.name], folded)
    return folded


def _few_open(structure: Structure, opening: Opening) -> dict[str, Int[Tensor, " few"]]:
    """The open components of pairs of which few are open; one component where none is, since a product needs a term.

    One transfer from a GPU serves all pairs.
    """
    pairs = [group.name for group in structure if group.kind is Kind.RANK]
    if not pairs:
        return {}
    values = torch.cat([opening.fine[name].detach() * opening.coarse[name].detach() for name in pairs])
    parts = (values != 0).cpu().split([len(opening.fine[name]) for name in pairs])
    found = {
        name: part.nonzero().flatten() if part.any() else torch.zeros(1, dtype=torch.long)
        for name, part in zip(pairs, parts, strict=True)
        if int(part.sum()) <= SLIM * len(part)
    }
    if not found:
        return {}
    together = torch.cat(list(found.values())).to(values.device)
    return dict(zip(found, together.split([len(stays) for stays in found.values()]), strict=True))


def _fold_pair(
    model: nn.Module, group: Group, fine: Float[Tensor, " ranks"], stays: Int[Tensor, " few"] | None
) -> dict[str, Tensor]:
    """Scale the second factor by the gates of the components; the first factor is only sliced."""
    parameters: dict[Cut, Tensor] = {cut: model.get_parameter(cut.parameter) for cut in group.cuts}
    if stays is not None:
        parameters = {cut: parameter.index_select(cut.dim, stays) for cut, parameter in parameters.items()}
        fine = fine[stays]
    reader = group.output_cut
    weight = parameters[reader]
    parameters[reader] = weight * (fine if reader.dim == 1 else fine[:, None]).to(weight.dtype)
    return {cut.parameter: value for cut, value in parameters.items()}


def _fold_stream(model: nn.Module, stream: Stream, hidden: Float[Tensor, " hidden"], folded: dict[str, Tensor]) -> None:
    """Scale every writer along the stream; a parameter with two names is scaled once, and has one value under both."""
    done: dict[tuple[int, int], Tensor] = {}
    for name, dim in stream.writers:
        parameter = model.get_parameter(name)
        if (id(parameter), dim) not in done:
            value = folded.get(name, parameter)
            shape = [-1 if axis == dim else 1 for axis in range(value.dim())]
            done[id(parameter), dim] = value * hidden.view(shape).to(value.dtype)
        folded[name] = done[id(parameter), dim]
    scaled = {key: value for (key, _), value in done.items()}
    for cut in stream.cuts:  # where a tied parameter has two names with a value, every name of it must have the value
        if (key := id(model.get_parameter(cut.parameter))) in scaled:
            folded[cut.parameter] = scaled[key]


def _all_open(hidden: Float[Tensor, " hidden"]) -> bool:
    return not hidden.requires_grad and bool((hidden == 1).all())
