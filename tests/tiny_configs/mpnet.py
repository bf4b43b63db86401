"""MPNet."""

from __future__ import annotations

from tiny_configs.sizes import ENCODER

CONFIGS = {"mpnet": ENCODER}
