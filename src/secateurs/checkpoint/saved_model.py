"""Load any saved model, dense or pruned, with the head that it was saved with."""

from __future__ import annotations

import torch
import transformers
from transformers import PreTrainedModel

from secateurs.artifacts import expanded, is_path
from secateurs.checkpoint import save_load
from secateurs.checkpoint.load_model import load
from secateurs.checkpoint.refusals import reason
from secateurs.errors import CheckpointError

__all__ = ["HEADS", "load_saved_model"]

HEADS = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
    "ForImageClassification": "AutoModelForImageClassification",
    "ForImageClassificationWithTeacher": "AutoModelForImageClassification",
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
}
"""Ending of the name of a transformers class -> Auto class that loads it. Any other class is loaded without its head."""


def load_saved_model(model: str, *, trust_remote_code: bool) -> PreTrainedModel:
    """Model with its head, in float32, on the CPU, in evaluation mode; the base model if the head has no weights.

    Args:
        model: folder in Hugging Face format, or hub id.
        trust_remote_code: run Python code from the folder or hub repository of the model.

    Raises:
        CheckpointError: the folder is missing or damaged, or the hub cannot be reached.
    """
    folder = expanded(model)
    if not folder.is_dir() and folder.exists():
        raise CheckpointError(f"{model} is a file; name the folder of a model")
    if is_path(model) and not folder.exists():
        raise CheckpointError(f"the model folder {model} does not exist; give a folder or a hub id like owner/name")
    if (folder / "config.json").is_file() and not trust_remote_code:
        return save_load.load(folder, dtype=torch.float32).eval()
    try:
        config = transformers.AutoConfig.from_pretrained(
            str(folder) if is_path(model) else model, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the model {model}: {reason(model, error)}") from None
    architecture = next(iter(config.architectures or ()), "AutoModel")
    auto = next((name for suffix, name in HEADS.items() if architecture.endswith(suffix)), "AutoModel")
    return load(
        model,
        auto,
        dtype=torch.float32,
        device="cpu",
        trust_remote_code=trust_remote_code,
        revision=None,
        as_saved=True,
    )[0]
