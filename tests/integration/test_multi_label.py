"""Multi-label classification from end to end, on real texts that have several classes: the intents of ATIS."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from pyarrow import parquet

from secateurs import cli
from secateurs.report.report import Report
from tiny_run import own_table, recipe

TEST_ROWS = 200


@pytest.fixture(scope="module")
def atis(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Files in the layout of Jigsaw's toxicity data, and the classes in another order than that of the columns."""
    source = shared / "data" / "atis_slots"
    if not source.is_dir():
        pytest.skip("ATIS is not on this machine")
    folder = tmp_path_factory.mktemp("atis")
    found = {split: parquet.read_table(source / f"{split}.parquet").to_pylist() for split in ("train", "validation")}
    intents = sorted({name for rows in found.values() for row in rows for name in row["intent"].split("#")})
    for split, rows in found.items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "comment_text", *intents])
            for number, row in enumerate(rows[:TEST_ROWS]):
                own = row["intent"].split("#")
                writer.writerow([number, " ".join(row["tokens"]), *(int(name in own) for name in intents)])
    return folder, intents[::-1]


def dense(folder: Path, tokenizer: Path, names: list[str]) -> Path:
    """A small random model with a real tokenizer."""
    read = transformers.AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(read),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        initializer_range=0.5,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        problem_type="multi_label_classification",
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    read.save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("short_measurements")
def test_a_folder_of_a_multi_label_model_works_as_before(
    atis: tuple[Path, list[str]],
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, names = atis
    model = dense(tmp_path / "model", shared / "models" / "minilm-sst2", names)
    settings: dict[str, Any] = {"model": str(model), "data": str(data), "speedup": (1.5,), "sequence_length": 32}
    made = recipe(tmp_path, task="multi-label-classification", recover_epochs=1.0, train_batch_size=50, **settings)
    made = own_table(made, tmp_path / "table.json")
    (tmp_path / "recipe.yaml").write_text(made.to_yaml())
    arguments = ["secateurs", "prune", "--config", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    shown = " ".join("".join(capsys.readouterr()).split())
    index = names.index("atis_flight")
    rows = parquet.read_table(shared / "data" / "atis_slots" / "validation.parquet").to_pylist()[:TEST_ROWS]
    flights = sum("atis_flight" in row["intent"].split("#") for row in rows)
    assert f"atis_flight is 'atis_flight' (output {index})" in shown
    assert f"{flights} validation" in shown

    report = Report.load(tmp_path / "out")
    after = tmp_path / "out" / report.models[0].path
    config = json.loads((after / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {str(index): name for index, name in enumerate(names)}
    options = {"top_k": None, "function_to_apply": "sigmoid"}
    classify = transformers.pipeline("text-classification", model=str(after), device="cpu")
    texts = [" ".join(row["tokens"]) for row in rows]
    found = classify(texts, **options, batch_size=20, truncation=True, max_length=32)
    assert found == classify(texts, top_k=None, batch_size=20, truncation=True, max_length=32), (
        "the config says sigmoid"
    )
    predicted = [{each["label"] for each in scores if each["score"] > 0.5} for scores in found]
    true = [set(row["intent"].split("#")) for row in rows]
    hits = sum(len(own & guess) for own, guess in zip(true, predicted, strict=True))
    expected = 2 * hits / sum(len(own) + len(guess) for own, guess in zip(true, predicted, strict=True))
    metric = report.models[0].metric
    assert metric is not None
    assert (metric.name, metric.value) == ("micro F1", pytest.approx(expected, abs=1e-9))
