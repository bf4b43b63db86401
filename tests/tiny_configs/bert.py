"""BERT and the encoders with its layout."""

from __future__ import annotations

from tiny_configs.sizes import ENCODER

CONFIGS = {
    "bert": ENCODER,
    "roberta": ENCODER,
    "xlm-roberta": ENCODER,
    "camembert": ENCODER,
    "electra": {**ENCODER, "embedding_size": 16},
}
