"""The modules of a pruned model that behave differently from those of transformers: emptied, skipped, selected, factored.

The file imports only torch and is saved beside the weights of every pruned model. A module changes its
behaviour in one of two ways. A linear module is replaced by another one (``Emptied``, ``Factored``, ``Selected``). All others
keep their place and their fields and get a subclass of their class (``become``). Both kinds can be
pickled. Every ``nn.Linear`` and ``Conv1D`` of a pruned model has its usual meaning, because tools such as LoRA and int8
replace it by something derived from its sizes and its weight.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn


class Behaviour:
    """Base of the classes that ``become`` puts before the class of a module.

    The subclass of a module exists only in memory. A pickle therefore holds the class of transformers and the behaviours.
    """

    def __reduce_ex__(self, protocol):
        return new_module, parts_of(type(self)), *super().__reduce_ex__(protocol)[2:]


class SkippedTensor(Behaviour):
    """A removed sub-block: returns its input, or the output of the emptied projection if that is inside the block."""

    def forward(self: Any, hidden_states, *args, **kwargs):
        projection = emptied_projection(self)
        return hidden_states if projection is None else projection(hidden_states)


class SkippedTuple(SkippedTensor):
    """A removed attention, whose callers expect ``(output, attention weights)``.

    Eager attention returns weights, which transformers collects for ``output_attentions``. A removed attention returns the
    weights of 0 heads there, so that the collected tuple has one entry per layer. An attention without a config is eager.
    """

    def forward(self: Any, hidden_states, *args, **kwargs):
        output = super().forward(hidden_states)
        if getattr(getattr(self, "config", None), "_attn_implementation", "eager") != "eager":
            return output, None
        rows, tokens = hidden_states.shape[:2]
        return output, hidden_states.new_zeros(rows, 0, tokens, tokens)


def become(module: nn.Module, behaviour: type) -> None:
    """Change the forward of one module: its class becomes a subclass of the old one. Its parameters are not touched."""
    if not is_a(behaviour, module):
        module.__class__ = subclass(behaviour, type(module))


@functools.cache
def subclass(behaviour: type, cls: type) -> type:
    """The subclass of a module class with another behaviour; it has the name of the module class."""
    return type(cls.__name__, (behaviour, cls), {"__module__": cls.__module__, "made_by_become": True})


def parts_of(cls: type) -> tuple[type, ...]:
    """The class that a module had before ``become``, then its behaviours in the order in which it got them."""
    behaviours: list[type] = []
    while "made_by_become" in vars(cls):
        behaviour, cls = cls.__bases__
        behaviours.insert(0, behaviour)
    return cls, *behaviours


def new_module(cls: type, *behaviours: type) -> Any:
    """A module with these behaviours and without any state yet, for ``pickle`` and ``copy``."""
    for behaviour in behaviours:
        cls = subclass(behaviour, cls)
    return cls.__new__(cls)  # pyright: ignore[reportCallIssue]


def is_a(behaviour: type, module: Any) -> bool:
    """Whether a module has this behaviour. Compared by name, because several copies of this file may be loaded."""
    return behaviour.__name__ in names_of(type(module))


class Emptied(nn.Module):
    """A linear module without inputs or without outputs: it outputs its bias, for any input.

    It is no ``nn.Linear`` and no ``Conv1D``. Tools that replace linear modules (LoRA, int8) would fail at a weight without
    entries and therefore must not find it. Its weight stays in the state dict under its name.
    """

    weight: Any
    bias: Any

    def __init__(self, linear: Any):
        super().__init__()
        self.transposed = is_conv1d(linear)
        self.weight = linear.weight
        self.register_parameter("bias", linear.bias)
        sync_sizes(self)

    def forward(self, hidden_states, *args, **kwargs):
        if self.bias is None:
            size = self.weight.shape[1 if self.transposed else 0]
            return hidden_states.new_zeros(*hidden_states.shape[:-1], size)
        return self.bias.to(hidden_states.dtype).expand(*hidden_states.shape[:-1], self.bias.shape[0])


class OneInput(nn.Module):
    """A linear module with one input. It is no ``nn.Linear``: torchao 0.18 fails to quantise those to int8."""

    bias: Any

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight
        self.register_parameter("bias", linear.bias)

    def forward(self, hidden_states):
        return nn.functional.linear(hidden_states, self.weight, self.bias)


def is_conv1d(module: Any) -> bool:
    """Whether a module is a ``Conv1D`` of transformers, a linear module whose weight is transposed."""
    return hasattr(module, "nf") and hasattr(module, "nx") and not is_a(Factored, module) and not is_a(Emptied, module)


def is_linear(module: Any) -> bool:
    """Whether a module is a matrix, with or without a bias: an ``nn.Linear``, a ``Conv1D``, or one of another class."""
    if is_a(Emptied, module):
        return False
    return isinstance(module, nn.Linear) or is_conv1d(module) or is_matrix(module)


def is_matrix(module: Any) -> bool:
    """Whether a module has a weight and the size fields of ``nn.Linear``, like the projections of adaptive embeddings."""
    return "weight" in module._parameters and {"in_features", "out_features"} <= vars(module).keys()


def is_emptied(module: Any) -> bool:
    """Whether a module is a linear module without inputs."""
    return is_a(Emptied, module) and module.weight.shape[0 if module.transposed else 1] == 0


def replace_linears(root: nn.Module) -> None:
    """Replace every linear module below ``root`` whose weight has no entries, or one column, keeping its parameters."""
    for parent in list(root.modules()):
        for name, module in list(parent.named_children()):
            child: Any = module
            if is_linear(child) and child.weight.numel() == 0:
                setattr(parent, name, Emptied(child).train(child.training))
            elif isinstance(child, nn.Linear) and child.in_features == 1:
                setattr(parent, name, OneInput(child).train(child.training))


def reset_emptied(root: nn.Module) -> None:
    """Set the biases of the emptied modules of a *new* model to zero; transformers initialises only the modules it knows."""
    for module in root.modules():
        if is_a(Emptied, module) and module.bias is not None:
            module.bias.zero_()  # pyright: ignore[reportCallIssue]


def emptied_projection(block: nn.Module) -> Any:
    """The emptied output projection inside a removed block, or ``None`` if it is outside.

    A pair of factors is emptied if its *first* factor has no inputs. If only its *second* has none, it is a matrix of rank 0.
    """
    for child in block.children():
        module: Any = child
        if is_emptied(module.first if is_factored(module) else module):
            return module
        if not is_factored(module) and (found := emptied_projection(module)) is not None:
            return found
    return None


def sync_sizes(module: Any) -> None:
    """Update the fields of Linear, Conv1D, Embedding and LayerNorm that repeat the shape of their weight."""
    emptied = is_a(Emptied, module)
    if is_conv1d(module) or (emptied and module.transposed):
        module.nx, module.nf = module.weight.shape
    elif emptied or is_linear(module):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif hasattr(module, "normalized_shape"):
        module.normalized_shape = tuple(module.weight.shape)


def fresh_linear(inputs: int, outputs: int, bias: bool, **where) -> nn.Linear:
    """A new linear module. Sizes may be 0, for which the constructor of ``nn.Linear`` would warn."""
    linear = nn.Linear(1, 1, bias=bias, **where)
    linear.weight = nn.Parameter(torch.empty(outputs, inputs, **where).normal_(std=0.02))
    if bias:
        linear.bias = nn.Parameter(torch.zeros(outputs, **where))
    sync_sizes(linear)
    return linear


class Factored(nn.Module):
    """A linear map of low rank as two modules: ``first`` (rank x inputs, without bias), then ``second`` (outputs x rank).

    Its sizes and its bias are those of the linear module that it replaces. At rank 0 it outputs its bias.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, bias: bool, transposed: bool = False, **where):
        super().__init__()
        self.first = fresh_linear(inputs, rank, False, **where)
        self.second = fresh_linear(rank, outputs, bias, **where)
        self.transposed = transposed  # it replaces a Conv1D

    def forward(self, hidden_states):
        if self.rank == 0 and is_emptied(self.second):
            return self.second(hidden_states).contiguous()  # attention is slow for expanded queries or keys
        return self.second(self.first(hidden_states))

    @property
    def weight(self):
        """The product, in the layout of the replaced weight, for code that looks at its dtype or initialises it (no effect).

        Tools for int8 replace the weights of the factors by tensors or methods of their own, which need not multiply. Nobody
        computes with the product then, but GPT-2 still initialises it while it loads: the result is a tensor of its shape.
        """
        factors = self.second.weight, self.first.weight
        plain = all(type(factor) in (torch.Tensor, nn.Parameter) for factor in factors)
        product = factors[0] @ factors[1] if plain else torch.empty(self.out_features, self.in_features)
        return product.T if self.transposed else product

    @property
    def bias(self):
        return self.second.bias

    @property
    def in_features(self) -> int:
        return self.first.in_features

    @property
    def out_features(self) -> int:
        return self.second.out_features

    nx, nf = in_features, out_features  # Conv1D's names for them

    @property
    def rank(self) -> int:
        return self.first.out_features


class Selected(nn.Module):
    """A matrix that uses only some of its inputs: their indices are in the buffer ``selected``."""

    weight: Any
    bias: Any

    def __init__(self, linear: Any, indices: torch.Tensor):
        super().__init__()
        self.register_buffer("selected", indices.to(linear.weight.device))

    def chosen(self, hidden_states):
        """The selected inputs."""
        return hidden_states.index_select(-1, self.selected)


class SelectedLinear(Selected):
    """The matrix is the child ``linear``."""

    def __init__(self, linear: Any, indices: torch.Tensor):
        super().__init__(linear, indices)
        self.linear = linear

    def forward(self, hidden_states):
        return self.linear(self.chosen(hidden_states))

    @property
    def weight(self):
        return self.linear.weight

    @property
    def bias(self):
        return self.linear.bias


class SelectedMatrix(Selected):
    """The matrix is a parameter of this module, as an earlier version of Secateurs saved it."""

    def __init__(self, linear: Any, indices: torch.Tensor):
        super().__init__(linear, indices)
        self.transposed = is_conv1d(linear)
        self.weight = linear.weight
        self.register_parameter("bias", linear.bias)

    def forward(self, hidden_states):
        weight = self.weight.T if self.transposed else self.weight
        return nn.functional.linear(self.chosen(hidden_states), weight, self.bias)


names_of = functools.cache(lambda cls: frozenset(base.__name__ for base in cls.__mro__))  # of a class and of its bases
is_factored = functools.partial(is_a, Factored)
is_selected = functools.partial(is_a, Selected)
