"""``fold``: gates multiplied into the weights they act on, whatever their values; what is 0 can then be cut away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from secateurs.mask import Mask
from secateurs.structure import Cut, Group, Kind, Stream, Structure

__all__ = ["Opening", "fold"]


SLIM = 0.8
"""Where at most this part of the components of a pair is open, the others are left out of its products."""


@dataclass(frozen=True)
class Opening:
    """How far every gate is open.

    Args:
        fine: group name -> one value per unit.
        coarse: group name -> one value.
        stream: name of the stream -> one value per dimension; empty where the hidden size stays.
    """

    fine: Mapping[str, Float[Tensor, " units"]]
    coarse: Mapping[str, Float[Tensor, ""]]
    stream: Mapping[str, Float[Tensor, " hidden"]] = field(default_factory=dict)

    def present(self) -> dict[str, bool]:
        """Whether any unit of each group contributes anything; a GPU is waited for once."""
        names = list(self.fine)
        most = torch.stack([self.fine[name].detach().max() * self.coarse[name].detach() for name in names])
        return {name: value > 0 for name, value in zip(names, most.tolist(), strict=True)}

    def mask(self) -> Mask:
        """The units that contribute anything."""
        groups = {name: fine * self.coarse[name] for name, fine in self.fine.items()}
        return Mask({name: (value > 0).detach().cpu() for name, value in (groups | dict(self.stream)).items()})


def fold(model: nn.Module, structure: Structure, opening: Opening, *, slim: bool = False) -> dict[str, Tensor]:
    """The weights into which the gates have been multiplied; differentiable in both.

    Args:
        model: of the structure.
        structure: its groups have gates.
        opening: how far they are open.
        slim: leave closed components out of pairs of factors, where they are many: the same sums over fewer terms.

    Returns:
        Parameter name -> value, for the output and down projections and their biases, and for all that is written to
        the stream where its dimensions have gates.
    """
    folded: dict[str, Tensor] = {}
    few = _few_open(structure, opening) if slim else {}
    for group in structure:
        cut = group.reader_cut
        weight = model.get_parameter(cut.parameter)
        fine = opening.fine[group.name].repeat_interleave(cut.width) * opening.coarse[group.name]
        if group.kind is Kind.RANK:
            folded |= _fold_pair(model, group, fine, few.get(group.name))
            continue  # the bias is no part of any component
        folded[cut.parameter] = weight * (fine if cut.dim == 1 else fine[:, None]).to(weight.dtype)
        bias = getattr(model.get_submodule(group.reader), "bias", None)
        if bias is not None:
            folded[f"{group.reader}.bias"] = bias * opening.coarse[group.name].to(bias.dtype)
    stream = structure.stream
    if stream and not _all_open(opening.stream[stream.name]):
        _fold_stream(model, stream, opening.stream[stream.name], folded)
    return folded


def _few_open(structure: Structure, opening: Opening) -> dict[str, Int[Tensor, " few"]]:
    """The open components of those pairs of which few are open, or one where none is: products need a term.

    A GPU is waited for once, not once a pair.
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
    """Gates of components go into the reader, the second factor; the others are only sliced."""
    parameters: dict[Cut, Tensor] = {cut: model.get_parameter(cut.parameter) for cut in group.cuts}
    if stays is not None:
        parameters = {cut: parameter.index_select(cut.dim, stays) for cut, parameter in parameters.items()}
        fine = fine[stays]
    reader = group.reader_cut
    weight = parameters[reader]
    parameters[reader] = weight * (fine if reader.dim == 1 else fine[:, None]).to(weight.dtype)
    return {cut.parameter: value for cut, value in parameters.items()}


def _fold_stream(model: nn.Module, stream: Stream, hidden: Float[Tensor, " hidden"], folded: dict[str, Tensor]) -> None:
    """Scale every writer's slices; a parameter of two names is scaled once, and has one value under both."""
    done: dict[tuple[int, int], Tensor] = {}
    for name, dim in stream.writers:
        parameter = model.get_parameter(name)
        if (id(parameter), dim) not in done:
            value = folded.get(name, parameter)
            shape = [-1 if axis == dim else 1 for axis in range(value.dim())]
            done[id(parameter), dim] = value * hidden.view(shape).to(value.dtype)
        folded[name] = done[id(parameter), dim]


def _all_open(hidden: Float[Tensor, " hidden"]) -> bool:
    return not hidden.requires_grad and bool((hidden == 1).all())
