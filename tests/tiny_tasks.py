"""A small model for every task, and how the tests of all tasks read data."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from secateurs.tasks.base import model_inputs
from secateurs.tasks.roles import RoleSizes

__all__ = ["SETTINGS", "VOCABULARY", "outputs", "small_model"]

VOCABULARY = 40
SETTINGS: dict[str, Any] = {"batch_size": 4, "sequence_length": 12, "roles": RoleSizes(10), "seed": 0}


def small_model(auto_class: str, seed: int = 0) -> Any:
    """A small decoder, because transformers has every head of text for it but one, which gets an encoder-decoder."""
    if "Seq2Seq" in auto_class:
        config = transformers.BartConfig(
            vocab_size=VOCABULARY,
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=12,
            decoder_ffn_dim=12,
            max_position_embeddings=32,
            pad_token_id=0,
            decoder_start_token_id=3,
            init_std=0.5,
        )
        torch.manual_seed(seed)
        return transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    if "Image" in auto_class:
        config = transformers.ViTConfig(
            hidden_size=16,
            intermediate_size=12,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=16,
            patch_size=4,
            initializer_range=0.5,
            num_labels=2,
        )
        torch.manual_seed(seed)
        return transformers.AutoModelForImageClassification.from_config(config).eval()
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        pad_token_id=0,
        initializer_range=0.5,
        num_labels=2,
    )
    torch.manual_seed(seed)
    return getattr(transformers, auto_class).from_config(config).eval()


def outputs(model: Any, batch: dict[str, torch.Tensor]) -> Any:
    return model(**model_inputs(batch))
