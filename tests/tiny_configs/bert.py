"""BERT and the encoders with its layout."""

from __future__ import annotations

from tiny_configs.sizes import ENCODER

CONFIGS = {
    "bert": ENCODER,
    "roberta": ENCODER,
    "xlm-roberta": ENCODER,
    "camembert": ENCODER,
    "electra": {**ENCODER, "embedding_size": 16},
    "ernie": {**ENCODER, "use_task_id": True},
    "data2vec-text": ENCODER,
    "roformer": ENCODER,
    "roc_bert": {
        **ENCODER,
        "pronunciation_vocab_size": 12,
        "pronunciation_embed_dim": 8,
        "shape_vocab_size": 12,
        "shape_embed_dim": 6,
    },
}
