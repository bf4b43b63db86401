"""A linear map as two: ``y = W x + b`` becomes ``y = P (Q x) + b``, a sum of rank-1 components that can go one by one.

Each component is a unit of a group of kind ``RANK``: a row of ``Q`` (``first``) and a column of ``P`` (``second``). A pair of
full rank is *larger* than its matrix; it is smaller from the break-even rank ``m n / (m + n)`` down. Above it,
``multiply_back`` makes the pair one matrix again.

Which matrices there are is read off the family's structure: what feeds and what reads a group of heads or neurons.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateurs.errors import RecipeError, UnsupportedModelError
from secateurs.families import discover
from secateurs.mask import Mask
from secateurs.modeling_pruned import base_of, factor, is_factored, sync_sizes
from secateurs.numerics.low_rank import break_even, factors
from secateurs.structure import Cut, Group, Kind, Structure

__all__ = [
    "alternatives",
    "factorize",
    "is_larger",
    "matrices",
    "multiply_back",
    "pairs",
    "rank_groups",
    "record_pairs",
    "refit",
    "split",
    "still_there",
]


def matrices(model: nn.Module, which: str = "all") -> dict[str, Group]:
    """The linear modules that can be factorised, in data order, and the group each of them feeds or reads.

    Args:
        model: a transformers model; some of its matrices may be pairs of factors already.
        which: ``all``, ``attention``, ``feed-forward``, or patterns of paths with ``*``, separated by commas.

    Raises:
        UnsupportedModelError: there are none.
        RecipeError: a pattern names no such module, or embeddings.
    """
    found: dict[str, Group] = {}
    for group in discover(model):
        for path in (*group.feeders, group.reader):
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
    """Raises:
    RecipeError: says what the pattern names instead.
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
    """Replace linear modules by pairs of factors, in place; those that are pairs already stay as they are.

    Args:
        model: holds them.
        paths: of the modules.
        init: ``svd``: the matrix itself (``secateurs.numerics.low_rank.factors``); ``scratch``: random factors, at the
            break-even rank if none is given, for a model that is still to be trained.
        rank: components to keep; by default all of them, and the product is exact.
        grams: path -> second moments of what the module reads, to be factorised for.
        seed: of random factors.

    Raises:
        RecipeError: the rank is larger than that of a matrix.
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
    """Factorise the products of pairs anew, for the inputs with these second moments; ranks stay."""
    for path, gram in grams.items():
        pair: Any = model.get_submodule(path)
        _fill(pair, factors(_product(pair), pair.rank, gram=gram))


def rank_groups(model: nn.Module, which: str = "all") -> Structure:
    """The components of every pair of factors, one group a pair.

    Raises:
        UnsupportedModelError: there is no pair of a rank above 0 among the matrices.
    """
    groups = []
    for path, group in matrices(model, which).items():
        pair: Any = model.get_submodule(path)
        if is_factored(pair) and pair.rank:
            groups.append(_ranks(path, group, pair.rank))
    if not groups:
        raise UnsupportedModelError(f"no matrix of this {type(model).__name__} is a pair of factors of a rank above 0")
    return Structure(tuple(groups))


def alternatives(model: nn.Module, which: str = "all") -> Structure:
    """The groups of ``discover``, and the ranks of every matrix that they cut while it is still whole.

    ``split`` makes pairs of those of which not all ranks are kept; the others are not touched.
    """
    structure = discover(model)
    groups = list(structure)
    for path, group in matrices(model, which).items():
        module: Any = model.get_submodule(path)
        if not is_factored(module):
            groups.append(
                replace(
                    _ranks(path, group, min(module.weight.shape)),
                    instead_of=group.name,
                )
            )
    return Structure(tuple(groups), structure.stream)


def split(model: nn.Module, structure: Structure, mask: Mask, *, values: bool = True) -> None:
    """Make pairs, in place, of the whole matrices of which a mask keeps some ranks only: the strongest come first.

    A matrix that already is a product of so many components becomes exactly these.

    Args:
        values: without them the factors are random, which takes no time.

    Raises:
        RecipeError: the group that cuts the matrix otherwise has lost units too.
    """
    for group in structure.alternatives:
        if mask[group.name].all() or is_factored(model.get_submodule(group.product)):
            continue
        if not mask[group.instead_of].all():
            raise RecipeError(f"the mask cuts both {group.instead_of} and {group.name}; one of the two must stay whole")
        if values:
            factorize(model, [group.product])
        else:
            factorize(model, [group.product], init="scratch", rank=group.size)


def is_larger(pair: Any) -> bool:
    """Have the two factors more entries than their product?"""
    return pair.rank > break_even(pair.in_features, pair.out_features)


def _ranks(path: str, group: Group, size: int) -> Group:
    """The components of one matrix that a group cuts otherwise."""
    place = group.name.rpartition(".")[0]
    return Group(
        f"{place}.{path.removeprefix(group.layer + '.')}.rank",
        Kind.RANK,
        size,
        cuts=(Cut(f"{path}.first.weight", 0), Cut(f"{path}.second.weight", 1)),
        reader=f"{path}.second",
        block=path,
        layer=group.layer,
        stream=group.stream,
        product=path,
    )


def multiply_back(model: nn.Module, path: str) -> nn.Module:
    """Put one linear module of the kind that was there before in the place of a pair, and the bias with it."""
    pair: Any = model.get_submodule(path)
    weight = _product(pair).to(pair.first.weight.dtype)
    if pair.transposed:
        from transformers.pytorch_utils import Conv1D

        single: Any = Conv1D(pair.out_features, pair.in_features)
        single.bias = pair.bias
        weight = weight.T
    else:
        single = nn.utils.skip_init(nn.Linear, pair.in_features, pair.out_features, bias=pair.bias is not None)
        if pair.bias is not None:
            single.bias = pair.bias
    single.weight = nn.Parameter(weight.contiguous(), requires_grad=pair.first.weight.requires_grad)
    sync_sizes(single)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, single.train(pair.training))
    return single


def pairs(model: nn.Module) -> dict[str, Any]:
    """Every pair of factors in a model, by its path."""
    return {path: module for path, module in model.named_modules() if is_factored(module)}


def record_pairs(model: nn.Module, before: Set[str], edits: dict[str, Any]) -> None:
    """What pairs of factors there are now, with all their shapes; those that were multiplied back are one weight again."""
    shapes, now = edits["shapes"], pairs(model)
    for path in before - now.keys():
        for part in ("first.weight", "second.weight", "second.bias"):
            shapes.pop(f"{path}.{part}", None)
    for path in before | now.keys():
        inside = model.get_submodule(path).named_parameters()
        shapes |= {f"{path}.{name}": list(parameter.shape) for name, parameter in inside}
    edits["factored"] = {path: pair.rank for path, pair in now.items()}


def still_there(model: nn.Module, shapes: Mapping[str, Sequence[int | None]]) -> dict[str, list[int | None]]:
    """Without the shapes of what is another module by now: a matrix that became a pair, or a pair that became one."""
    base = base_of(model)
    now = pairs(base)

    def there(parameter: str) -> bool:
        path = parameter.rpartition(".")[0]
        owner, _, name = path.rpartition(".")
        if path in now:
            return False
        return name not in ("first", "second") or hasattr(base.get_submodule(owner), name)

    return {parameter: list(shape) for parameter, shape in shapes.items() if there(parameter)}


@torch.no_grad()
def _product(pair: Any) -> Float[Tensor, "outputs inputs"]:
    return pair.second.weight.double() @ pair.first.weight.double()


@torch.no_grad()
def _fill(pair: Any, values: tuple[Tensor, Tensor]) -> None:
    for part, value in zip((pair.first, pair.second), values, strict=True):
        part.weight.copy_(value)


def _random(inputs: int, outputs: int, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Factors whose product has entries of variance ``2 / (inputs + outputs)``, as a fresh dense matrix would."""
    deviation = (2 / ((inputs + outputs) * rank)) ** 0.25
    first, second = torch.randn(rank, inputs, generator=generator), torch.randn(outputs, rank, generator=generator)
    return deviation * first, deviation * second
