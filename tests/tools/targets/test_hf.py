from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from memory.errors import DataError
from tests.tools.targets.own_data import class_folders, scenes
from tools import targets
from tools.targets import SPLITS, Target

datasets = pytest.importorskip("datasets", reason="needs the extra hf")


COMMIT = "0123456789" * 4


def build(path: Path, cache: Path, **options: Any) -> Target:
    return targets.build("hf", cache, path=str(path), **options)


def pictures(n: int = 36) -> dict[str, list[Any]]:
    random = np.random.default_rng(0)
    images = [
        Image.fromarray(random.integers(0, 255, (20, 30, 3)).astype(np.uint8)) for _ in range(n)
    ]
    light = ["day" if i % 2 else "night" for i in range(n)]
    return {"img": images, "kind": [i % 3 for i in range(n)], "light": light}


@pytest.fixture
def labelled() -> Any:
    features = datasets.Features(
        img=datasets.Image(),
        kind=datasets.ClassLabel(names=["a cat", "dog", "T-shirt"]),
        light=datasets.Value("string"),
    )
    return datasets.Dataset.from_dict(pictures(), features=features)


def test_a_data_set_on_disk_with_columns_of_any_names(tmp_path: Path, labelled: Any) -> None:
    labelled.save_to_disk(tmp_path / "saved")
    (tmp_path / "columns.yaml").write_text("label: kind\nattributes: [light]\n", "utf-8")
    target = build(tmp_path / "saved", tmp_path, columns=str(tmp_path / "columns.yaml"))
    assert list(target.class_names) == ["T-shirt", "a cat", "dog"]
    split = target.split("generator")
    assert split.images.shape[1:] == (3, 64, 64)
    assert {a["light"] for a in split.attributes} == {"day", "night"}
    assert build(tmp_path / "saved", tmp_path, columns={"label": "kind", "attributes": ["light"]})


def test_splits_of_a_data_set_are_kept(tmp_path: Path, labelled: Any) -> None:
    parts = {"train": labelled.select(range(24)), "test": labelled.select(range(24, 36))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    target = build(tmp_path / "saved", tmp_path, columns={"label": "kind"})
    assert {name.split("/")[0] for name in target.split("test").ids} == {"test"}
    assert {n.split("/")[0] for s in SPLITS[:3] for n in target.split(s).ids} == {"train"}


def test_parquet_with_masks_and_depth(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes")
    rows = {
        kind: [str(root / folder / f"{i:02d}.png") for i in range(24)]
        for kind, folder in (("image", "images"), ("label", "masks"), ("depth", "depth"))
    }
    rows["attributes"] = [json.dumps({"light": "day" if i % 2 else "night"}) for i in range(24)]
    features = datasets.Features(
        {kind: datasets.Image() for kind in ("image", "label", "depth")},
        attributes=datasets.Value("string"),
    )
    data = datasets.Dataset.from_dict(rows, features=features)
    data.to_parquet(str(tmp_path / "all.parquet"))
    target = build(tmp_path / "all.parquet", tmp_path, classes=["sky", "road", "car"])
    assert (target.task, target.image_shape) == ("segmentation", (3, 64, 96))
    assert target.pixel_classes == ["sky", "road", "car"]
    assert set(target.split("test").labels) == {"segmentation", "depth"}
    assert target.vocabulary.attributes["light"].keys() == {"day", "night"}


def test_an_image_folder(tmp_path: Path) -> None:
    target = build(class_folders(tmp_path / "birds"), tmp_path)
    assert list(target.class_names) == ["Red Kite", "wind mill old", "Élan vital"]


def test_columns_are_checked(tmp_path: Path, labelled: Any) -> None:
    labelled.save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"Unknown column 'kid'\. Did you mean 'kind'"):
        build(tmp_path / "saved", tmp_path, columns={"label": "kid"})
    with pytest.raises(DataError, match="Unknown kind of column 'lable'"):
        build(tmp_path / "saved", tmp_path, columns={"lable": "kind"})
    with pytest.raises(
        DataError, match=r"hold labels; there are: img, kind.*columns=\{label: kind\}"
    ):
        build(tmp_path / "saved", tmp_path)


def test_what_cannot_be_loaded_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder or file"):
        build(tmp_path / "gone", tmp_path)
    # The tests are offline, see tests/conftest.py.
    with pytest.raises(DataError, match=r"no folder .*cache has no nobody/nothing.*allow_network"):
        targets.build("hf", tmp_path, path="nobody/nothing", revision=COMMIT)


def test_a_mistyped_folder_is_not_looked_for_on_the_hub_for_long(
    tmp_path: Path, labelled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled.save_to_disk(tmp_path / "my_birds")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    for name in ("my_brds", "data/my birds", "some/thing/else", str(tmp_path / "my_bird")):
        with pytest.raises(DataError, match=r"there is no folder or file") as stopped:
            targets.build("hf", tmp_path / "cache", path=name, revision=COMMIT, allow_network=True)
        assert "my_birds" in str(stopped.value) or "else" in name
    assert time.monotonic() - began < 5


def test_columns_and_splits_that_are_not_read_are_noted(tmp_path: Path, labelled: Any) -> None:
    parts = {"train": labelled.select(range(24)), "unsupervised": labelled.select(range(24, 36))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    notice = build(tmp_path / "saved", tmp_path, columns={"label": "kind"}).notice
    assert '[hf-unread-columns] (1): "light"' in notice
    assert '[hf-unknown-split] (12): "unsupervised"' in notice


def test_shards_of_webdataset_have_usual_columns_too(tmp_path: Path, labelled: Any) -> None:
    names = {"img": "jpg", "kind": "cls", "light": "__key__"}
    labelled.rename_columns(names).save_to_disk(tmp_path / "saved")
    assert list(build(tmp_path / "saved", tmp_path).class_names) == ["T-shirt", "a cat", "dog"]
    labelled.rename_columns(names | {"kind": "x"}).save_to_disk(tmp_path / "other")
    with pytest.raises(DataError, match=r"\{label: x\}"):
        build(tmp_path / "other", tmp_path)


def test_rows_without_a_picture_and_words_like_json_are_no_end(
    tmp_path: Path, labelled: Any
) -> None:
    def change(row: dict[str, Any], place: int) -> dict[str, Any]:
        return {**row, "img": None if place == 3 else row["img"], "light": f"{{{row['light']}"}

    data = labelled.map(change, with_indices=True, features=labelled.features)
    data.save_to_disk(tmp_path / "saved")
    target = build(tmp_path / "saved", tmp_path, columns={"label": "kind", "attributes": ["light"]})
    assert target.vocabulary.attributes["light"].keys() == {"day", "night"}
    assert 'images that are missing, left out [unreadable-image] (1): "row/000003"' in target.notice


def test_paths_of_pictures_as_text_are_refused(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    files = sorted(str(file) for file in root.rglob("*.png"))
    rows = {"image": files, "label": [Path(file).parent.name for file in files]}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "all.parquet"))
    with pytest.raises(DataError, match=r"\[hf-paths\] .*column 'image' .*cast_column"):
        build(tmp_path / "all.parquet", tmp_path)


@pytest.mark.parametrize("revision", [None, "main", "0123abc", COMMIT + "\n", COMMIT.upper() + "F"])
def test_a_name_on_the_hub_needs_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    monkeypatch.setattr("datasets.load_dataset", None)  # not reached
    options = {"revision": revision, "allow_network": True}
    with pytest.raises(DataError, match=r"no folder or file .*my_brds.*target.options.revision"):
        targets.build("hf", tmp_path, path="my_brds", **options)


@pytest.mark.parametrize("allow", [False, True])
def test_the_hub_is_asked_only_with_consent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allow: bool
) -> None:
    asked = []

    def dataset_info(_: object, path: str, revision: str, timeout: float) -> None:
        asked.append((path, revision))
        raise TimeoutError

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)
    with pytest.raises(DataError, match=r"the cache has no nobody/nothing") as stopped:
        targets.build("hf", tmp_path, path="nobody/nothing", revision=COMMIT, allow_network=allow)
    assert asked == ([("nobody/nothing", COMMIT)] if allow else [])
    assert ("allow_network=true" in str(stopped.value)) is not allow


def test_cells_read_no_file_outside_the_data(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "data" / "birds", n=24)
    files = sorted(root.rglob("*.png"))
    secret = tmp_path / "private.png"
    shutil.copyfile(files[0], secret)
    (root / "link.png").symlink_to(secret)
    os.mkfifo(root / "pipe.png")
    paths = [str(file.relative_to(root.parent)) if i % 2 else str(file)
             for i, file in enumerate(files)]  # fmt: skip
    outside = [
        str(secret), "../private.png", "birds/link.png", "birds/pipe.png", "/dev/zero", "birds"
    ]  # fmt: skip
    images = [{"bytes": None, "path": path} for path in [*paths, *outside]]
    labels = [file.parent.name for file in files] + ["Red Kite"] * len(outside)
    table = pa.table({"image": images, "label": labels})
    info = {"info": {"features": {
        "image": {"_type": "Image"}, "label": {"dtype": "string", "_type": "Value"}
    }}}  # fmt: skip
    table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, root.parent / "all.parquet")
    (tmp_path / "elsewhere").mkdir()
    with contextlib.chdir(tmp_path / "elsewhere"):
        target = build(root.parent / "all.parquet", tmp_path / "cache")
    assert sum(len(target.split(split).ids) for split in SPLITS) == len(paths)
    assert "names no regular file below" in target.notice
    assert f"[unreadable-image] ({len(outside)})" in target.notice


def test_pictures_in_columns_that_are_not_read_are_not_opened(
    tmp_path: Path, labelled: Any
) -> None:
    secret = tmp_path / "private.png"
    secret.write_bytes(b"no picture")
    rows = labelled.to_dict() | {"other": [{"bytes": None, "path": str(secret)}] * len(labelled)}
    features = datasets.Features({**labelled.features, "other": datasets.Image()})
    data = datasets.Dataset.from_dict(rows, features=features)
    pq.write_table(data.data.table, tmp_path / "all.parquet")
    assert build(tmp_path / "all.parquet", tmp_path, columns={"image": "img", "label": "kind"})


def test_a_name_on_the_hub_is_loaded_at_its_commit(
    tmp_path: Path, labelled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load_dataset(path: str, config: str | None, revision: str, cache_dir: str) -> Any:
        asked.append((path, revision, datasets.config.HF_HUB_OFFLINE))
        assert COMMIT in cache_dir
        return labelled

    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    options = {"path": "some/birds", "revision": COMMIT, "columns": {"label": "kind"}}
    target = targets.build("hf", tmp_path, **options)
    assert list(target.class_names) == ["T-shirt", "a cat", "dog"]
    assert asked == [("some/birds", COMMIT, True)]
    assert datasets.config.HF_HUB_OFFLINE is False


def saved(folder: Path, label: Any, values: list[Any], **others: list[Any]) -> Path:
    features = datasets.Features(image=datasets.Image(), label=label)
    features |= {name: datasets.Value(type(cells[0]).__name__) for name, cells in others.items()}
    images = pictures()["img"]
    labels = [values[i % len(values)] for i in range(len(images))]
    rows = {"image": images, "label": labels, **others}
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).save_to_disk(folder)
    return folder


def test_one_class_in_a_list_is_read_and_several_are_refused(tmp_path: Path) -> None:
    lists = datasets.Sequence(datasets.ClassLabel(names=["cat", "dog"]))
    target = build(saved(tmp_path / "one", lists, [[0], [1], []]), tmp_path)
    assert target.class_names == ["cat", "dog"]
    assert "[hf-no-label] (12)" in target.notice
    with pytest.raises(DataError, match=r"hf-label\] \(12\)"):
        build(saved(tmp_path / "several", lists, [[0], [1], [0, 1]]), tmp_path)


@pytest.mark.parametrize(
    ("values", "code"),
    [
        (["cat", "dog", "cat;dog"], "classes-in-cell"),
        (["A+", "A-"], "classes-alike"),
        ([0.0, 1.0, float("nan")], "hf-no-label"),
        (["cat", "dog", "NA"], "hf-no-label"),
        (["cat", "dog", None], "hf-no-label"),
    ],
)
def test_labels_as_text_are_one_known_class(tmp_path: Path, values: list[Any], code: str) -> None:
    label = datasets.Value("float32" if isinstance(values[0], float) else "string")
    try:
        target = build(saved(tmp_path / "data", label, values), tmp_path)
        assert len(target.class_names) == 2
        assert code in target.notice
    except DataError as error:
        assert code.startswith("classes-")
        assert code in str(error)


def test_a_group_that_is_unknown_is_no_group(tmp_path: Path) -> None:
    """Else all photographs of the group NaN would stay in one split."""
    groups = [float(i) if i < 4 else float("nan") for i in range(36)]
    data = saved(tmp_path / "data", datasets.Value("string"), ["cat", "dog"], group=groups)
    target = build(data, tmp_path)
    assert min(len(target.split(split).ids) for split in SPLITS) > 5


@pytest.mark.parametrize("kind", ["lists", "fractions", "channels first"])
def test_pictures_as_arrays_are_read(tmp_path: Path, kind: str) -> None:
    images = [np.asarray(picture) for picture in pictures()["img"]]
    cells: list[Any] = [image.tolist() for image in images]
    if kind == "fractions":
        cells = [(image / 255).astype(np.float32).tolist() for image in images]
    elif kind == "channels first":
        cells = [image.transpose(2, 0, 1).tolist() for image in images]
    table = pa.table({"image": cells, "label": [i % 2 for i in range(36)]})
    pq.write_table(table, tmp_path / "x.parquet")
    target = build(tmp_path / "x.parquet", tmp_path)
    split = target.split("generator")
    assert split.images.shape[1:] == (3, 64, 64)
    row = int(split.ids[0].rpartition("/")[2])
    assert abs(split.images[0].mean() - images[row].mean()) < 3
