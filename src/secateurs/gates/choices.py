"""Values that the settings of CoFi and FLOP name. Without torch, so that settings are checked before torch is imported."""

from __future__ import annotations

from typing import Literal

__all__ = ["REACH", "Ascent", "Matching"]

REACH = 4.605170185988092
"""``ln 100``: bound on the absolute value of ``log_alpha``, so that every gate keeps a gradient."""

Ascent = Literal["gradient", "adam"]
"""How multipliers ascend. ``gradient``: by their rate times the gap ``s - t``, so that they stop where the target is met.
``adam`` (the authors): by about one rate per step however small the gap is, so that they overshoot."""

Matching = Literal["any", "ordered", "random"]
"""``any``: each teacher layer is matched with the nearest kept layer (the authors' version 3). ``ordered``: lower teacher
layers are matched with lower student layers (version 4, by layer and not by rank). ``random``: ordered, with one teacher
layer of each quarter drawn anew at each step (version 6)."""

EXAMINED_TEXTS = 512
"""Texts of the role accept, on which masks are compared with the teacher."""
