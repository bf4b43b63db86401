"""Runs the model in this folder: ``python reader.py "a text" "another text"``. It needs onnxruntime, tokenizers and numpy."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

LENGTH = 256  # tokens to which a text is truncated
folder = Path(__file__).parent
session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.enable_truncation(LENGTH)
tokenizer.enable_padding()  # with id 0; the attention mask hides it


def run(texts):
    """Texts -> the outputs by name, as arrays."""
    rows = tokenizer.encode_batch(list(texts))
    known = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    wanted = [entry.name for entry in session.get_inputs()]
    inputs = {name: np.array([getattr(row, known[name]) for row in rows], dtype=np.int64) for name in wanted}
    return dict(zip([entry.name for entry in session.get_outputs()], session.run(None, inputs), strict=True))


if __name__ == "__main__":
    for name, value in run(sys.argv[1:]).items():
        print(name, value)
