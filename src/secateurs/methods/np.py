"""NP, the neuron-pruning baseline of FLOP: gates on the inputs of plain matrices, without factorisation.

    y = W diag(z) x + b

Gates, penalty and training are FLOP's. A matrix that lost inputs selects those that are left and multiplies by what is left
of it. What is worth of the factorisation is the difference to this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from secateurs.errors import RecipeError
from secateurs.inputs import input_groups
from secateurs.methods.flop import FLOP
from secateurs.methods.flop import PRESETS as FLOPS
from secateurs.structure import Structure

__all__ = ["METHOD", "NP", "PRESETS"]


@dataclass(frozen=True)
class NP(FLOP):
    """FLOP's hyper-parameters; ``init`` and ``rank`` are of factors, and there are none."""

    name: ClassVar[str] = "np"

    init: Literal["aware", "svd", "scratch"] = "svd"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init != "svd" or self.rank:
            raise RecipeError("np: there are no factors; leave init and rank out")

    def rebuilt(self, model: nn.Module) -> nn.Module:
        """As it is."""
        return model

    def structure(self, model: nn.Module) -> Structure:
        """The inputs of every matrix that is no pair of factors."""
        return input_groups(model, self.matrices)


METHOD = NP

PRESETS = {"quick": FLOPS["quick"]}
