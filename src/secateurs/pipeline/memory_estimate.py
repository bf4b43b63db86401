"""``memory_bytes``: what a run will hold at most, as ``--dry-run`` prints it.

The model and the data are loaded when it is asked, so that it starts from what the process holds, and adds what comes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from secateurs.numerics.hessian import Moments
from secateurs.oneshot.backward import LAYERS, TOKENS, tokens_per_row
from secateurs.oneshot.dense_record import RECORD_BYTES
from secateurs.oneshot.kept_inputs import KEPT_BYTES
from secateurs.oneshot.windows import WINDOW_BYTES
from secateurs.pipeline.load import Loaded
from secateurs.structure.cost import ParameterCost
from secateurs.tasks.base import main_input

__all__ = ["memory_bytes"]

ACTIVATIONS = 30
"""Approximate number of tensors of the hidden size that a layer keeps for its backward pass."""

ELIMINATION = 4
"""Matrices (columns x columns) that an elimination holds."""

RECORDED = 4
"""Tensors of the hidden size that are kept of every layer of the dense model (``secateurs.oneshot.dense_record``)."""

LIBRARIES = 0.5e9
"""Bytes of a process with its libraries, where the system does not tell."""


def memory_bytes(loaded: Loaded, output_bytes: float) -> float:
    """Bytes of all that a run of a method without training holds.

    To what is held now come the tensors that the method puts in place of the model's own, and the shrunk model; the dense
    outputs that candidates and results are compared with; what is kept of the dense model; and the largest of the steps:
    calibration, elimination, search, refit.

    Args:
        loaded: everything that the recipe names.
        output_bytes: bytes per sequence of the outputs that models are compared by.
    """
    cost = ParameterCost.of(loaded.model, loaded.structure)
    weights = 4.0 * float(cost(loaded.structure.sizes))
    config = loaded.dense.config  # of two towers, that of the images: models of texts and images have no task
    hidden = getattr(config, "vision_config", config).hidden_size * 4.0
    layers = len(loaded.structure.layers)
    columns = [float(group.size * group.width) for group in loaded.structure]
    widest = max(columns, default=0.0)
    matrix = 8.0 * widest**2
    moments = _windowed(Moments.bytes_for(int(own)) for own in columns)
    factors = _windowed(own * (8.0 * own + 4.0 * hidden) for own in columns)
    weighed = ACTIVATIONS * TOKENS * hidden * min(layers, LAYERS)
    roles = loaded.data.roles
    tokens, searched = (
        sum(len(main_input(batch)) * tokens_per_row(batch) for role in parts for batch in role.batches)
        for parts in ((roles.fit,), (roles.search, roles.accept))
    )
    fitted = min(3e9, 7 * tokens * hidden)  # two sub-blocks of one layer, in both models
    fitted += min(KEPT_BYTES, 4.0 * tokens * widest)
    behind_norms = any(group.post_norm for group in loaded.structure)  # whose levels are measured
    if getattr(loaded.method, "searches_by_gradient", False) and not behind_norms:
        search = factors + _windowed(own * (4.0 * own + hidden) for own in columns) + weighed
    else:
        search = factors + min(4e9, searched * hidden * layers)
    calibration = moments + (weighed if getattr(loaded.method, "weighs_tokens", False) else 0.0)
    steps = max(calibration, moments + ELIMINATION * matrix, search, factors + fitted + 2 * matrix)
    compared = roles.search.rows + roles.accept.rows + roles.report.rows
    recorded = min(RECORD_BYTES, RECORDED * tokens * hidden * layers)
    return _held(weights) + 2 * weights + compared * output_bytes + recorded + steps


def _windowed(matrices: Iterable[float]) -> float:
    """Bytes of the matrices that are held at once (``secateurs.oneshot.windows``)."""
    all_bytes = [*matrices]
    return min(sum(all_bytes), max(WINDOW_BYTES, max(all_bytes, default=0.0)))


def _held(weights: float) -> float:
    """Bytes that this process holds now; where the system does not tell, those of the libraries and of the model."""
    status = Path("/proc/self/status")
    found = re.search(r"VmRSS:\s*(\d+) kB", status.read_text()) if status.is_file() else None
    return int(found[1]) * 1024.0 if found else LIBRARIES + weights
