"""Whisper: ten encoder tokens, each of two frames of sound with eight bands; two layers in each stack."""

from __future__ import annotations

from tiny_configs.bart import _BART

HEARS_SOUND = True
CONFIGS = {
    "whisper": {
        **{name: value for name, value in _BART.items() if name != "max_position_embeddings"},
        "num_mel_bins": 8,
        "max_source_positions": 10,
        "max_target_positions": 64,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
}
