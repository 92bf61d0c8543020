"""What people get wrong in folders of their own: each is named, with what to do, or noted."""

from __future__ import annotations

import shutil
import subprocess
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from memory.errors import DataError, SettingsError
from tests.tools.targets.own_data import CLASSES, class_folders, save_mask, scenes
from tools import targets
from tools.targets import SPLITS, Target


def build(root: Path, **options: Any) -> Target:
    return targets.build("folder", root.parent / "cache", path=str(root), **options)


def known_of(target: Target) -> dict[str, Mapping[str, str]]:
    """Return the attributes of every photograph by its name."""
    return {
        name: attributes
        for split in SPLITS
        for name, attributes in zip(
            target.split(split).ids, target.split(split).attributes, strict=True
        )
    }


# Folders.


@pytest.mark.parametrize(
    ("images", "masks"), [("Images", "Masks"), ("img", "gt"), ("JPEGImages", "SegmentationClass")]
)
def test_images_and_masks_under_other_usual_names_are_read(
    tmp_path: Path, images: str, masks: str
) -> None:
    plain = build(scenes(tmp_path / "plain"))
    root = scenes(tmp_path / "scenes")
    for old, new in (("images", images), ("masks", masks), ("depth", "depth_maps")):
        (root / old).rename(root / "moved")
        (root / "moved").rename(root / new)
    (root / "ImageSets").mkdir()
    target = build(root)
    for split in SPLITS:
        assert np.array_equal(target.split(split).images, plain.split(split).images)
        assert np.array_equal(
            target.split(split).labels["segmentation"], plain.split(split).labels["segmentation"]
        )
    assert f"images are read from {images}/" in target.notice
    assert f"masks are read from {masks}/" in target.notice
    assert "depth are read from depth_maps/" in target.notice


def test_two_folders_that_may_hold_the_masks_are_named(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes")
    (root / "masks").rename(root / "gt")
    shutil.copytree(root / "gt", root / "labels")
    with pytest.raises(
        DataError,
        match=r"\[ambiguous-labels\] .*gt/, labels/ may all hold segm.* to masks/",
    ):
        build(root)


def test_images_beside_their_labels_are_parted_by_the_command_that_is_said(tmp_path: Path) -> None:
    root = scenes(tmp_path / "two words")
    shutil.rmtree(root / "depth")
    for mask in sorted((root / "masks").iterdir()):
        mask.rename(root / "images" / f"{mask.stem}_mask.png")
    for image in sorted((root / "images").glob("??.png")):
        Image.open(image).save(image.with_suffix(".jpg"))
        image.unlink()
    (root / "images").rename(root / "photos")
    (root / "masks").rmdir()
    with pytest.raises(
        DataError, match=r"\[side-by-side\] .*photos holds images beside "
    ) as stopped:
        build(root)
    _, _, command = str(stopped.value).partition("masks/: ")
    assert command.startswith(f"cd '{root}' && mkdir")
    subprocess.run(command, shell=True, check=True)
    assert build(root).pixel_classes == ["sky", "road", "car"]


def test_cityscapes_as_it_comes_is_read_with_its_splits(tmp_path: Path) -> None:
    plain = scenes(tmp_path / "plain", n=40)
    root = tmp_path / "cityscapes"
    for i, image in enumerate(sorted((plain / "images").iterdir())):
        where = Path(("train", "train", "val", "test")[i % 4], "köln")
        for top in ("leftImg8bit", "gtFine"):
            (root / top / where).mkdir(parents=True, exist_ok=True)
        shutil.copy(image, root / "leftImg8bit" / where / f"köln_{i:06d}_leftImg8bit.png")
        for word in ("labelIds", "instanceIds", "color"):
            mask = root / "gtFine" / where / f"köln_{i:06d}_gtFine_{word}.png"
            ids = np.asarray(Image.open(plain / "masks" / image.name))
            save_mask(mask, np.array([23, 7, 26], np.uint8)[ids])
        mask.with_name(f"köln_{i:06d}_gtFine_polygons.json").write_text("{}")
    target = build(root)
    assert target.task == "segmentation"
    assert target.pixel_classes == ["road", "sky", "car"]
    assert "classes are named as in Cityscapes; to name them otherwise" in target.notice
    counts = {split: len(target.split(split).ids) for split in SPLITS}
    assert (counts["feedback"], counts["test"]) == (10, 10)
    assert all((target.split(s).labels["segmentation"] < 255).all() for s in SPLITS)


def test_several_folders_of_images_with_masks_are_read_as_one(tmp_path: Path) -> None:
    plain = scenes(tmp_path / "plain")
    root = tmp_path / "project"
    for i, image in enumerate(sorted((plain / "images").iterdir())):
        part = root / ("ds0", "ds1")[i % 2]
        for folder in ("img", "ann", "masks_machine"):
            (part / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(image, part / "img" / image.name)
        (part / "ann" / f"{image.name}.json").write_text("{}")
        shutil.copy(plain / "masks" / image.name, part / "masks_machine" / f"{image.name}.png")
    target = build(root)
    assert target.task == "segmentation"
    assert sum(len(target.split(s).ids) for s in SPLITS) == 24
    for name in ("ds0", "ds1"):
        shutil.rmtree(root / name / "masks_machine")
    with pytest.raises(
        DataError, match=r"\[images-in-class-folders\] .*each holds ann/, img/.* export masks"
    ):
        build(root)


@pytest.mark.parametrize("folder", ["", "images", "train"])
def test_the_table_names_the_class_where_no_folder_does(tmp_path: Path, folder: str) -> None:
    pictures = class_folders(tmp_path / "plain")
    root = tmp_path / "flat"
    (root / folder).mkdir(parents=True)
    for file in sorted(pictures.rglob("img *")):
        shutil.copy(file, root / folder / file.name)
    with pytest.raises(DataError, match=r"attributes\.csv"):
        build(root)
    lines = ["File,Class,night"]
    lines += [
        f"{f.name},{f.parent.name},{('yes', 'no')[i % 2]}"
        for i, f in enumerate(sorted(pictures.rglob("img *")))
    ]
    (root / "Attributes.CSV").write_text("\n".join(lines[:-1]), "utf-8")
    target = build(root)
    assert target.class_names == build(pictures).class_names
    assert {"night", "class"} <= target.vocabulary.attributes.keys()
    assert "[no-class-in-table] (1)" in target.notice


def test_a_table_that_names_other_classes_than_the_folders_is_refused(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "batches")
    files = sorted(f.relative_to(root) for f in root.rglob("img *"))
    table = root / "attributes.csv"
    rows = [f"{f},{f.parent},{i % 2}" for i, f in enumerate(files)]
    table.write_text("\n".join(["file,class,night", *rows]), "utf-8")
    assert "[column-name]" not in build(root).notice
    rows = [f"{f},{'ab'[i % 2]},{i % 2}" for i, f in enumerate(files)]
    table.write_text("\n".join(["file,class,night", *rows]), "utf-8")
    with pytest.raises(DataError, match=r"\[table-class\] \(36\)"):
        build(root)
    for name in CLASSES:
        (root / "images").mkdir(exist_ok=True)
        (root / name).rename(root / "images" / name)
    assert build(root).class_names == ["a", "b"]


def test_splits_within_class_folders_are_kept(tmp_path: Path) -> None:
    plain = class_folders(tmp_path / "plain")
    root = tmp_path / "birds"
    for i, file in enumerate(sorted(plain.rglob("img *"))):
        folder = root / file.parent.name / ("train", "Val", "test")[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / file.name)
    target = build(root)
    assert len(target.class_names) == 3
    assert "[classes-deeper]" not in target.notice
    assert {Path(name).parts[1] for name in target.split("test").ids} == {"test"}
    assert {Path(name).parts[1] for name in target.split("feedback").ids} == {"Val"}


def test_classes_of_two_splits_that_differ_in_case_are_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        class_folders(tmp_path / "birds" / split)
    (tmp_path / "birds" / "test" / CLASSES[0]).rename(tmp_path / "birds" / "test" / "red kite")
    with pytest.raises(DataError, match=r"\[class-folder-alike\] \(1\): .(?i:red kite)") as error:
        build(tmp_path / "birds")
    assert "class-not-in-split" not in str(error.value)


def test_outlines_and_boxes_are_said_to_be_unread(tmp_path: Path) -> None:
    root = scenes(tmp_path / "boxes", names="")
    shutil.rmtree(root / "depth")
    for mask in sorted((root / "masks").iterdir()):
        mask.with_suffix(".txt").write_text("0 0.5 0.5 0.1 0.1")
        mask.unlink()
    with pytest.raises(DataError, match=r"Outlines and boxes, as perhaps in masks/00\.txt"):
        build(root)
    shutil.rmtree(root / "masks")
    (root / "_annotations.coco.json").write_text("{}", "utf-8")
    with pytest.raises(DataError, match=r"as perhaps in boxes/_annotations\.coco\.json"):
        build(root)


def test_parquet_below_a_folder_belongs_to_another_target(tmp_path: Path) -> None:
    (tmp_path / "saved" / "data").mkdir(parents=True)
    (tmp_path / "saved" / "data" / "train-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"\[other-target\] .*give --target 'hf:"):
        build(tmp_path / "saved")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("phots", r"There is no folder .*/phots \(near: .*/photos\)"),
        ("photos.zip", r"\[archive\] .*photos\.zip is an archive"),
        ("one.jpg", r"\[no-folder-but-file\] .*one\.jpg is a file"),
    ],
)
def test_a_path_that_is_no_folder_is_told_what_to_give(
    tmp_path: Path, given: str, said: str
) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("photos.zip", "one.jpg"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=said):
        build(tmp_path / given)


def test_a_class_of_which_no_picture_can_be_read_stops_the_reading(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    (root / "Owls").mkdir()
    (root / "Owls" / "cut off.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(DataError, match=r'\[few-of-class\] \(1\): "Owls, 0"'):
        build(root)


def test_a_class_folder_without_permission_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = class_folders(tmp_path / "birds")
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "Red Kite")
    with pytest.raises(DataError, match=r"without a picture.*\n.*\[no-permission\].*Red Kite"):
        build(root)


def test_a_whole_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.targets.user.scan._MAX_FILES", 38)
    with pytest.raises(DataError, match=r"\[too-many-files\] .*more than 38 files"):
        build(class_folders(tmp_path / "birds"))


def test_what_systems_leave_behind_is_no_class(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    (root / "@eaDir").mkdir()
    shutil.copy(next((root / CLASSES[0]).iterdir()), root / "@eaDir" / "small.jpg")
    (root / CLASSES[0] / "Thumbs.db").write_bytes(b"x")
    target = build(root)
    assert len(target.class_names) == len(CLASSES)
    assert "left out" not in target.notice


def test_classes_may_be_called_mask_or_normal(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "faces")
    for old, new in zip(CLASSES, ("mask", "no mask", "normal"), strict=True):
        (root / old).rename(root / new)
    assert build(root).class_names == ["mask", "no mask", "normal"]


def test_a_folder_of_labels_under_another_name_is_named(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes")
    (root / "masks").rename(root / "truth")
    shutil.rmtree(root / "depth")
    with pytest.raises(DataError, match=r"there is: images/, truth/.*\[no-labels\]") as e:
        build(root)
    assert "class folder" not in str(e.value)


def test_masks_are_joined_to_images_by_names_without_usual_words(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes")
    for mask in sorted((root / "masks").iterdir()):
        mask.rename(mask.with_stem(f"{mask.stem}_gtFine_labelIds"))
    for image in sorted((root / "images").iterdir()):
        image.rename(image.with_stem(f"{image.stem}_leftImg8bit"))
    target = build(root)
    assert "named as their image but for a word, as '00_gtFine_labelIds.png' and" in target.notice
    assert "named as their image but for a word, as '00.png' and" in target.notice  # of depth
    assert all((target.split(s).labels["segmentation"] < 255).all() for s in SPLITS)


def test_masks_named_unlike_their_images_stop_the_reading(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes")
    for mask in sorted((root / "masks").iterdir()):
        mask.rename(mask.with_stem(f"{mask.stem}_b"))
    with pytest.raises(
        DataError, match=r'\[label-names\] \(1\): "masks/00_b\.png, images/00\.png"'
    ):
        build(root)


COLOURS = np.array([[128, 128, 255], [100, 60, 20], [0, 0, 0]], np.uint8)


def in_colour(root: Path) -> Path:
    """Save the masks of scenes in colour, every fourth one still by a palette."""
    for mask in sorted((root / "masks").iterdir()):
        ids = np.asarray(Image.open(mask))
        Image.fromarray(COLOURS[ids]).save(mask)
    return root


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.csv", "name,r,g,b\nsky,128,128,255\nroad,100,60,20\ncar,0,0,0\n"),
        ("labelmap.txt", "# label:color_rgb\nsky:128,128,255::\nroad:100,60,20::\ncar:0,0,0::\n"),
        ("label_colors.txt", "128 128 255\tsky\n100 60 20\troad\n0 0 0\tcar\n"),
    ],
)
def test_masks_in_colour_are_read_by_a_table_of_colours(
    tmp_path: Path, file: str, text: str
) -> None:
    plain = build(scenes(tmp_path / "plain"))
    root = in_colour(scenes(tmp_path / "scenes", names=""))
    by_palette = Image.open(root / "masks" / "03.png").quantize(3)
    assert by_palette.mode == "P"
    by_palette.save(root / "masks" / "03.png")
    (root / file).write_text(text, "utf-8")
    target = build(root)
    assert set(target.pixel_classes) == {"sky", "road", "car"}
    places = [target.pixel_classes.index(name) for name in plain.pixel_classes]
    by_name = {
        name: np.array(places)[mask]
        for split in SPLITS
        for name, mask in zip(
            plain.split(split).ids, plain.split(split).labels["segmentation"], strict=True
        )
    }
    for split in SPLITS:
        own = target.split(split)
        for name, mask in zip(own.ids, own.labels["segmentation"], strict=True):
            assert np.array_equal(mask, by_name[name])
    (root / file).write_text("\n".join(text.splitlines()[:-1]), "utf-8")
    with pytest.raises(
        DataError, match=r"colours that no class has, 0,0,0: .*\[mask-foreign-colours\]"
    ):
        build(root)
    (root / file).write_text("sky\nroad\n", "utf-8")
    with pytest.raises(DataError, match=r"\[class-file\]"):
        build(root)


def test_masks_in_colour_without_a_table_are_classes_without_names(tmp_path: Path) -> None:
    root = in_colour(scenes(tmp_path / "scenes", names=""))
    target = build(root)
    assert target.pixel_classes == ["colour 0 0 0", "colour 100 60 20", "colour 128 128 255"]
    assert "write PATH/classes.csv, a line NAME,RED,GREEN,BLUE for each" in target.notice
    assert "NAME,128,128,255 (4" in target.notice
    (root / "classes.txt").write_text("sky\nroad\ncar\n", "utf-8")
    with pytest.raises(DataError, match=r"names are given by ids.*NAME,100,60,20"):
        build(root)


def test_masks_of_gray_colours_beside_others_are_in_colour_too(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes", names="")
    shutil.rmtree(root / "depth")
    colours = np.array([[0, 0, 0], [128, 128, 128], [255, 0, 0]], np.uint8)
    for mask in (root / "masks").iterdir():  # every other one shows no car, so it is gray
        Image.fromarray(colours[np.asarray(Image.open(mask))]).save(mask)
    target = build(root)
    assert target.pixel_classes == ["colour 0 0 0", "colour 128 128 128", "colour 255 0 0"]
    assert all((target.split(s).labels["segmentation"] < 255).all() for s in SPLITS)


def test_masks_of_three_channels_that_are_all_gray_hold_ids(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes")
    for mask in sorted((root / "masks").iterdir())[::2]:  # the others have one channel
        Image.fromarray(np.stack([np.asarray(Image.open(mask))] * 3, 2)).save(mask)
    as_ids = build(scenes(tmp_path / "plain"))
    target = build(root)
    assert target.pixel_classes == ["sky", "road", "car"]
    for name in SPLITS:
        ours, theirs = target.split(name), as_ids.split(name)
        assert ours.ids == theirs.ids
        assert np.array_equal(ours.labels["segmentation"], theirs.labels["segmentation"])


def test_ids_without_names_are_said_with_how_to_name_them(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes", names="")
    assert "PATH/classes.yaml (of hf: target.options.classes), a line ID: NAME for each of 0, 1, 2"\
        in build(root).notice  # fmt: skip
    (root / "classes.yaml").write_text("0: sky\n1: road\n2: car\n", "utf-8")
    assert "classes.yaml" not in build(root).notice
    assert build(root).pixel_classes == ["sky", "road", "car"]


def test_several_ids_may_be_void_or_one_class(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes", names="")
    apart = build(root)
    (root / "classes.yaml").write_text("0: sky\n1: ground\n2: ground\n", "utf-8")
    joined = build(root)
    assert joined.pixel_classes == ["sky", "ground"]
    for split in SPLITS:
        ids, own = apart.split(split), joined.split(split)
        by_name = dict(zip(ids.ids, ids.labels["segmentation"], strict=True))
        for name, mask in zip(own.ids, own.labels["segmentation"], strict=True):
            if name in by_name:
                assert np.array_equal(mask, by_name[name].clip(0, 1))
    (root / "classes.yaml").write_text("0: void\n1: road\n2: void\n", "utf-8")
    assert build(root).pixel_classes == ["road"]
    (root / "classes.yaml").write_text("0: sky\n1: Ground\n2: ground\n", "utf-8")
    with pytest.raises(DataError, match="'Ground' and 'ground' read alike"):
        build(root)
    (root / "classes.yaml").unlink()
    (root / "classes.txt").write_text("sky\nroad\nroad\n", "utf-8")
    with pytest.raises(DataError, match="'road' is there twice"):
        build(root)


def test_a_photograph_as_a_mask_has_too_many_colours(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes", names="")
    for mask in sorted((root / "masks").iterdir()):
        shutil.copy(root / "images" / mask.name, mask)
    with pytest.raises(DataError, match=r"\d+ different colours .*\[mask-colours\]"):
        build(root)


def test_the_reach_of_depth_is_said_so_that_a_wrong_unit_is_seen(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes")
    assert "depth lies between 6 and 7 m (5% to 95%" in build(root).notice
    assert "If they are millimetres: --set target.options.depth_scale=1000" in build(root).notice
    in_mm = build(root, depth_scale=1000).notice
    assert "depth lies between 1.54 and 1.79 m" in in_mm and "millimetres" not in in_mm


def test_depth_of_one_value_is_noted(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes")
    assert "[label-constant]" not in build(root).notice
    for file in (root / "depth").iterdir():
        with Image.open(file) as picture:
            flat = np.full_like(np.asarray(picture), 1500)
        Image.fromarray(flat).save(file)
    assert "[label-constant]" in build(root).notice


def test_a_folder_with_metadata_is_of_the_library_datasets(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds" / "train").parent
    (root / "train" / "metadata.jsonl").write_text("{}\n", "utf-8")
    with pytest.raises(DataError, match=r"\[other-target\] .*give --target 'hf:"):
        build(root)


def test_files_in_folders_that_are_not_read_are_noted(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes")
    shutil.copytree(root / "masks", root / "instances")
    shutil.copy(root / "images" / "00.png", root / "overview.png")
    (root / "metadata.csv").write_text("file,weather\n00.png,rain\n", "utf-8")
    (root / "README.txt").write_text("hello", "utf-8")
    notice = build(root).notice
    assert (
        "files in instances/, which is not images/, masks/, depth/ or normals/, left out "
        "[unread-folder] (24)" in notice
    )
    assert '[outside-images] (1): "overview.png"' in notice
    assert 'masks from PATH/classes.txt) [unread-file] (1): "metadata.csv"' in notice


def test_a_folder_around_the_classes_is_not_a_class(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos" / "data")
    with pytest.raises(
        DataError, match=r"\[one-folder\] .*one folder, data/, with the folders Red Kite"
    ) as e:
        build(tmp_path / "photos")
    assert f"--target 'folder:{tmp_path / 'photos' / 'data'}'" in str(e.value)


def test_pictures_in_no_class_folder_are_counted_when_there_are_no_others(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    with pytest.raises(DataError, match=r"\[no-class\] \(12\)"):
        build(root / CLASSES[0])


def test_folders_within_a_class_belong_to_it(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    (root / CLASSES[0] / "day 2").mkdir()
    shutil.move(root / CLASSES[0] / "img 0-00.jpg", root / CLASSES[0] / "day 2")
    target = build(root)
    assert len(target.class_names) == 3
    assert "[folders-in-class] (1)" in target.notice


def test_a_split_of_an_unknown_name_is_no_class(tmp_path: Path) -> None:
    for name in ("train", "test", "holdout", "__MACOSX"):
        class_folders(tmp_path / "birds" / name)
    with pytest.raises(
        DataError, match=r"\[split-folders\] .*test, train are named as splits, holdout not"
    ):
        build(tmp_path / "birds")


def test_one_class_and_copies_are_named(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds", n=24)
    for name in CLASSES[1:]:
        shutil.rmtree(root / name)
    with pytest.raises(DataError, match=r'\[one-class\] \(1\): "Red Kite"'):
        build(root)
    for i in range(24):
        shutil.copy(root / CLASSES[0] / "img 0-00.jpg", root / CLASSES[0] / f"copy {i}.jpg")
    with pytest.raises(DataError, match=r"\[copies\] \(24\)"):
        build(root)


def test_a_class_folder_of_a_hidden_name_is_named(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    (root / CLASSES[0]).rename(root / "$wift")
    (root / ".git").mkdir()
    assert '[hidden-folder] (1): "$wift"' in build(root).notice


def test_a_rare_class_is_told_with_its_numbers(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds", n=30)
    for file in sorted((root / CLASSES[1]).iterdir())[9:]:
        file.unlink()
    notice = build(root).notice
    assert '[rare-class] (1): "Élan vital, audit 2, feedback 2, test 2"' in notice


@pytest.mark.parametrize(
    ("inside", "kind"),
    [
        (["dataset_dict.json", "train/data-00000-of-00001.arrow"], "hf"),
        (["data-00000-of-00001.arrow", "state.json"], "hf"),
        (["data-00.parquet"], "hf"),
        (["trainannot/0.png", "train/0.png"], "camvid"),
    ],
)
def test_data_of_other_targets_are_sent_there(tmp_path: Path, inside: list[str], kind: str) -> None:
    for name in inside:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    with pytest.raises(DataError, match=f"give --target '{kind}:{tmp_path / 'data'}'"):
        build(tmp_path / "data")


# Pictures.


def test_what_a_picture_loses_is_noted(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    folder = root / CLASSES[0]
    picture = Image.open(folder / "img 0-01.png").convert("RGBA")
    picture.save(folder / "opaque.png")
    picture.putalpha(100)
    picture.save(folder / "see-through.png")
    frames = [Image.effect_noise((40, 40), 50 + i) for i in range(3)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    (folder / "phone.HEIC").write_bytes(b"x")
    notice = build(root).notice
    assert '[transparent] (1): "Red Kite/see-through.png"' in notice
    assert '[several-frames] (1): "Red Kite/moving.gif"' in notice
    assert '[unread-picture-format] (1): "Red Kite/phone.HEIC"' in notice


def test_the_names_of_ids_are_told_where_one_is_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"ids out of range, 2: .*\(0 sky, 1 road\).*\[mask-foreign-ids\]"
    ):
        build(scenes(tmp_path / "scenes", names="sky\nroad\n"))


def test_ids_that_count_as_unknown_are_noted(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes", names="")
    for file in (root / "masks").iterdir():
        mask = np.asarray(Image.open(file)).copy()
        mask[mask == 2] = 255
        save_mask(file, mask)
    target = build(root)
    assert target.pixel_classes == ["class 0", "class 1"]
    assert "pixels of the id 255 in masks count as of unknown class" in target.notice
    assert build(root, void=[]).pixel_classes == ["class 0", "class 1", "class 255"]


# The table.


def table(root: Path, text: str, encoding: str = "utf-8") -> Path:
    (root / "attributes.csv").write_text(text, encoding)
    return root


NAMES = [f"img 0-{i:02d}.{'png' if i % 2 else 'jpg'}" for i in range(12)]


def test_a_table_of_a_spreadsheet_in_german(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    lines = [f"{name};{i},5;{'Öl' if i % 3 else 'NaN'}" for i, name in enumerate(NAMES)]
    target = build(
        table(root, "\n".join(["Datei;Höhe in m;Stoff", *lines, "img 1-00.jpg;;Gas"]), "utf-8-sig")
    )
    assert list(target.vocabulary.attributes["höhe_in_m"]) == ["low", "medium", "high"]
    known = known_of(target)
    assert known["Red Kite/img 0-00.jpg"]["höhe_in_m"] == "low"
    assert known["Red Kite/img 0-11.png"]["höhe_in_m"] == "high"
    assert "höhe_in_m" not in known[f"{CLASSES[1]}/img 1-00.jpg"]
    # NaN, as pandas writes it, is no word.
    assert list(target.vocabulary.attributes["stoff"]) == ["gas", "öl"]
    assert "stoff" not in known["Red Kite/img 0-00.jpg"]


def test_names_in_the_table_may_be_composed_otherwise_or_begin_with_a_dot(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    accented = next(name for name in CLASSES if "É" in name)
    names = sorted(file.name for file in (root / accented).iterdir())
    split_accents = unicodedata.normalize("NFD", accented)
    lines = [
        f"./{split_accents}/{name},{'wet' if i % 2 else 'dry'}" for i, name in enumerate(names)
    ]
    known = known_of(build(table(root, "\n".join(["file,ground", *lines]))))
    assert {known[f"{accented}/{name}"]["ground"] for name in names} == {"wet", "dry"}


def test_a_column_that_repeats_the_class_is_left_out(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    lines = [f"{f.parent.name}/{f.name},{f.parent.name}" for f in sorted(root.rglob("*.*g"))]
    target = build(table(root, "\n".join(["file,label", *lines])))
    assert "label" not in target.vocabulary.attributes
    assert '[column-class] (1): "label"' in target.notice


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "file,a,a\nimg 0-00.jpg,x,y\n",
            '[table-column-twice] (1): "a"',
        ),
        (
            "file,a\nimg 0-00.jpg,x\nRed Kite/img 0-00.jpg,y\n",
            '[table-picture-twice] (1): "Red Kite/img 0-00.jpg"',
        ),
        (
            "nr,file,a\n0,img 0-00.jpg,x\n",
            "such as 'Red Kite/img 0-00.jpg' [table-no-match] (1): \"0\"",
        ),
    ],
)
def test_faults_of_the_table(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError) as e:
        build(table(class_folders(tmp_path / "birds"), text))
    assert words in str(e.value)


# Options.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"void": "road"}, "void cannot be 'road'"),
        ({"depth_scale": "mm"}, "depth_scale cannot be 'mm'"),
        ({"task": 3}, "task cannot be 3"),
        ({"seed": -1}, "seed cannot be -1"),
    ],
)
def test_values_of_options_are_checked(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        build(scenes(tmp_path / "scenes"), **options)


def test_an_unknown_option_is_told_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"Unknown option 'viod'. Did you mean 'void'\?.*'folder'"
    ):
        build(tmp_path, viod=0)
