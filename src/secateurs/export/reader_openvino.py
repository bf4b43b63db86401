"""Runs the model in this folder: ``python reader.py "a text" "another text"``. It needs openvino, tokenizers and numpy."""

import sys
from pathlib import Path

import numpy as np
import openvino
from tokenizers import Tokenizer

LENGTH = 256  # tokens to which a text is truncated
folder = Path(__file__).parent
precise = {"INFERENCE_PRECISION_HINT": "f32"}  # without it, bfloat16 where the processor has it: faster, and less exact
model = openvino.Core().compile_model(str(folder / "openvino_model.xml"), "CPU", precise)
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.enable_truncation(LENGTH)
tokenizer.enable_padding()  # with id 0; the attention mask hides it


def run(texts):
    """Texts -> the outputs by name, as arrays."""
    rows = tokenizer.encode_batch(list(texts))
    known = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    wanted = [port.any_name for port in model.inputs]
    found = model({name: np.array([getattr(row, known[name]) for row in rows], dtype=np.int64) for name in wanted})
    return {port.any_name: found[port] for port in model.outputs}


if __name__ == "__main__":
    for name, value in run(sys.argv[1:]).items():
        print(name, value)
