"""Trains an adaptive language model from scratch, over words or bytes. Vocabulary and cut-offs come from the training text.

    python benchmarks/train_lm.py --unit word --data ../shared/data/wikitext2 --out runs/word --steps 1000
    python benchmarks/train_lm.py --unit byte --data ../shared/data/wikitext2 --out runs/byte --steps 1000

The score on held-out text is printed, and written to ``training.json`` in the folder: perplexity of words, or bits per byte,
which papers on enwik8 call bits per character. Windows do not overlap: the first tokens of each window have little context.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, Trainer, TrainingArguments

from secateurs.adaptive_lm import AdaptiveLMConfig, AdaptiveLMForCausalLM, byte_tokenizer, cutoffs, word_tokenizer
from secateurs.checkpoint.save_load import save
from secateurs.latency.environment import machine
from secateurs.pipeline.provenance import commit, versions
from secateurs.tasks import task
from secateurs.tasks.base import Columns
from secateurs.tasks.data.sources import read_splits
from secateurs.tasks.roles import RoleSizes

SCHEDULES = {"cosine": "cosine", "linear": "linear", "noam": "inverse_sqrt"}
"""Name of a schedule -> its name in transformers. Noam's schedule rises linearly, then falls with the root of the step."""


def build(args: argparse.Namespace) -> tuple[AdaptiveLMForCausalLM, Any]:
    """Build a model with random weights, or read the model of a folder; and its tokenizer."""
    if args.start:
        return AdaptiveLMForCausalLM.from_pretrained(args.start), AutoTokenizer.from_pretrained(args.start)
    lines = read_splits(args.data)["train"]["text"]
    if args.unit == "word":
        tokenizer, counts = word_tokenizer(lines, most=args.vocabulary)
        divisions = cutoffs(counts) if args.cutoffs is None else args.cutoffs
    else:
        tokenizer, _ = byte_tokenizer(lines)
        divisions = args.cutoffs or []
    end: Any = tokenizer.eos_token_id
    config = AdaptiveLMConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden,
        intermediate_size=args.intermediate,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        max_position_embeddings=4 * args.window,
        cutoffs=divisions,
        embedding_size=args.embedding or args.hidden,
        embedding_divisor=args.divisor,
        embedding_dropout=args.dropout,
        attention_dropout=args.dropout,
        eos_token_id=end,
    )
    torch.manual_seed(args.seed)
    return AdaptiveLMForCausalLM(config), tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unit", choices=("word", "byte"), required=True)
    parser.add_argument("--data", required=True, help="a folder, file or hub id with a train split of lines")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--start", type=Path, help="folder of the model to train further, whose sizes and vocabulary are kept"
    )
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--intermediate", type=int, default=688)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, help="largest number of words; all words if not given")
    parser.add_argument(
        "--cutoffs", type=int, nargs="*", help="token ids at which clusters begin; chosen by frequency if not given"
    )
    parser.add_argument("--embedding", type=int, help="width of the first cluster; the hidden size if not given")
    parser.add_argument("--divisor", type=float, default=4.0)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--schedule", choices=SCHEDULES, default="cosine")
    parser.add_argument("--warmup", type=int, default=50, help="number of steps")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    language = task("causal_lm")
    model, tokenizer = build(args)
    data = language.read(
        args.data, model, tokenizer, columns=Columns(), batch_size=args.batch, sequence_length=args.window,
        roles=RoleSizes(), seed=args.seed,
    )  # fmt: skip

    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        return language.inputs_for_loss(model, data.collate(rows))

    arguments = TrainingArguments(
        output_dir=str(args.out / "trainer"),
        max_steps=args.steps,
        per_device_train_batch_size=args.batch,
        learning_rate=args.learning_rate,
        lr_scheduler_type=SCHEDULES[args.schedule],
        warmup_steps=args.warmup,
        weight_decay=args.weight_decay,
        adam_beta2=0.98,
        optim="adamw_torch_fused",
        bf16=args.bf16,
        seed=args.seed,
        logging_steps=max(1, args.steps // 20),
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
    )
    windows: Any = data.train
    trainer = Trainer(model=model, args=arguments, train_dataset=windows, data_collator=collate)
    wall, cpu = time.perf_counter(), time.process_time()
    trainer.train()
    minutes = {"minutes": (time.perf_counter() - wall) / 60, "cpu_minutes": (time.process_time() - cpu) / 60}
    score = language.evaluate(model, data.evaluation, model.device)
    record = {
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()},
        "config": {"cutoffs": model.config.cutoffs, "embedding_sizes": model.config.embedding_sizes},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens_seen": args.steps * args.batch * args.window,
        "tokens_an_epoch": len(windows) * args.window,
        **minutes,
        score.name: score.value,
        "details": dict(score.details),
        "tokens_scored": score.count,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "data": data.description,
        "machine": {**machine(), "threads": torch.get_num_threads()},
        "versions": versions(),
        "commit": commit(),
    }
    save(model, tokenizer, args.out / "model")
    (args.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{score} on {score.count} tokens after {args.steps} steps and {minutes['minutes']:.1f} minutes")


if __name__ == "__main__":
    main()
