"""What the hyper-parameters of methods refuse: in words, and by the name of the method."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from secateurs.errors import RecipeError
from secateurs.methods import method
from secateurs.methods.flop import FLOP


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("drop", 1.0, r"^flop: drop: input should be less than 1 \(given: 1\.0\)$"),
        ("rate", 0.0, r"^flop: rate: input should be greater than 0 \(given: 0\.0\)$"),
        ("rank", -1, r"^flop: rank: input should be greater than or equal to 0 \(given: -1\)$"),
        ("ramp", 9.0, "^flop: ramp .* must be shorter than epochs"),
        ("evaluations", 0, r"^flop: evaluations: input should be greater than or equal to 1 \(given: 0\)$"),
        ("init", "scratch", "^flop: .* give prepruning"),
        ("rewind", True, "^flop: random factors cannot be rewound to"),
        ("init", "random", r"^flop: init: input should be 'aware', 'svd' or 'scratch' \(given: 'random'\)$"),
    ],
)
def test_flop_refuses(field: str, value: Any, message: str) -> None:
    start = {"init": "scratch", "prepruning": 1.0} if field == "rewind" else {}
    with pytest.raises(RecipeError, match=message):
        method("flop", **start, **{field: value})


def test_settings_of_one_method_are_not_those_of_another() -> None:
    """Neuron pruning has no factors, which ``init`` and ``rank`` are about."""
    with pytest.raises(RecipeError, match="the method neuron-pruning has no hyper-parameter 'rank'"):
        method("neuron_pruning", rank=4)
    with pytest.raises(RecipeError, match="the method neuron-pruning has no hyper-parameter 'init'"):
        method("neuron_pruning", init="svd")


def test_cofi_refuses_two_starts_and_gates_out_of_reach() -> None:
    with pytest.raises(RecipeError, match=r"^cofi: masks=ziplm starts from ZipLM's weights"):
        method("cofi", masks="ziplm", prepruning=1.0)
    with pytest.raises(RecipeError, match=r"^cofi: gate_start \(9\) lies beyond reach \(7\)"):
        method("cofi", gate_start=9)


def test_a_method_made_directly_raises_what_pydantic_raises() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        FLOP(rate=0.0)
