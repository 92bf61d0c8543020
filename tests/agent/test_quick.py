"""`shaping generate`: images of one prompt."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from agent import quick
from agent.settings import Settings
from memory.errors import SettingsError


def test_writes_images_and_a_montage(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    console = Console(record=True, width=300, file=io.StringIO())
    folder = tmp_path / "images"
    montage = quick.generate(make_settings(), "a dark poly cell " * 40, 3, folder, console)
    assert sorted(p.name for p in folder.iterdir()) == [
        "0000.png",
        "0001.png",
        "0002.png",
        "montage.png",
    ]
    with Image.open(folder / "0002.png") as image:
        assert (image.size, image.mode) == ((64, 64), "L")
    assert montage == folder / "montage.png"
    said = console.export_text()
    assert "CC BY-NC-SA" in said
    assert "Recognised: wafer=poly, brightness=dark" in said
    assert "160 tokens; the generator reads only the first 64" in said


@pytest.mark.parametrize(("prompt", "n"), [("  ", 3), ("a cell", 0)])
def test_nothing_to_draw_is_refused(
    make_settings: Callable[..., Settings], tmp_path: Path, prompt: str, n: int
) -> None:
    with pytest.raises(SettingsError, match="not empty"):
        quick.generate(make_settings(), prompt, n, tmp_path, Console(quiet=True))
