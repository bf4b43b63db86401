"""GTE, Nomic BERT and Jina embeddings v3."""

from __future__ import annotations

from tiny_configs.sizes import ENCODER

CONFIGS = {
    "gte": {**ENCODER, "type_vocab_size": 2, "bos_token_id": 0, "eos_token_id": 2},
    "nomic_bert": {**ENCODER, "bos_token_id": 0, "eos_token_id": 2},
    "jina_embeddings_v3": {**ENCODER, "bos_token_id": 0, "eos_token_id": 2, "attention_probs_dropout_prob": 0.0},
}
