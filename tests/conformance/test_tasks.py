"""Requirements for every task. The tests find tasks by the registry, so a new task is tested without changes here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from secateurs.errors import CheckpointError, DataError, UnsupportedModelError
from secateurs.oneshot.calibrate import calibrate
from secateurs.oneshot.head import first_linear_of_head
from secateurs.oneshot.replay import Replay
from secateurs.oneshot.token_weights import TokenWeights
from secateurs.structure.families import discover
from secateurs.structure.layers import layer_paths
from secateurs.tasks.base import Columns, Score, Task, TaskData, main_input
from secateurs.training.distillation import SquareHead
from secateurs.training.evaluate import divergence, record_outputs
from secateurs.training.trainer import Training, train
from tiny import tiny_processor
from tiny_models import tiny_model
from tiny_tasks import SETTINGS, outputs, small_model


def test_the_name_is_that_of_the_file_or_folder(subject: Task) -> None:
    assert type(subject).__module__.removeprefix("secateurs.tasks.").removesuffix(".task") == subject.name
    assert hasattr(transformers, subject.auto_class)
    assert type(subject).__doc__


def test_batches_have_the_requested_shape(data: TaskData) -> None:
    assert sum(len(main_input(batch)) for batch in data.roles.fit.batches) == SETTINGS["roles"].fit
    assert "\n" not in data.description
    for batch in data.roles.fit.batches:
        assert all(value.device.type == "cpu" for value in batch.values())
        assert main_input(batch) is next(iter(batch.values()))
        if "pixel_values" in batch:
            assert batch["pixel_values"].shape == (len(batch["labels"]), 3, 16, 16)
            assert len(batch["labels"]) <= SETTINGS["batch_size"]
            continue
        rows, tokens = batch["input_ids"].shape
        assert rows <= SETTINGS["batch_size"]
        assert tokens <= SETTINGS["sequence_length"]
        assert batch["attention_mask"].shape == (rows, tokens)
        assert (batch["attention_mask"].diff(dim=1) <= 0).all(), "padding must be on the right"
        assert int(batch["attention_mask"].sum(1).max()) == tokens, "no column may consist of padding only"


def test_reading_is_repeatable(subject: Task, model: Any, folder: Path, data: TaskData) -> None:
    again = subject.read(str(folder), model, tiny_processor(model), columns=Columns(), **SETTINGS)
    for one, two in zip(data.roles.fit.batches, again.roles.fit.batches, strict=True):
        torch.testing.assert_close(one, two)


def test_calibration_needs_no_labels(subject: Task, model: Any, folder: Path) -> None:
    source = str(folder / "unlabelled")
    data = subject.read(source, model, tiny_processor(model), columns=Columns(), **SETTINGS)
    assert data.roles.fit.batches
    batch = data.roles.fit.batches[0]
    assert "labels" not in batch
    weights = TokenWeights(model, discover(model), subject.compared_outputs)(batch)
    assert all(found.isfinite().all() and found.std() > 0 for found in weights.values())
    if subject.needs_labels_for_metric:
        assert data.evaluation is None


def test_compared_outputs_and_divergence(subject: Task, model: Any, data: TaskData) -> None:
    other = small_model(subject.auto_class, seed=1)
    for batch in data.roles.fit.batches:
        with torch.no_grad():
            dense, changed = (
                subject.compared_outputs(outputs(model, batch), batch),
                subject.compared_outputs(outputs(other, batch), batch),
            )
        assert dense.dim() == 2
        assert dense.isfinite().all()
        assert dense.shape == changed.shape
        assert torch.equal(subject.divergence(dense, dense), torch.zeros(len(dense)))
        apart = subject.divergence(changed, dense)
        assert apart.shape == (len(dense),)
        assert (apart >= 0).all()
        assert apart.mean() > 1e-4


def test_padding_does_not_change_the_compared_outputs(subject: Task, model: Any, data: TaskData) -> None:
    if model.main_input_name == "pixel_values":
        pytest.skip("images have no padding")
    batch = {key: value for key, value in data.roles.fit.batches[0].items() if key != "labels"}
    fill = {key: torch.full((len(value), 3), 9 if key == "input_ids" else 0) for key, value in batch.items()}
    padded = {key: torch.cat([value, fill[key]], 1) for key, value in batch.items()}
    # A decoder with a class head finds the last token by the id of the padding token.
    padded["input_ids"][:, -3:] = model.config.pad_token_id
    with torch.no_grad():
        torch.testing.assert_close(
            subject.compared_outputs(outputs(model, padded), padded),
            subject.compared_outputs(outputs(model, batch), batch),
        )


def test_the_loss_is_computed_or_refused(subject: Task, model: Any, data: TaskData) -> None:
    batch = data.roles.fit.batches[0]
    if subject.has_loss:
        assert data.calibration_labels
        loss = subject.loss(outputs(model, batch), batch)
        assert loss.shape == ()
        assert loss.item() > 0
        loss.backward()
    else:
        assert not data.calibration_labels
        with pytest.raises(DataError):
            subject.loss(outputs(model, batch), batch)


@pytest.mark.parametrize(("model_type", "takes"), [("clip", "texts and images"), ("whisper", "sound")])
def test_models_with_other_inputs_are_refused(subject: Task, folder: Path, model_type: str, takes: str) -> None:
    other = tiny_model(model_type, auto="AutoModel")
    with pytest.raises(UnsupportedModelError, match=f"takes {takes}, and the task prepares"):
        subject.read(str(folder), other, None, columns=Columns(), **SETTINGS)  # pyright: ignore[reportArgumentType]


def test_train_rows_become_batches(subject: Task, model: Any, data: TaskData) -> None:
    assert data.train is not None
    assert len(data.train) > 1
    batch = data.collate([data.train[0], data.train[1]])
    assert subject.compared_outputs(outputs(model, batch), batch).isfinite().all()


def test_evaluation_gives_a_score(subject: Task, model: Any, data: TaskData) -> None:
    evaluation = subject.reference(model, data.evaluation, "cpu")
    model.train()
    score = subject.evaluate(model, evaluation, "cpu")
    assert isinstance(score, Score)
    assert model.training
    assert score.count > 0
    assert score.value == score.value
    assert subject.evaluate(model, evaluation, "cpu") == score


def test_a_saved_model_is_loaded(subject: Task, model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    processor = tiny_processor(model)
    processor.save_pretrained(tmp_path / "model")
    loaded, again = subject.load(str(tmp_path / "model"), dtype=torch.float32, device="cpu")
    torch.testing.assert_close(loaded.state_dict(), model.state_dict())
    if model.main_input_name == "pixel_values":
        assert again.to_dict() == processor.to_dict()
    else:
        assert again("the cat")["input_ids"] == processor("the cat")["input_ids"]
    saved = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir() if path.is_file()}
    subject.save_extras(str(tmp_path / "model"), tmp_path / "model")
    assert saved == {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir() if path.is_file()}


def test_every_stage_accepts_the_batches(subject: Task, model: Any, data: TaskData, tmp_path: Path) -> None:
    """Keys of a batch that only the task uses are never passed to the model."""
    structure = discover(model)
    moments = calibrate(
        model, structure, data.roles.fit.batches, weigh=TokenWeights(model, structure, subject.compared_outputs)
    )
    assert all(float(found.gram.diagonal().sum()) > 0 for found in moments.values())
    first_linear_of_head(model, structure, data.roles.fit.batches[0])
    expected = record_outputs(model, subject, data.roles.fit.batches, "cpu")
    replay = Replay(model, layer_paths(model, structure), data.roles.fit.batches)
    replay.record(subject.compared_outputs)
    again = list(replay.run(subject.compared_outputs, layer_paths(model, structure)[-1]))
    torch.testing.assert_close(again, expected)
    student = small_model(subject.auto_class, seed=1)
    before = divergence(student, subject, data.roles.fit.batches, expected, "cpu")
    how = Training(epochs=3, learning_rate=1e-2, batch_size=8)
    train(student, SquareHead(model, subject), data.train, data.collate, how, tmp_path / "training")
    assert divergence(student, subject, data.roles.fit.batches, expected, "cpu") < 0.9 * before


def test_wrong_sources_are_refused(subject: Task, model: Any, folder: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        subject.load("./no/model/here", dtype=torch.float32, device="cpu")
    with pytest.raises(DataError, match="does not exist"):
        subject.read("./no/data/here", model, tiny_processor(model), columns=Columns(), **SETTINGS)
    columns = ", ".join(subject.example(["the cat"]))
    with pytest.raises(DataError, match=f"no column 'body'.*its columns are {columns}"):
        subject.read(str(folder), model, tiny_processor(model), columns=Columns(text="body"), **SETTINGS)
