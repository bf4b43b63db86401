"""Where images and their classes are found, what is refused, and that images are read when they are needed."""

from __future__ import annotations

import io
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from secateurs.errors import CheckpointError, DataError
from secateurs.tasks import task
from secateurs.tasks.base import Columns, TaskData
from secateurs.tasks.image_classification.image_folders import read_image_splits
from secateurs.tasks.roles import RoleSizes
from tiny import tiny_image_processor, write_rows
from tiny_images import SHAPES, draw, image_folder
from tiny_models import tiny_model


def model(**changes: Any) -> Any:
    found = tiny_model("vit", num_labels=2, **changes).float()
    found.config.id2label = dict(enumerate(SHAPES))
    found.config.label2id = {name: number for number, name in enumerate(SHAPES)}
    return found


def read(source: Path, subject: Any = None, columns: Columns | None = None, processor: Any = None) -> TaskData:
    return task("image_classification").read(
        str(source),
        subject or model(),
        processor or tiny_image_processor(),
        columns=columns or Columns(),
        batch_size=3,
        sequence_length=8,
        roles=RoleSizes(fit=4, search=2, accept=2, report=4),
        seed=0,
    )


def png(seed: int, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    draw(SHAPES[seed % 2], random.Random(seed)).convert(mode).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "shapes", {"train": 10, "test": 4})


def test_folders_by_class_in_folders_of_splits(folder: Path) -> None:
    (folder / "train" / "disc" / "Thumbs.db").write_bytes(b"not an image")
    (folder / "README.md").write_text("# Shapes")
    found = read(folder)
    assert found.train is not None and len(found.train) == 20
    assert found.evaluation.rows == 8
    assert len(found.evaluation) == 3
    assert found.description == f"{folder}: 4 of 20 train images to calibrate, 8 images to evaluate (test)"
    assert ("columns", "image is 'image', label is 'label'") in found.understood
    assert ("class", "disc is 'disc' (output 0): 10 train, 4 test") in found.understood
    labels = torch.cat([batch["labels"] for batch in found.evaluation])
    assert labels.tolist() == [0] * 4 + [1] * 4
    assert all(batch["pixel_values"].shape[1:] == (3, 16, 16) for batch in found.evaluation)
    assert [len(batch["labels"]) for batch in found.evaluation[1:]] == [3, 2]
    assert found.roles.fit.rows == 4
    assert found.roles.fit.tokens is None


def test_classes_are_matched_by_name_not_by_order(folder: Path) -> None:
    turned = model()
    turned.config.id2label, turned.config.label2id = {0: "square", 1: "disc"}, {"square": 0, "disc": 1}
    labels = torch.cat([batch["labels"] for batch in read(folder, turned).evaluation])
    assert labels.tolist() == [1] * 4 + [0] * 4


def test_an_unpacked_archive_of_one_split(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "download").mkdir()
    (folder / "train").rename(tmp_path / "download" / "images")
    splits = read_image_splits(str(tmp_path / "download"))
    assert {name: len(rows) for name, rows in splits.items()} == {"all": 20}
    found = read(tmp_path / "download")
    assert found.evaluation.rows == 4  # a fifth is held out
    assert found.train is not None and len(found.train) == 16


def test_a_split_may_stand_in_the_names_of_files(folder: Path) -> None:
    """As in ImageNet, whose training folder has no such names and whose validation folder has."""
    path = folder / "train" / "disc" / "000.png"
    path.rename(path.with_name("ILSVRC2012_val_000.png"))
    assert {name: len(rows) for name, rows in read_image_splits(str(folder)).items()} == {"test": 8, "train": 20}


def test_images_without_classes(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        shutil.copy(path, bare / f"{number}.png")
    found = read(bare)
    assert found.evaluation is None
    assert not found.calibration_labels
    assert found.roles.fit.rows == 4
    assert "labels" not in found.roles.fit.batches[0]


def test_no_image_has_two_roles(folder: Path) -> None:
    roles = read(folder).roles
    found = [
        {row.numpy().tobytes() for batch in role.batches for row in batch["pixel_values"]}
        for role in roles.by_name.values()
    ]
    assert [len(images) for images in found] == [role.rows for role in roles.by_name.values()] == [4, 2, 2, 4]
    assert len(set().union(*found)) == 12


def test_equal_images_are_evaluated_only(folder: Path) -> None:
    for number in range(4):
        shutil.copy(folder / "test" / "disc" / f"{number:03}.png", folder / "train" / "disc" / f"copy{number}.png")
    found = read(folder)
    assert "4 texts of train are also in test and are used for evaluation only" in found.roles.notes
    assert found.train is not None and len(found.train) == 20


@pytest.mark.parametrize("form", ["declared", "bytes and path", "bytes"])
def test_tables_with_a_column_of_images(form: str, tmp_path: Path) -> None:
    from datasets import Dataset, Features, Image, Value

    images: list[Any] = [png(seed) for seed in range(12)]
    labels = [SHAPES[seed % 2] for seed in range(12)]
    if form == "declared":
        rows: dict[str, list[Any]] = {"img": [{"bytes": one, "path": None} for one in images], "fine": labels}
        features = Features({"img": Image(), "fine": Value("string")})
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
        columns = Columns(label="fine")
    elif form == "bytes":
        write_rows(tmp_path / "train.parquet", scan=images, label=labels)
        columns = Columns(text="scan")
    else:
        write_rows(tmp_path / "train.parquet", image=[{"bytes": one, "path": "x.png"} for one in images], label=labels)
        columns = Columns()
    found = read(tmp_path, columns=columns)
    assert found.train is not None and len(found.train) == 10
    assert found.evaluation.rows == 2
    wanted = tiny_image_processor()(images=draw(SHAPES[0], random.Random(0)), return_tensors="pt")["pixel_values"][0]
    pixels = [row["pixel_values"] for part in (found.train, found.evaluation.images) for row in part]
    assert any(torch.equal(one, wanted) for one in pixels)


def test_images_of_one_channel(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet", image=[png(seed) for seed in range(12)], label=[*SHAPES] * 6)
    processor = tiny_image_processor()
    processor.image_mean, processor.image_std = [0.5], [0.5]
    found = read(tmp_path, model(num_channels=1), processor=processor)
    assert found.roles.fit.batches[0]["pixel_values"].shape[1:] == (1, 16, 16)


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"makes images of 3 x 20 x 20, and the model takes 3 x 16 x 16"):
        read(folder, processor=tiny_image_processor(20))
    (folder / "train" / "disc").rename(folder / "train" / "cone")
    with pytest.raises(DataError, match="classes the model does not know"):
        read(folder)
    write_rows(tmp_path / "t" / "train.parquet", image=[png(seed) for seed in range(8)], kind=[*SHAPES] * 4)
    with pytest.raises(DataError, match="no label column by a usual name, and 'kind' could be one"):
        read(tmp_path / "t")
    write_rows(tmp_path / "n" / "train.parquet", image=[*range(8)], label=[*SHAPES] * 4)
    with pytest.raises(
        DataError, match=r"column 'image' of .* holds no images; name the column that does with --text-col"
    ):
        read(tmp_path / "n")


def test_an_unreadable_image_is_named(folder: Path) -> None:
    for path in (folder / "train").rglob("*.png"):
        path.write_bytes(f"not an image {path}".encode())
    with pytest.raises(DataError, match=r"cannot read the image of row \d+ \(\d+\.png\) of .*shapes \(train\): "):
        read(folder)


def test_models_without_a_processor_or_pillow_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model().save_pretrained(tmp_path)
    subject = task("image_classification")
    with pytest.raises(CheckpointError, match=r"cannot load the image processor of .*preprocessor_config\.json"):
        subject.load(str(tmp_path), dtype=torch.float32, device="cpu")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(CheckpointError, match=r"need Pillow; install secateurs\[vision\]"):
        subject.load(str(tmp_path), dtype=torch.float32, device="cpu")
