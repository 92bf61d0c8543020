"""Data sets in the forms in which others give them away, and what is said of those unread."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from memory.errors import DataError
from tests.tools.targets.own_data import CLASSES, class_folders, save_mask, scenes
from tools import targets
from tools.data.samples import VOID
from tools.targets import SPLITS, Target
from tools.targets.user.class_files import read_class_file
from tools.targets.user.dataset import UserDataset
from tools.targets.user.label_files import COLOUR
from tools.targets.user.pictures import read_photographs


def build(root: Path, **options: Any) -> Target:
    return targets.build("folder", root.parent / "cache", path=str(root), **options)


def splits_of(target: Target) -> Mapping[str, str]:
    return {Path(name).stem: split for split in SPLITS for name in target.split(split).ids}


# Splits.


@pytest.mark.parametrize("folder", ["ImageSets/Segmentation", ""])
def test_lists_of_splits_are_kept(tmp_path: Path, folder: str) -> None:
    root = scenes(tmp_path / "voc", n=40)
    for old, new in (("images", "JPEGImages"), ("masks", "SegmentationClass")):
        (root / old).rename(root / new)
    shutil.rmtree(root / "depth")
    where = root / folder
    where.mkdir(parents=True, exist_ok=True)
    (where / "train.txt").write_text("".join(f"{i:02d}\n" for i in range(28)), "utf-8")
    rows = [f"JPEGImages/{i:02d}.png SegmentationClass/{i:02d}.png" for i in range(28, 40)]
    (where / "val.txt").write_text("\n".join(rows), "utf-8")
    (where / "trainval.txt").write_text("00\n", "utf-8")
    target = build(root)
    splits = splits_of(target)
    assert {stem for stem, split in splits.items() if split == "feedback"} == {
        str(i) for i in range(28, 40)
    }
    lists = ", ".join(str(Path(folder, name)) for name in ("train.txt", "val.txt"))
    assert f"splits are read from {lists}" in target.notice


def test_lists_that_name_a_picture_twice_or_two_pictures_stop_the_reading(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    names = [f"{f.parent.name}/{f.name}" for f in sorted(root.rglob("img *"))]
    (root / "train.txt").write_text("\n".join(names[:30]), "utf-8")
    (root / "val.txt").write_text("\n".join(names[20:]), "utf-8")
    with pytest.raises(DataError, match=r"\[list-contradiction\] \(10\)"):
        build(root)
    for folder in CLASSES:
        shutil.copy(root / names[0], root / folder / "same.jpg")
    (root / "val.txt").write_text("\n".join([*names[30:], "same"]), "utf-8")
    with pytest.raises(DataError, match=r'names in val.txt .*\[list-ambiguous\] \(1\): "same"'):
        build(root)


def test_a_folder_of_lists_is_no_class(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    names = [f"{f.parent.name}/{f.name}" for f in sorted(root.rglob("img *"))]
    (root / "splits").mkdir()
    for split, part in (("train", names[::2]), ("test", names[1::2])):
        (root / "splits" / f"{split}.txt").write_text("\n".join(part), "utf-8")
    target = build(root)
    assert len(target.class_names) == 3
    assert len(target.split("test").ids) == 18


def test_splits_may_be_numbered(tmp_path: Path) -> None:
    for name, n in (("train2017", 14), ("test2017", 5)):
        class_folders(tmp_path / "birds" / name, n=n)
    target = build(tmp_path / "birds")
    assert len(target.class_names) == 3
    assert all(name.startswith("test2017/") for name in target.split("test").ids)


def test_numbered_splits_of_pictures_without_a_class_are_no_classes(tmp_path: Path) -> None:
    for name in ("train", "test1"):
        folder = class_folders(tmp_path / name / "x") / CLASSES[0]
        (tmp_path / "cats").mkdir(exist_ok=True)
        folder.rename(tmp_path / "cats" / name)
    with pytest.raises(DataError, match=r"\[nothing-found\] .*24 pictures lie in no class folder"):
        build(tmp_path / "cats")


def test_numbered_words_may_be_classes(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    for name, new in zip(CLASSES, ("test 1", "test 2", "test 3"), strict=True):
        (root / name).rename(root / new)
    assert build(root).class_names == ["test 1", "test 2", "test 3"]


# Masks.


def cityscapes(root: Path, source: Path, words: tuple[str, ...]) -> Path:
    for i, image in enumerate(sorted((source / "images").iterdir())):
        where = Path(("train", "train", "val", "test")[i % 4], "ulm")
        for top in ("leftImg8bit", "gtFine"):
            (root / top / where).mkdir(parents=True, exist_ok=True)
        shutil.copy(image, root / "leftImg8bit" / where / f"ulm_{i:06d}_leftImg8bit.png")
        mask = np.asarray(Image.open(source / "masks" / image.name)).copy()
        for word in words:
            mask[:, 0] = VOID if word == "labelTrainIds" else 3
            save_mask(root / "gtFine" / where / f"ulm_{i:06d}_gtFine_{word}.png", mask)
    return root


def test_cityscapes_with_train_ids_alone_is_read(tmp_path: Path) -> None:
    plain = scenes(tmp_path / "plain", n=40)
    root = cityscapes(tmp_path / "cityscapes", plain, ("color", "labelTrainIds"))
    target = build(root)
    assert target.pixel_classes == ["road", "sidewalk", "building"]
    assert len(target.split("test").ids) == 10
    assert "labelTrainIds.png" in target.notice
    (root / "classes.yaml").write_text("names: [street, kerb, house]", "utf-8")
    assert build(root).pixel_classes == ["street", "kerb", "house"]


def test_of_the_ids_of_cityscapes_those_of_the_benchmark_count(tmp_path: Path) -> None:
    plain = scenes(tmp_path / "plain", n=40)
    for file in (plain / "masks").iterdir():
        save_mask(file, np.array([23, 7, 26], np.uint8)[np.asarray(Image.open(file))])
    root = cityscapes(tmp_path / "cityscapes", plain, ("labelIds", "labelTrainIds"))
    target = build(root)
    assert target.pixel_classes == ["road", "sky", "car"]
    assert "named as in Cityscapes, ids 3 count as of unknown class" in target.notice
    assert (target.split("test").labels["segmentation"][:, :, 0] == VOID).all()


@pytest.mark.parametrize(
    ("year", "names"), [("2007_", ["background", "aeroplane", "bicycle"]), ("x_", None)]
)
def test_the_classes_of_voc_have_names_where_its_pictures_have_theirs(
    tmp_path: Path, year: str, names: list[str] | None
) -> None:
    root = scenes(tmp_path / "voc", n=40)
    shutil.rmtree(root / "depth")
    (root / "classes.txt").unlink()
    for old, new in (("images", "JPEGImages"), ("masks", "SegmentationClass")):
        (root / old).rename(root / new)
        for file in sorted((root / new).iterdir()):
            file.rename(file.with_name(f"{year}{int(file.stem):06d}.png"))
    assert build(root).pixel_classes == (names or ["class 0", "class 1", "class 2"])


def test_the_names_of_ade20k_are_read_and_0_is_void(tmp_path: Path) -> None:
    plain = scenes(tmp_path / "plain", n=30)
    root = tmp_path / "ade"
    for i, image in enumerate(sorted((plain / "images").iterdir())):
        split = "validation" if i % 5 == 0 else "training"
        for top in ("images", "annotations"):
            (root / top / split).mkdir(parents=True, exist_ok=True)
        shutil.copy(image, root / "images" / split / image.name)
        shutil.copy(plain / "masks" / image.name, root / "annotations" / split / image.name)
    target = build(root)
    assert target.pixel_classes == ["class 0", "class 1", "class 2"]
    assert "for each of 0, 1, 2; one that does not count is void" in target.notice
    (root / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t9\t9\t1\troad, route\n2\t0.1\t9\t9\t0\tcar\n",
        "utf-8",
    )
    target = build(root)
    assert target.pixel_classes == ["road", "car"]
    assert len(target.split("feedback").ids) == 6
    assert (target.split("test").labels["segmentation"] == VOID).any()


# Pictures and files.


def test_links_to_folders_are_followed_and_those_that_lead_nowhere_named(tmp_path: Path) -> None:
    elsewhere = class_folders(tmp_path / "elsewhere")
    root = tmp_path / "birds"
    root.mkdir()
    for name in CLASSES:
        (root / name).symlink_to(elsewhere / name)
    (elsewhere / CLASSES[0] / "around").symlink_to(elsewhere / CLASSES[0])
    (elsewhere / CLASSES[0] / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    target = build(root)
    assert sum(len(target.split(split).ids) for split in SPLITS) == 36
    assert '[broken-link] (1): "Red Kite/gone.jpg"' in target.notice


def test_photographs_of_12_bits_are_not_read_as_black(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds", channels=1)
    dark = class_folders(tmp_path / "dark", channels=1)
    for file in sorted(root.rglob("img *")):
        values = np.asarray(Image.open(file).convert("L")).astype(np.uint16)
        file.unlink()
        Image.fromarray(values * 16).save(file.with_suffix(".png"))
    target = build(root)
    assert "(divided by 16) [sixteen-bits] (36)" in target.notice
    for split in SPLITS:
        ours, theirs = (t.split(split).images.mean((1, 2, 3)) for t in (target, build(dark)))
        assert np.allclose(np.sort(ours), np.sort(theirs), atol=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_prediction_reads_photographs_as_a_target_does(tmp_path: Path, channels: int) -> None:
    root = class_folders(tmp_path / "birds", channels=channels)
    turned, wide, deep = sorted((root / CLASSES[0]).glob("*.png"))[:3]
    picture = Image.open(turned).transpose(Image.Transpose.ROTATE_90)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(turned, exif=exif)
    Image.open(wide).resize((160, 40)).save(wide)
    values = np.asarray(Image.open(deep).convert("L")).astype(np.uint16)
    Image.fromarray(values * 16).save(deep)
    target = build(root)
    for split in SPLITS:
        samples = target.split(split)
        files = [root / name for name in samples.ids]
        images, found, problems = read_photographs(files, target.image_shape)
        assert np.array_equal(images, samples.images)
        assert (found, problems) == (files, [])
    (root / "no.png").write_text("<html>")
    images, found, problems = read_photographs([root / "no.png"], target.image_shape)
    assert (len(images), found) == (0, [])
    assert "no.png" in problems[0] and "cannot be read" in problems[0]


def test_a_prediction_scales_16_bits_as_its_target_did(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds", channels=1)
    for i, file in enumerate(sorted(root.rglob("img *"))):
        values = np.asarray(Image.open(file).convert("L")).astype(np.uint16)
        file.unlink()
        Image.fromarray(values * (16 if i % 2 else 4)).save(file.with_suffix(".png"))
    target = build(root)
    assert isinstance(target, UserDataset) and target.scale_of_16_bits == 16
    for split in SPLITS:
        samples = target.split(split)
        for name, image in zip(samples.ids, samples.images, strict=True):
            read, *_ = read_photographs([root / name], target.image_shape, target.scale_of_16_bits)
            assert np.array_equal(read[0], image)


def test_odd_pictures_are_named(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    folder = root / CLASSES[0]
    Image.fromarray(np.eye(40, dtype=np.float32)).save(folder / "float.tif")
    for name, size in (("strip.png", (300, 20)), ("dot.png", (2, 2)), ("jpeg.JFIF", (64, 64))):
        noise = np.random.default_rng(3).integers(0, 255, (*size[::-1], 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / name, "JPEG" if "JFIF" in name else "PNG")
    Image.fromarray(noise).convert("LAB").save(folder / "lab.tif")
    target = build(root)
    assert (
        "images of floating point numbers, of unknown range (save 8 bits), left out "
        '[unreadable-image] (1): "Red Kite/float.tif"' in target.notice
    )
    (notes,) = (tmp_path / "cache").glob("*-notes.txt")
    cut = notes.read_text("utf-8").partition("[cropped]")[2]
    assert "  Red Kite/strip.png\n" in cut
    assert '[tiny] (1): "Red Kite/dot.png"' in target.notice
    assert "[no-picture]" not in target.notice
    assert "[transparent]" not in target.notice


def test_a_photograph_with_labels_is_turned_where_these_are(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes")
    shutil.rmtree(root / "depth")
    plain = build(scenes(tmp_path / "plain"))
    orientation = 0x0112
    for i, image in enumerate(sorted((root / "images").iterdir())[:3]):
        stored = Image.open(image)
        # Stored lying on its side, so that its labels fit only what the camera meant; or, of the
        # first, turned by half, where the size of the labels cannot tell.
        turned = stored.transpose(Image.Transpose.ROTATE_90) if i else stored
        exif = turned.getexif()
        exif[orientation] = 6 if i else 3
        turned.save(image, exif=exif)
    target = build(root)
    assert "[turned] (2)" in target.notice
    assert '[not-turned] (1): "images/00.png"' in target.notice
    for split in SPLITS:
        assert np.array_equal(target.split(split).images, plain.split(split).images)


# Depth.


def depth_files(root: Path, write: Any, ending: str, folder: str = "depth") -> Path:
    """Write scenes whose depth, 2 to 20 m, is saved by write(path, metres)."""
    scenes(root, names="")
    shutil.rmtree(root / "masks")
    shutil.rmtree(root / "depth")
    (root / folder).mkdir()
    metres = np.linspace(2, 20, 32)[:, None].repeat(48, 1)
    for image in sorted((root / "images").iterdir()):
        write(root / folder / f"{image.stem}{ending}", metres)
    return root


def test_depth_of_one_channel_is_read(tmp_path: Path) -> None:
    def write(path: Path, metres: np.ndarray) -> None:
        np.save(path, metres[..., None].astype(np.float32))

    target = build(depth_files(tmp_path / "scenes", write, ".npy"))
    assert target.task == "depth"
    assert "depth lies between 2.58 and 19.4 m" in target.notice


@pytest.mark.parametrize("ending", [".npz", ".exr", ".h5"])
def test_depth_in_other_formats_is_told_what_to_save(tmp_path: Path, ending: str) -> None:
    root = depth_files(tmp_path / "scenes", lambda path, _: path.write_bytes(b"x"), ending)
    with pytest.raises(DataError) as stopped:
        build(root)
    assert (
        f"depth files in formats that are not read, {ending}: save 16-bit PNG (metres times 256), "
        "or .npy in metres [label-format] (24)" in str(stopped.value)
    )
    assert "rename" not in str(stopped.value)


def test_metres_that_are_perhaps_millimetres_are_told_how_to_mend(tmp_path: Path) -> None:
    def tiff(path: Path, metres: np.ndarray) -> None:
        Image.fromarray(metres.astype(np.float32)).save(path)

    def millimetres(path: Path, metres: np.ndarray) -> None:
        np.save(path, (metres * 1000).astype(np.uint16))

    assert "divided" not in build(depth_files(tmp_path / "tiff", tiff, ".tif")).notice
    assert (
        "and 1.94e+04 m (5% to 95% of the known pixels); .npy and float files hold metres: if "
        "these are millimetres, divide them by 1000"
        in build(depth_files(tmp_path / "mm", millimetres, ".npy")).notice
    )


def test_disparity_is_not_to_be_taken_for_depth(tmp_path: Path) -> None:
    root = depth_files(tmp_path / "scenes", lambda path, m: np.save(path, m), ".npy", "disparity")
    with pytest.raises(DataError, match=r"Disparity is no depth: save focal length.*\[no-labels\]"):
        build(root)


# What is not read.


def test_classes_below_images_are_told_what_to_give(tmp_path: Path) -> None:
    class_folders(tmp_path / "birds" / "images")
    with pytest.raises(DataError) as stopped:
        build(tmp_path / "birds")
    assert f"--target 'folder:{tmp_path / 'birds' / 'images'}'" in str(stopped.value)


def test_boxes_of_voc_are_told_apart_from_classes(tmp_path: Path) -> None:
    root = scenes(tmp_path / "voc")
    (root / "images").rename(root / "JPEGImages")
    for name in ("masks", "depth"):
        shutil.rmtree(root / name)
    (root / "Annotations").mkdir()
    for image in (root / "JPEGImages").iterdir():
        (root / "Annotations" / f"{image.stem}.xml").write_text("<annotation/>", "utf-8")
    with pytest.raises(DataError, match=r"\[no-labels\] .*Outlines and boxes"):
        build(root)


def test_boxes_of_yolo_with_splits_are_named_once(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        root = scenes(tmp_path / "yolo" / split)
        for name in ("masks", "depth"):
            shutil.rmtree(root / name)
        (root / "classes.txt").unlink()
        (root / "labels").mkdir()
        for image in (root / "images").iterdir():
            (root / "labels" / f"{image.stem}.txt").write_text("0 0.5 0.5 0.1 0.1", "utf-8")
    with pytest.raises(DataError) as stopped:
        build(tmp_path / "yolo")
    assert str(stopped.value).count("Outlines and boxes") == 1
    assert '[no-labels] (3): "test", "train", "valid"' in str(stopped.value)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            ["a-00.tar", "a-01.tar"],
            "It holds archives (a-00.tar, a-01.tar): unpack them. Shards of",
        ),
        (["X_train.npy", "y_train.npy", "notes.md"], "It holds no picture: 2 .npy, 1 .md"),
        ([], "It is empty"),
    ],
)
def test_what_is_there_instead_of_pictures_is_said(
    tmp_path: Path, files: list[str], words: str
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for name in files:
        (root / name).write_bytes(b"x")
    with pytest.raises(DataError) as stopped:
        build(root)
    assert words in str(stopped.value)


def test_a_table_without_a_class_is_told_its_columns(tmp_path: Path) -> None:
    root = tmp_path / "cats"
    pictures = class_folders(tmp_path / "plain")
    (root / "train").mkdir(parents=True)
    rows = ["id,label"]
    for file in sorted(pictures.rglob("img *")):
        shutil.copy(file, root / "train")
        rows.append(f"{file.name},{file.parent.name}")
    (root / "train.csv").write_text("\n".join(rows), "utf-8")
    with pytest.raises(
        DataError, match=r"\[nothing-found\] .*train\.csv may be such a table.*columns id, label"
    ):
        build(root)
    (root / "train.csv").rename(root / "attributes.csv")
    with pytest.raises(DataError, match=r"attributes\.csv has the columns id, label and none call"):
        build(root)


# Tables.


def rows_of(root: Path) -> list[Path]:
    return [file.relative_to(root) for file in sorted(root.rglob("img *"))]


@pytest.mark.parametrize(
    "said",
    [
        lambda root, name: str(root / name),
        lambda root, name: "D:\\photos\\" + str(name).replace("/", "\\"),
        lambda root, name: str(name).upper(),
        lambda root, name: str(name.with_suffix(".tiff")),
    ],
)
def test_names_of_the_table_may_have_other_folders_before_case_or_ending(
    tmp_path: Path, said: Any
) -> None:
    root = class_folders(tmp_path / "birds")
    lines = [f"{said(root, name)},{('wet', 'dry')[i % 2]}" for i, name in enumerate(rows_of(root))]
    (root / "attributes.csv").write_text("\n".join(["file,ground", *lines]), "utf-8")
    target = build(root)
    assert list(target.vocabulary.attributes["ground"]) == ["dry", "wet"]
    assert "[table-near] (36)" in target.notice


def test_a_name_of_another_folder_is_no_name_of_this_one(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    lines = [f"{name},{('wet', 'dry')[i % 2]}" for i, name in enumerate(rows_of(root))]
    lines.append("Other class/img 0-00.jpg,wet")
    (root / "attributes.csv").write_text("\n".join(["file,ground", *lines]), "utf-8")
    assert '[table-missing] (1): "Other class/img 0-00.jpg"' in build(root).notice


def test_a_table_may_say_what_parts_its_cells(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    lines = [f'"{name}";{("wet", "dry")[i % 2]}' for i, name in enumerate(rows_of(root))]
    (root / "attributes.csv").write_bytes("\r\n".join(["sep=;", "file;ground", *lines]).encode())
    assert list(build(root).vocabulary.attributes["ground"]) == ["dry", "wet"]


def test_columns_of_0_and_1_are_said_as_yes_and_no_and_numbering_is_none(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    lines = [
        f"{name},{i % 2},{i},{'unknown' if i % 3 else 'rain'},{'NY'[i % 2]}"
        for i, name in enumerate(rows_of(root))
    ]
    (root / "attributes.csv").write_text("\n".join(["file,ripe,id,sky,wet", *lines]), "utf-8")
    target = build(root)
    assert list(target.vocabulary.attributes["ripe"]) == ["0", "1"]
    assert target.vocabulary.caption({"class": "red-kite", "ripe": "1"}).endswith("with ripe")
    assert target.vocabulary.caption({"class": "red-kite", "wet": "n"}).endswith("without wet")
    assert target.vocabulary.parse("a red kite without ripe") == {"class": "red-kite", "ripe": "0"}
    assert '[column-numbering] (1): "id"' in target.notice
    assert '[column-values] (1): "sky, 1"' in target.notice


# Images and labels that could be taken for classes.


@pytest.mark.parametrize(
    ("images", "masks", "tail"),
    [
        ("train", "train_masks", "_mask"),
        ("train_images", "train_labels", ""),
        ("photos of 2024", "2024 segmentation", ""),
    ],
)
def test_folders_of_images_and_masks_are_no_classes(
    tmp_path: Path, images: str, masks: str, tail: str
) -> None:
    root = scenes(tmp_path / "own")
    shutil.rmtree(root / "depth")
    (root / "images").rename(root / images)
    (root / "masks").rename(root / masks)
    for mask in (root / masks).iterdir():
        mask.rename(mask.with_stem(f"{mask.stem}{tail}"))
    with pytest.raises(DataError) as stopped:
        build(root)
    assert f"{images}/ and {masks}/ of {root} look like images and their labels of pixels" in str(
        stopped.value
    )
    assert "images/" in str(stopped.value)


def test_classes_with_words_of_masks_and_equal_names_are_classes(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "faces")
    for old, new in zip(CLASSES, ("with_mask", "without_mask", "train"), strict=True):
        (root / old).rename(root / new)
        for i, file in enumerate(sorted((root / new).iterdir())):
            file.rename(file.with_stem(f"{i}"))
    assert build(root).class_names == ["train", "with mask", "without mask"]


def test_masks_of_gray_with_alpha_are_read(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes")
    for mask in (root / "masks").iterdir():
        ids = Image.fromarray(np.asarray(Image.open(mask)))
        Image.merge("LA", (ids, Image.new("L", ids.size, 255))).save(mask)
    assert build(root).pixel_classes == ["sky", "road", "car"]


def test_semantic_masks_of_a_simulator_are_read(tmp_path: Path) -> None:
    root = scenes(tmp_path / "carla")
    (root / "images").rename(root / "rgb")
    (root / "masks").rename(root / "semantic")
    assert build(root).pixel_classes == ["sky", "road", "car"]


def test_labels_one_folder_deeper_than_their_images_are_found(tmp_path: Path) -> None:
    root = scenes(tmp_path / "pets", names="")
    shutil.rmtree(root / "depth")
    (root / "annotations").mkdir()
    (root / "masks").rename(root / "annotations" / "trimaps")
    target = build(root)
    assert target.pixel_classes == ["class 0", "class 1", "class 2"]
    assert "lie in other folders than their images, as 'trimaps/00.png'" in target.notice


def test_masks_of_one_class_are_refused(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes", names="")
    for mask in (root / "masks").iterdir():
        save_mask(mask, np.full((32, 48), 255, np.uint8))
    with pytest.raises(DataError, match=r"single class \(255\).*\[mask-one-class\]"):
        build(root)


def test_many_folders_with_masks_of_other_names_are_one_fault(tmp_path: Path) -> None:
    for i in range(4):
        root = scenes(tmp_path / "cells" / f"id{i}", n=2)
        shutil.rmtree(root / "depth")
        (root / "classes.txt").unlink()
        for mask in (root / "masks").iterdir():
            mask.rename(mask.with_stem(f"m{mask.stem}"))
    with pytest.raises(DataError) as stopped:
        build(tmp_path / "cells")
    assert str(stopped.value).count("[label-names]") == 1
    assert '(4): "id0/masks/m00.png, id0/images/00.png"' in str(stopped.value)


def test_images_beside_labels_in_many_folders_are_parted_by_one_command(tmp_path: Path) -> None:
    plain = scenes(tmp_path / "plain", names="")
    root = tmp_path / "patients"
    for i, image in enumerate(sorted((plain / "images").iterdir())):
        folder = root / f"TCGA {i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, folder / f"{i:02d}_sat.png")
        shutil.copy(plain / "masks" / image.name, folder / f"{i:02d}_mask.png")
    with pytest.raises(DataError, match=r"\[side-by-side\]") as stopped:
        build(root)
    _, _, command = str(stopped.value).partition("masks/: ")
    subprocess.run(command, shell=True, check=True)
    assert sum(len(build(root).split(split).ids) for split in SPLITS) == 24


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_tables_as_spreadsheets_and_pandas_save_them_are_read(
    tmp_path: Path, encoding: str
) -> None:
    root = class_folders(tmp_path / "birds")
    lines = [f"{i};{name.name};{('Öl', 'Gas')[i % 2]}" for i, name in enumerate(rows_of(root))]
    text = "\r\n".join([";file;Stoff", *lines])
    (root / "attributes.csv").write_bytes(text.encode(encoding))
    target = build(root)
    assert list(target.vocabulary.attributes["stoff"]) == ["gas", "öl"]
    assert "[table-numbered]" in target.notice
    assert ("[table-encoding]" in target.notice) == (encoding == "cp1252")


def test_names_that_are_not_in_utf_8_are_named(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    file = os.fsencode(root / CLASSES[0]) + b"/caf\xe9.jpg"
    try:
        os.link(root / CLASSES[0] / "img 0-00.jpg", file)
    except OSError:
        pytest.skip("this file system has names in UTF-8 alone")
    with pytest.raises(DataError, match=r"\[not-utf8\] .*\(1\): Red Kite/caf.*\.jpg"):
        build(root)


def test_classes_one_folder_deeper_are_asked_for(tmp_path: Path) -> None:
    class_folders(tmp_path / "plants" / "color")
    class_folders(tmp_path / "plants" / "gray", channels=1)
    notice = build(tmp_path / "plants").notice
    assert (
        "Red Kite, wind_mill (old), Élan vital, are the classes, move them up [classes-deeper]"
        in notice
    )


def test_png_of_depth_beside_jpeg_of_one_name_are_no_classes(tmp_path: Path) -> None:
    plain = scenes(tmp_path / "plain", names="")
    root = tmp_path / "rooms"
    for i, image in enumerate(sorted((plain / "images").iterdir())):
        folder = root / f"basement_{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.open(image).save(folder / f"{i}.jpg")
        shutil.copy(plain / "depth" / image.name, folder / f"{i}.png")
    with pytest.raises(DataError, match=r"\(0\.jpg, 0\.png\)\. If they are depth or nor") as e:
        build(root)
    command = str(e.value).partition("masks/: ")[2].replace("masks", "depth")
    subprocess.run(command, shell=True, check=True)
    assert build(root).task == "depth"


def test_labels_deep_within_folders_are_no_classes(tmp_path: Path) -> None:
    plain = scenes(tmp_path / "plain", names="")
    for i, image in enumerate(sorted((plain / "images").iterdir())):
        for drive, source in (("image_02/data", "images"), ("proj_depth/groundtruth", "depth")):
            folder = tmp_path / "kitti" / f"drive_{i % 2}" / drive
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(plain / source / image.name, folder / image.name)
    with pytest.raises(DataError, match=r"\[labels-in-class-folders\] .*as drive_0/proj"):
        build(tmp_path / "kitti")
    classes = build(tmp_path / "kitti", task="classification").class_names
    assert classes == ["drive 0", "drive 1"]


def test_folders_of_image_and_depth_words_alone_are_no_classes(tmp_path: Path) -> None:
    root = scenes(tmp_path / "kitti", names="")
    shutil.rmtree(root / "masks")
    for file in (root / "depth").iterdir():
        file.rename(file.with_stem(f"sync_groundtruth_{file.stem}_02"))
    (root / "images").rename(root / "image")
    (root / "depth").rename(root / "groundtruth_depth")
    with pytest.raises(DataError, match=r"\[folder-pair\] .*image/ and groundtruth_depth/ of "):
        build(root)


@pytest.mark.parametrize(
    ("line", "name", "colour"),
    [
        ("lane1,128,0,0", "lane1", 0x800000),
        ("lane 2,0,128,0", "lane 2", 0x008000),
        ("road;1;2;3", "road", 0x010203),
        ("128 0 0 road", "road", 0x800000),
        ("road:128,64,128::", "road", 0x804080),
        ("car,1,2,3,7", "car", 0x010203),
        ("1,2,3,lane 4", "lane 4", 0x010203),
        ('"a b",1,2,3', "a b", 0x010203),
    ],
)
def test_names_of_colours_may_end_in_digits(
    tmp_path: Path, line: str, name: str, colour: int
) -> None:
    (tmp_path / "classes.csv").write_text(f"{line}\nsky,70,130,180\n", "utf-8")
    assert read_class_file(tmp_path) == {COLOUR + colour: name, COLOUR + 0x4682B4: "sky"}
