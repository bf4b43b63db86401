"""Fine-tunes an encoder on a task. The results are the dense models that the other benchmarks prune.

    python benchmarks/finetune.py --task text-classification --data DATA/glue_mrpc --epochs 5 --out models/minilm-mrpc
    python benchmarks/finetune.py --task question-answering --data DATA/squad_v1 --rows 12000 --epochs 1 \
        --max-length 384 --out models/minilm-squad

Data, loss, metric and training loop are those of the package, with labels and dropout. Without ``--model`` the training
starts from all-MiniLM-L6-v2. A label column of floats makes a regression; any other column makes one class per value. The
last weights are saved: choosing the best of several on the evaluation data would bias its score.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import Subset

from secateurs.cli.console import configure_logging, progress_bars
from secateurs.cli.demo import find_model
from secateurs.latency.environment import machine
from secateurs.numerics.precision import native_bfloat16
from secateurs.pipeline.provenance import commit, versions
from secateurs.tasks import task
from secateurs.tasks.base import Columns, model_inputs
from secateurs.tasks.data.batches import sample
from secateurs.tasks.data.columns import find_label
from secateurs.tasks.data.sources import read_splits
from secateurs.tasks.data.splits import divide
from secateurs.tasks.roles import RoleSizes
from secateurs.training.objective import Objective
from secateurs.training.trainer import Training, train

TASKS = ("text-classification", "question-answering")


class Supervised(Objective):
    """The loss of the task, by labels.

    Args:
        its_task: the task.
    """

    name = "fine-tuning"

    def __init__(self, its_task: Any) -> None:
        self.task = its_task

    def loss(self, model: nn.Module, inputs: dict[str, Tensor], step: int) -> Tensor:
        """See ``Objective.loss``."""
        return self.task.loss(model(**model_inputs(inputs)), inputs)


def head(name: str, source: str) -> dict[str, Any]:
    """The settings of the head of the model that follow from the labels in the data.

    Args:
        name: name of the task.
        source: the data.
    """
    if name != "text-classification":
        return {}
    rows = divide(source, read_splits(source), usable=lambda rows: find_label(Columns(), rows) is not None, seed=0).rows
    column = find_label(Columns(), rows)
    if column is None:
        raise SystemExit(f"{source} has no label column")
    labels = sorted(set(rows[column][:]))
    if isinstance(labels[0], float):
        return {"num_labels": 1, "problem_type": "regression"}
    names = [str(label) if isinstance(label, str) else f"LABEL_{label}" for label in labels]
    return {"id2label": dict(enumerate(names)), "label2id": {label: index for index, label in enumerate(names)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub id of the model; all-MiniLM-L6-v2 if not given")
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument(
        "--steps", type=int, default=0, help="number of optimiser steps, in place of the epochs; 0 = epochs count"
    )
    parser.add_argument("--rows", type=int, help="train on this many random rows (for questions: windows of contexts)")
    parser.add_argument("--lr", type=float, default=5e-5, help="peak learning rate, linear to 0")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--evaluation-rows", type=int, help="evaluate on this many random rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    given = parser.parse_args()
    configure_logging(verbose=False)
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    its_task = task(given.task.replace("-", "_"))
    with tempfile.TemporaryDirectory() as scratch, progress_bars() as track:
        source = given.model or find_model(Path(scratch))
        auto = getattr(transformers, its_task.auto_class)
        model = auto.from_pretrained(source, dtype=torch.float32, use_safetensors=True, **head(given.task, given.data))
        model.to(given.device)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        data = its_task.read(
            given.data,
            model,
            tokenizer,
            columns=Columns(),
            batch_size=given.batch_size,
            sequence_length=given.max_length,
            roles=RoleSizes(),
            seed=given.seed,
            evaluation_samples=given.evaluation_rows,
        )
        if data.train is None:
            raise SystemExit(f"{given.data} has no split to train on")
        rows: Any = data.train
        if given.rows:
            rows = Subset(rows, sample(len(rows), given.rows, given.seed))
        how = Training(
            given.epochs,
            given.steps,
            given.lr,
            given.batch_size,
            bf16=native_bfloat16(given.device),
            checkpoint_steps=0,
        )
        trained = train(
            model,
            Supervised(its_task),
            rows,
            data.collate,
            how,
            Path(scratch) / "trainer",
            seed=given.seed,
            device=given.device,
            track=track,
        )
        score = its_task.evaluate(model, data.evaluation, given.device) if data.evaluation is not None else None
    model.save_pretrained(given.out)
    tokenizer.save_pretrained(given.out)
    record = {
        "model": Path(source).name if given.model else "all-MiniLM-L6-v2",
        "data": Path(given.data).name,
        "rows": len(rows),
        "steps": trained["steps"],
        "loss": trained["loss"],
        "score": asdict(score) if score is not None else None,
        **{
            name: getattr(given, name)
            for name in ("task", "epochs", "lr", "batch_size", "max_length", "seed", "device", "threads")
        },
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (given.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{given.out}: {score if score is not None else 'not evaluated'} ({trained['steps']:.0f} steps)")


if __name__ == "__main__":
    main()
