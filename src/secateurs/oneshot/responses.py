"""``ResponseProbe``: how the outputs respond to every level of every group, from one forward and a few backward passes.

With ``z`` the compared outputs and ``v`` a random direction whose covariance is the curvature of the divergence at the dense
outputs (``Task.direction``), half the mean square of ``v . (z' - z)`` estimates the divergence of changed outputs ``z'``. To
first order, the response of text ``s`` to a level of a group is

    r_s = sum over tokens t of  g_t . (W_k x_t + b_k - W x_t - b),      g = d(v . z) / d(output of the projection)

All levels of a group come from one factor (``secateurs.numerics.level_factor``). With columns in reverse order of removal,
``(W_k - W) x + b_k - b = - sum over r >= k of Y[r]^T (C^-1 (x - mu))[r]``. The products of ``g Y^T`` and ``C^-1 (x - mu)``,
summed over the tokens of a text and then over columns, are the responses to every level at once. The passes serve all groups
whose factors fit into memory together (``secateurs.oneshot.windows``), those of sixteen layers of BERT-base.
Responses of several groups add up to first order, so that they price a whole allocation (``secateurs.numerics.joint_price``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor

from secateurs.context import PruneContext
from secateurs.numerics.precision import autocast_if_fast
from secateurs.oneshot.backward import observed_projections, parts_of, tokens_per_pass
from secateurs.oneshot.levels import LevelDatabase, Whitening
from secateurs.oneshot.no_cache import no_cache
from secateurs.oneshot.windows import windows
from secateurs.progress import Track, silent
from secateurs.structure.structure import Group, Structure
from secateurs.tasks.base import Batch, main_input, model_inputs

__all__ = ["responses"]


def responses(
    context: PruneContext,
    database: LevelDatabase,
    batches: Sequence[Batch],
    kept: Mapping[str, Sequence[int]],
    *,
    directions: int = 2,
    track: Track = silent,
) -> dict[str, Float[Tensor, "samples options"]]:
    """The response of every text, in every direction, to levels of every group, around the dense model.

    Args:
        context: the dense model, task, device and seed.
        database: level database of the dense model.
        batches: texts (CPU tensors).
        kept: group name -> kept counts of the levels that are wanted.
        directions: random directions per text.
        track: shows progress.

    Returns:
        Group name -> responses on the CPU. A sample is one text in one direction; the samples of all groups correspond.
    """
    asked = [group for group in database.structure if group.name in kept]
    found: dict[str, Tensor] = {}
    for window in windows(asked, lambda group: 4.0 * (group.size * group.width) ** 2):
        levels = {group.name: kept[group.name] for group in window}
        found |= _responses(context, database, batches, levels, directions, track)
    return {name: found[name] for name in kept}


def _responses(
    context: PruneContext,
    database: LevelDatabase,
    batches: Sequence[Batch],
    kept: Mapping[str, Sequence[int]],
    directions: int,
    track: Track,
) -> dict[str, Float[Tensor, "samples options"]]:
    """The responses to some groups. The directions are the same at every call."""
    structure = Structure(tuple(database.structure[name] for name in kept))
    generator = torch.Generator().manual_seed(context.seed)
    whitenings = {name: database.whitening(name).to(context.device) for name in kept}
    found: dict[str, list[Tensor]] = {name: [] for name in kept}
    tokens = tokens_per_pass(context.model, database.structure)
    parts = [part for batch in batches for part in parts_of(batch, tokens)]
    for part in track(parts, "responses"):
        inputs = {name: value.to(context.device) for name, value in part.items()}
        with observed_projections(context.model, structure) as (read, written):
            with torch.enable_grad(), autocast_if_fast(context.device):
                outputs = context.model(**model_inputs(inputs), **no_cache(context.model))
                rows = context.task.compared_outputs(outputs, inputs).float()
            drawn = _directions(context, rows.detach(), directions, generator)
            gradients = list(_gradients(rows, drawn, written))
        texts = len(main_input(inputs))
        for name, levels in kept.items():
            # The widest product of all, so once for all directions.
            white = [whitenings[name](use) for use in read[name]]
            for gradient in gradients:
                uses = zip(gradient[name], white, strict=True)
                tails = torch.stack([_tails(structure[name], *use, whitenings[name], texts) for use in uses]).sum(0)
                found[name].append(tails[:, list(levels)].cpu())
    return {name: torch.cat(own) for name, own in found.items()}


def _directions(
    context: PruneContext, rows: Float[Tensor, "rows features"], count: int, generator: torch.Generator
) -> list[Float[Tensor, "rows features"]]:
    noise = [torch.randn(rows.shape, generator=generator).to(rows) for _ in range(count)]
    return [context.task.direction(rows, one) for one in noise]


def _gradients(
    rows: Float[Tensor, "rows features"], drawn: Sequence[Tensor], written: Mapping[str, Sequence[Tensor]]
) -> Iterator[dict[str, list[Tensor | None]]]:
    """The gradients of ``v . z`` at the outputs of all projections at every use, one direction after the other."""
    for number, direction in enumerate(drawn):
        (rows * direction).sum().backward(retain_graph=number + 1 < len(drawn))
        yield {name: [None if use.grad is None else use.grad.float() for use in uses] for name, uses in written.items()}
        for use in chain.from_iterable(written.values()):
            use.grad = None


def _tails(
    group: Group,
    gradient: Float[Tensor, "... rows"] | None,
    white: Float[Tensor, "... columns"],
    whitening: Whitening,
    texts: int,
) -> Float[Tensor, "texts units+1"]:
    """Responses by kept count. Entry ``k`` sums over the columns that a level of ``k`` units does not keep."""
    if gradient is None:  # the outputs do not depend on this projection
        return white.new_zeros(texts, group.size + 1)
    products = (gradient @ whitening.reduced.T) * white
    columns = products.reshape(texts, -1, products.shape[-1]).sum(1)
    units = columns.reshape(texts, group.size, group.width).sum(-1)
    return torch.cat([-units.flip(1).cumsum(1).flip(1), units.new_zeros(texts, 1)], 1)
