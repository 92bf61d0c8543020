"""Photographs that an MTDM was trained on are kept away from what measures it."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory.errors import WeightsError
from tests.tools.targets.own_data import class_folders
from tools import targets
from tools.targets import Target, leakage


def build(root: Path, seed: int = 0) -> Target:
    return targets.build("folder", root.parent / "cache", path=str(root), seed=seed)


def test_photographs_that_change_their_split_are_found_whatever_they_are_called(
    tmp_path: Path,
) -> None:
    root = class_folders(tmp_path / "birds")
    leakage.check(tmp_path, build(root))  # nothing is known of it
    leakage.record(tmp_path, build(root))
    leakage.check(tmp_path, build(root))
    for file in list(root.rglob("*.png")):
        file.rename(file.with_stem(f"zz {file.stem[::-1]}"))
    with pytest.raises(WeightsError, match=r"trained on \d+ photographs.*(audit|feedback|test) \d"):
        leakage.check(tmp_path, build(root, seed=1))


def test_what_was_seen_once_stays_seen(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    leakage.record(tmp_path, build(root))
    leakage.record(tmp_path, build(root, seed=1))
    with pytest.raises(WeightsError, match="in other splits"):
        leakage.check(tmp_path, build(root, seed=1))


def test_words_that_came_after_the_training_are_found(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    leakage.record(tmp_path, build(root))
    assert leakage.unlearned_words(tmp_path, build(root)) == []
    names = [file.relative_to(root) for file in sorted(root.rglob("img *"))]
    lines = ["file,ringed", *(f"{n},{('yes', 'no')[i % 2]}" for i, n in enumerate(names))]
    (root / "attributes.csv").write_text("\n".join(lines), "utf-8")
    assert leakage.unlearned_words(tmp_path, build(root)) == ["ringed=no", "ringed=yes"]
    leakage.record(tmp_path, build(root))
    assert leakage.unlearned_words(tmp_path, build(root)) == []
    assert leakage.unlearned_words(tmp_path / "of an earlier version", build(root)) == []


def test_a_damaged_note_is_named(tmp_path: Path) -> None:
    (tmp_path / leakage.FILE).write_text("{", "utf-8")
    with pytest.raises(WeightsError, match=r"photographs\.json is damaged"):
        leakage.check(tmp_path, build(class_folders(tmp_path / "birds")))
