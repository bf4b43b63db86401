"""Things small enough to be made in memory by any test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

__all__ = ["WORDS", "tiny_image_processor", "tiny_processor", "tiny_tokenizer", "write_rows"]

WORDS = (
    *("the", "a", "cat", "dog", "sat", "ran", "on", "over", "mat", "moon", "good", "bad", "very", "not"),
    *("is", "was", "film", "story", "it", "and", "but", "small", "big", "red", "blue", "one", "two"),
)
"""What the tiny tokenizer knows; everything else is ``<unk>``."""


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Words at blanks, ids below 40, ``<cls> text <sep> pair <sep>``; ``<sep>`` is also the end token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["<pad>", "<unk>", "<cls>", "<sep>", "<mask>"]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS, "."])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<cls> $A <sep>",
        pair="<cls> $A <sep> $B:1 <sep>:1",
        special_tokens=[("<cls>", vocabulary["<cls>"]), ("<sep>", vocabulary["<sep>"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token="<cls>",
        sep_token="<sep>",
        mask_token="<mask>",
        eos_token="<sep>",
        model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def tiny_image_processor(size: int = 16) -> Any:
    """Makes images of ``size`` by ``size`` pixels."""
    from transformers import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": size, "width": size})


def tiny_processor(model: Any) -> Any:
    """What prepares the inputs of a tiny model: an image processor for a model of images, else the tiny tokenizer."""
    images = model.main_input_name == "pixel_values"
    config = getattr(model.config, "vision_config", model.config)
    return tiny_image_processor(config.image_size) if images else tiny_tokenizer()


def write_rows(path: Path, **columns: list[Any]) -> Path:
    """Columns -> one Parquet file; the folder is made."""
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path)
    return path
