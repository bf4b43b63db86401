"""Neuron pruning ("NP"), a baseline of FLOP: gates on the inputs of plain matrices, without factorisation.

    y = W diag(z) x + b

Gates, penalty and training are FLOP's. A matrix that lost inputs selects the kept inputs and multiplies them by its kept
columns. The difference to FLOP shows what the factorisation is worth.
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass
from torch import nn

from secateurs.context import PruneContext
from secateurs.methods.baselines._settings import PRESETS as BASELINE_PRESETS
from secateurs.methods.baselines._settings import NeuronPruningSettings
from secateurs.methods.flop.steps import FittedFLOP
from secateurs.structure.structure import Structure
from secateurs.surgery.input_selection import input_groups

__all__ = ["METHOD", "PRESETS", "NeuronPruning"]


@dataclass(frozen=True)
class NeuronPruning(NeuronPruningSettings):
    """Gates on inputs; its fields are those of ``GateTrainingSettings``."""

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """The model itself."""
        return model

    def structure(self, model: nn.Module) -> Structure:
        """The inputs of every chosen matrix that is not a pair of factors."""
        return input_groups(model, self.matrices)

    def fit(self, context: PruneContext) -> FittedFLOP:
        """Keep the dense weights: every target is learned from them."""
        return FittedFLOP(self, context)


METHOD = NeuronPruning

PRESETS = BASELINE_PRESETS["neuron_pruning"]
