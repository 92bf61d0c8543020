"""`shaping generate`: images of one prompt."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from agent.cli import generate
from agent.config.settings import load_settings
from memory.errors import SettingsError
from tests.agent.quick import MakeSettings
from tests.tools.tiny_biggan import biggan


def test_writes_images_and_a_montage(make_elpv_settings: MakeSettings, tmp_path: Path) -> None:
    console = Console(record=True, width=300, file=io.StringIO())
    folder = tmp_path / "images"
    montage = generate.generate(make_elpv_settings(), "a dark poly cell " * 40, 3, folder, console)
    assert sorted(p.name for p in folder.iterdir()) == [
        ".shaping-files.json",
        "0000.png",
        "0001.png",
        "0002.png",
        "montage.png",
    ]
    with Image.open(folder / "0002.png") as image:
        assert (image.size, image.mode) == ((64, 64), "L")
    assert montage == folder / "montage.png"
    output = console.export_text()
    assert "CC BY-NC-SA" in output
    assert "Recognised: wafer=poly, brightness=dark" in output
    assert "It names none of the classes: functional, defective" in output
    assert "160 tokens; the generator reads only the first 64" in output


def test_words_that_the_generator_cannot_draw_are_named(
    make_elpv_settings: MakeSettings, tmp_path: Path
) -> None:
    biggan(tmp_path / "gan")
    settings = make_elpv_settings(
        "generator.name=class_gan",
        f"generator.weights={tmp_path / 'gan'}",
        "generator.options={vocabulary: elpv}",
    )
    console = Console(record=True, width=300, file=io.StringIO())
    generate.generate(settings, "a dark poly cell with a crack", 2, tmp_path / "images", console)
    output = console.export_text()
    assert "the generator class_gan cannot draw dark, poly; these words have no effect" in output


@pytest.mark.parametrize(("prompt", "n"), [("  ", 3), ("a cell", 0)])
def test_nothing_to_draw_is_refused(
    make_settings: MakeSettings, tmp_path: Path, prompt: str, n: int
) -> None:
    with pytest.raises(SettingsError, match="not empty"):
        generate.generate(make_settings(), prompt, n, tmp_path, Console(quiet=True))


def test_labels_lie_beside_their_images(tmp_path: Path) -> None:
    settings = load_settings("streets-seg", [f"home={tmp_path / 'home'}"])
    folder = tmp_path / "images"
    montage = generate.generate(settings, "a rainy street", 2, folder, Console(quiet=True))
    kinds = ("", ".depth", ".normals", ".segmentation")
    names = {f"{i:04d}{kind}.png" for i in range(2) for kind in kinds}
    assert {p.name for p in folder.iterdir()} == names | {"montage.png", ".shaping-files.json"}
    with Image.open(folder / "0001.segmentation.png") as ids:
        assert (ids.size, ids.mode) == ((96, 64), "L")
        assert np.asarray(ids).max() <= 10
    with Image.open(montage) as picture:
        assert picture.width >= 2 * 4 * 96
