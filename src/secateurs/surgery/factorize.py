"""Factorised linear layers: ``y = W x + b`` becomes ``y = P (Q x) + b``, a sum of rank-1 components.

Each component is a unit of a group of kind ``RANK``: a row of ``Q`` (``first``) and a column of ``P`` (``second``). A pair of
full rank has *more* entries than its matrix. At and below the break-even rank ``m n / (m + n)`` it has no more entries;
above that rank, ``multiply_back`` turns the pair into one matrix again.

The matrices that can be factorised are found in the structure of the model: the input projections and the output projection
of every group of heads or neurons.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateurs.errors import RecipeError, UnsupportedModelError
from secateurs.modeling.modeling_pruned import factor
from secateurs.modeling.pruned_modules import is_factored, sync_sizes
from secateurs.numerics.low_rank import break_even, factors
from secateurs.structure.cut import Cut, Kind
from secateurs.structure.families import discover
from secateurs.structure.structure import Group, Structure

__all__ = [
    "factorize",
    "is_larger",
    "matrices",
    "multiply_back",
    "pairs",
    "rank_group",
    "rank_groups",
    "refit",
]


def matrices(model: nn.Module, which: str = "all") -> dict[str, Group]:
    """The linear modules that can be factorised.

    Args:
        model: a transformers model; some of its matrices may be pairs of factors already.
        which: ``all``, ``attention``, ``feed-forward``, or patterns of paths with ``*``, separated by commas.

    Returns:
        Path of the module -> the group whose input projection or output projection it is, in data order.

    Raises:
        UnsupportedModelError: the model has no such modules.
        RecipeError: a pattern matches none of these modules, or matches embeddings.
    """
    found: dict[str, Group] = {}
    for group in discover(model):
        for path in (*group.input_projections, *group.other_inputs, group.output_projection):
            if isinstance(model.get_submodule(path), nn.Embedding):
                continue
            owner = path.rpartition(".")[0]
            found[owner if is_factored(model.get_submodule(owner)) else path] = group
    if not found:
        raise UnsupportedModelError(f"this {type(model).__name__} has no linear layers to factorise")
    kinds = {"attention": Kind.HEAD, "feed-forward": Kind.INTERMEDIATE}
    if which == "all":
        return found
    if which in kinds:
        chosen = {path: group for path, group in found.items() if group.kind is kinds[which]}
        if not chosen:
            raise UnsupportedModelError(f"this {type(model).__name__} has no {which} matrices left to factorise")
        return chosen
    patterns = [part.strip() for part in which.split(",") if part.strip()]
    for pattern in patterns or [which]:
        if not any(fnmatchcase(path, pattern) for path in found):
            _refuse(model, pattern, next(iter(found)))
    return {path: group for path, group in found.items() if any(fnmatchcase(path, part) for part in patterns)}


def _refuse(model: nn.Module, pattern: str, example: str) -> None:
    """Refuse a pattern that matches no matrix.

    Args:
        model: the model.
        pattern: the pattern.
        example: path of a matrix, for the message.

    Raises:
        RecipeError: always; the message says whether the pattern matches embeddings.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for path, module in model.named_modules():
        if fnmatchcase(path, pattern) and id(getattr(module, "weight", None)) in embeddings:
            raise RecipeError(
                f"{path} cannot be factorised: it is an embedding table, or tied to one. Matrices of attention and "
                f"feed-forward blocks can, such as {example}"
            )
    raise RecipeError(
        f"no matrix is called {pattern!r}; give all, attention, feed-forward, or patterns of paths such as {example}"
    )


def factorize(
    model: nn.Module,
    paths: Iterable[str],
    *,
    init: str = "svd",
    rank: int | None = None,
    grams: Mapping[str, Float[Tensor, "inputs inputs"]] | None = None,
    seed: int = 0,
) -> None:
    """Replace linear modules by pairs of factors, in place. Modules that are pairs already are left as they are.

    Args:
        model: the model that holds the modules.
        paths: paths of the modules.
        init: ``svd`` = the factors of the matrix (``secateurs.numerics.low_rank.factors``); ``scratch`` = random factors,
            for a model that is still to be trained.
        rank: number of components to keep. Default with ``svd``: all, so that the product is exact. Default with
            ``scratch``: the break-even rank.
        grams: path -> second moments of the inputs of the module. The factors are then the best ones for these inputs.
        seed: seed of the random factors.

    Raises:
        RecipeError: the rank is larger than the full rank of a matrix.
    """
    generator = torch.Generator().manual_seed(seed)
    for path in paths:
        old: Any = model.get_submodule(path)
        if is_factored(old):
            continue
        weight = old.weight.detach().T if hasattr(old, "nf") else old.weight.detach()
        outputs, inputs = weight.shape
        most = min(inputs, outputs)
        if rank is not None and not 0 < rank <= most:
            raise RecipeError(
                f"a rank of {rank} does not fit {path}, a matrix of {outputs} x {inputs}; give 1 to {most}"
            )
        if init == "scratch":
            number = rank or max(1, break_even(inputs, outputs))
            values = _random(inputs, outputs, number, generator)
        else:
            values = factors(weight, rank, gram=(grams or {}).get(path))
            number = values[0].shape[0]
        _fill(factor(model, path, number), values)


def refit(model: nn.Module, grams: Mapping[str, Float[Tensor, "inputs inputs"]]) -> None:
    """Replace the factors of pairs, in place, by the best factors of the same rank for inputs with given second moments.

    Args:
        model: the model that holds the pairs.
        grams: path of a pair -> second moments of its inputs.
    """
    for path, gram in grams.items():
        pair: Any = model.get_submodule(path)
        _fill(pair, factors(_product(pair), pair.rank, gram=gram))


def rank_groups(model: nn.Module, which: str = "all") -> Structure:
    """The components of the pairs of factors in a model, one group per pair.

    Args:
        model: a transformers model with pairs of factors.
        which: the matrices, see ``matrices``.

    Raises:
        UnsupportedModelError: none of the matrices is a pair of factors of a rank above 0.
        RecipeError: a pattern matches no matrix.
    """
    groups = []
    for path, group in matrices(model, which).items():
        pair: Any = model.get_submodule(path)
        if is_factored(pair) and pair.rank:
            groups.append(rank_group(path, group, pair.rank))
    if not groups:
        raise UnsupportedModelError(f"no matrix of this {type(model).__name__} is a pair of factors of a rank above 0")
    return Structure(tuple(groups))


def is_larger(pair: Any) -> bool:
    """Whether the two factors have more entries than their product."""
    return pair.rank > break_even(pair.in_features, pair.out_features)


def rank_group(path: str, group: Group, size: int) -> Group:
    """The group of the components of one matrix.

    Args:
        path: path of the matrix.
        group: the group of heads or neurons that cuts the matrix.
        size: number of components.
    """
    place = group.name.rpartition(".")[0]
    return Group(
        f"{place}.{path.removeprefix(group.layer + '.')}.rank",
        Kind.RANK,
        size,
        cuts=(Cut(f"{path}.first.weight", 0), Cut(f"{path}.second.weight", 1)),
        output_projection=f"{path}.second",
        block=path,
        layer=group.layer,
        stream=group.stream,
        product=path,
        tokens=group.tokens_of(path),
    )


def multiply_back(model: nn.Module, path: str) -> nn.Module:
    """Replace a pair of factors, in place, by the product as one linear module of the original class, with the same bias.

    Args:
        model: the model that holds the pair.
        path: path of the pair.

    Returns:
        The new module.
    """
    pair: Any = model.get_submodule(path)
    weight = _product(pair).to(pair.first.weight.dtype)
    if pair.transposed:
        from transformers.pytorch_utils import Conv1D

        single: Any = Conv1D(pair.out_features, pair.in_features)
        single.bias = pair.bias
        weight = weight.T
    else:
        single = nn.Linear(pair.in_features, pair.out_features, bias=pair.bias is not None, device="meta")
        if pair.bias is not None:
            single.bias = pair.bias
    single.weight = nn.Parameter(weight.contiguous(), requires_grad=pair.first.weight.requires_grad)
    sync_sizes(single)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, single.train(pair.training))
    return single


def pairs(model: nn.Module) -> dict[str, Any]:
    """Path -> pair, for every pair of factors in a model."""
    return {path: module for path, module in model.named_modules() if is_factored(module)}


@torch.no_grad()
def _product(pair: Any) -> Float[Tensor, "outputs inputs"]:
    """The matrix that a pair of factors stands for, in fp64."""
    return pair.second.weight.double() @ pair.first.weight.double()


@torch.no_grad()
def _fill(pair: Any, values: tuple[Float[Tensor, "rank inputs"], Float[Tensor, "outputs rank"]]) -> None:
    """Copy values into the two weights of a pair."""
    for part, value in zip((pair.first, pair.second), values, strict=True):
        part.weight.copy_(value)


def _random(
    inputs: int, outputs: int, rank: int, generator: torch.Generator
) -> tuple[Float[Tensor, "rank inputs"], Float[Tensor, "outputs rank"]]:
    """Random factors whose product has entries of variance ``2 / (inputs + outputs)``, like a new dense matrix."""
    deviation = (2 / ((inputs + outputs) * rank)) ** 0.25
    first, second = torch.randn(rank, inputs, generator=generator), torch.randn(outputs, rank, generator=generator)
    return deviation * first, deviation * second
