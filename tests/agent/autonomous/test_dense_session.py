"""A whole session whose labels belong to pixels: rendered streets, a target of another look."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from agent.autonomous.results import source_of
from agent.autonomous.runner import run
from agent.config.settings import load_settings
from agent.session.folder import list_sessions
from memory.journal import read_events, rounds
from tests.tools.tiny_diffusers import controlnet, stable_diffusion
from tools import tasks
from tools.data.export import export
from tools.data.samples import Samples
from tools.data.shards import read_shards
from tools.look_at import labelled_pictures

SMALL = (
    'target.options={"sizes": {"generator": 16, "audit": 4, "feedback": 24, "test": 8}}',
    "dstm.steps=5",
    "dstm.batch_size=4",
    "session.rounds=2",
    "session.images_per_round=8",
    "session.name=dense",
    "feedback.n_min=5",
    "device=cpu",
)


@pytest.mark.parametrize(
    ("preset", "metric"),
    [
        ("streets-seg", "miou"),
        pytest.param("streets-depth", "delta1", marks=pytest.mark.slow),
        pytest.param("streets-normals", "within_11", marks=pytest.mark.slow),
        ("streets-multi", "mean_score"),
    ],
)
def test_session_over_labels_of_pixels(tmp_path: Path, preset: str, metric: str) -> None:
    settings = load_settings(preset, [*SMALL, f"home={tmp_path}"], {})
    page = run(settings, Console(quiet=True))
    _, one, two = rounds(read_events(page.parent / "journal.jsonl"))
    assert one.batch and two.batch and two.training and two.report
    assert one.batch.n_kept == one.batch.n_made == 8
    assert two.training.n_images == 16
    assert two.report.main_metric == metric
    assert 0 <= two.report.metrics[metric].value <= 1
    assert any(score.key.startswith("light=") for score in two.report.slices)
    (info,) = list_sessions(tmp_path)
    assert info.score == two.report.metrics[metric].value
    html = page.read_text("utf-8")
    assert "stand for photographs and are none" in html
    assert ("Legend of the colours" in html) == (preset != "streets-normals")

    kinds = tasks.build(settings.dstm.task).needs
    stored = read_shards([page.parent / shard.file for shard in one.batch.shards])
    assert set(stored.labels) == {"segmentation", "depth", "normals"}
    shown = labelled_pictures(stored, kinds, [str(i) for i in range(11)])
    assert shown.shape == (8, 3, 64, 96 * (1 + len(kinds)))
    for failure in two.failures:
        if failure.picture:
            with Image.open(page.parent / failure.picture) as picture:
                assert np.asarray(picture).std() > 0
    if kinds == ("segmentation",):
        shards = [shard for round_ in (one, two) if round_.batch for shard in round_.batch.shards]
        stored = read_shards([page.parent / shard.file for shard in shards])
        check_masks_of_coco(tmp_path, stored)


def check_masks_of_coco(home: Path, stored: Samples) -> None:
    """Export the session and compare its masks with the stored labels."""
    place = home / "coco"
    assert export(source_of(home, "dense"), "coco", place) == len(stored)
    said = json.loads((place / "annotations.json").read_text("utf-8"))
    drawn = {
        picture.tobytes(): ids
        for picture, ids in zip(
            stored.images.transpose(0, 2, 3, 1), stored.labels["segmentation"], strict=True
        )
    }
    numbers = {one["name"]: one["id"] for one in said["categories"]}
    assert numbers["sky"] == 1 and len(numbers) == 11
    card = (place / "README.md").read_text("utf-8")
    assert ": 8 bits, 0 sky, " in card and "255 unknown" in card
    assert "metres x 256" in card and "127 n + 128" in card
    for image in said["images"]:
        with Image.open(place / "images" / image["file_name"]) as picture:
            ids = drawn[np.asarray(picture).tobytes()]
        own = [one for one in said["annotations"] if one["image_id"] == image["id"]]
        assert {one["category_id"] for one in own} == set((np.unique(ids) + 1).tolist())
        for one in own:
            counts = one["segmentation"]["counts"]
            runs = np.repeat(np.arange(len(counts)) % 2, counts).astype(bool)
            mask = runs.reshape(ids.shape, order="F")
            assert np.array_equal(mask, ids + 1 == one["category_id"])
            assert one["area"] == mask.sum()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_session_whose_labels_come_first(tmp_path: Path) -> None:
    """Rendered labels, and pictures drawn to them by a tiny Stable Diffusion with a ControlNet."""
    stable_diffusion(tmp_path / "model")
    controlnet(tmp_path / "control")
    first = (
        "generator.name=label_first",
        f"generator.weights={tmp_path / 'model'}",
        "generator.steps=1",
        "generator.options={source: {name: streets}, condition: segmentation, size: [32, 48], "
        f"controlnet: {tmp_path / 'control'}}}",
    )
    settings = load_settings("streets-seg", [*SMALL, *first, f"home={tmp_path / 'home'}"], {})
    page = run(settings, Console(quiet=True))
    _, one, two = rounds(read_events(page.parent / "journal.jsonl"))
    assert one.batch and two.batch and two.report
    assert two.batch.n_made == 8
    assert two.report.main_metric == "miou"
    stored = read_shards([page.parent / shard.file for shard in two.batch.shards])
    assert set(stored.labels) == {"segmentation", "depth", "normals"}
    assert len(np.unique(stored.labels["segmentation"])) > 5
