"""What a session leaves behind: data sets that load, and a model that predicts."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from agent.autonomous.results import origin_of, source_of, write_results
from agent.autonomous.runner import run
from agent.config.settings import load_settings
from agent.replay.trace import collect, write_tables
from agent.session.folder import folder_of, open_session
from eval.likeness import read_likeness
from eval.tables import COLUMNS
from memory.errors import DataError, SessionInUse, SettingsError, StorageError, WeightsError
from memory.events import GeneratorEvent
from memory.journal import read_events
from tests.agent.crashes import NAME, small
from tools.data.export import FORMATS, export
from tools.data.regions import run_lengths
from tools.diffusion.weights import weights_folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a finished session of 24 images."""
    home = tmp_path_factory.mktemp("export")
    finish = f"session.on_finish=echo $SESSION $SESSION_ENDED_BY > {home}/finished"
    run(small(home, finish), Console(quiet=True))
    return home


@pytest.mark.parametrize("form", ["parquet", "imagefolder", "webdataset"])
def test_an_exported_data_set_loads(home: Path, form: str, tmp_path: Path) -> None:
    place = tmp_path / form
    n_images = export(source_of(home, NAME), form, place)  # type: ignore[arg-type]
    assert n_images == 24
    folder = place / "images" if form == "imagefolder" else place
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 24
    picture = loaded[0]["png" if form == "webdataset" else "image"]
    assert picture.size == (32, 32)
    output = loaded[0]["json"] if form == "webdataset" else loaded[0]
    assert "cell" in output["text"]


def test_an_edit_of_an_export_leaves_the_session_as_it_is(home: Path, tmp_path: Path) -> None:
    shards = source_of(home, NAME).shards
    before = [path.read_bytes() for path in shards]
    export(source_of(home, NAME), "parquet", tmp_path / "set")
    session = home / "sessions" / NAME
    for file in [*(tmp_path / "set" / "data").iterdir(), *session.glob("best/dataset/data/*")]:
        with file.open("r+b") as handle:
            handle.write(b"edited")
    assert [path.read_bytes() for path in shards] == before


def test_the_card_says_what_is_in_it(home: Path, tmp_path: Path) -> None:
    export(source_of(home, NAME), "parquet", tmp_path / "set")
    card = (tmp_path / "set" / "README.md").read_text("utf-8")
    for output in ("24 generated images", "| class | images |", "The audit keeps", "## Licence"):
        assert output in card
    made_by = next(
        e
        for e in read_events(folder_of(home, NAME) / "journal.jsonl")
        if isinstance(e, GeneratorEvent)
    )
    assert made_by.identity in card
    assert "| Seed | 0 |" in card
    likeness = read_likeness(folder_of(home, NAME))
    assert likeness[0].group == "all"
    assert f"| {likeness[0].n_real} | {likeness[0].n_generated} |" in card
    assert likeness[0].encoder in card


def test_tables_of_a_session_say_how_like_photographs_its_images_are(
    home: Path, tmp_path: Path
) -> None:
    tables = collect(home, [NAME])
    found = read_likeness(folder_of(home, NAME))
    rows = {row["slice"]: row for row in tables["likeness"]}
    assert list(rows) == [one.group for one in found]
    assert rows["all"]["coverage"] == found[0].coverage.value
    assert (rows["all"]["n_images"], rows["all"]["encoder"]) == (24, found[0].encoder)
    paths = {path.name: path for path in write_tables(tables, "parquet", tmp_path)}
    stored = pq.read_table(paths["likeness.parquet"]).to_pylist()
    assert stored == tables["likeness"]
    assert all(list(row) == list(COLUMNS["likeness"]) for row in tables["likeness"])


def test_the_card_of_images_by_an_mtdm_has_the_digest_of_its_weights() -> None:
    settings = load_settings("solar", ["session.seed=7"], {})
    rows, folder = dict(origin_of(settings, None)), weights_folder(settings.generator.weights)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    assert rows["SHA-256 of its weights"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert rows["Seed"] == "7"


def test_who_is_refused_a_session_does_not_run_the_command_at_its_end(tmp_path: Path) -> None:
    settings = small(tmp_path, f"session.on_finish=touch {tmp_path}/off")
    with open_session(settings, NAME), pytest.raises(SessionInUse):
        run(settings, Console(quiet=True))
    assert not (tmp_path / "off").exists()


def test_coco_wants_a_segmentation_and_a_folder_must_be_empty(home: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no segmentation"):
        export(source_of(home, NAME), "coco", tmp_path / "coco")
    assert not (tmp_path / "coco").exists()
    (tmp_path / "mine").write_text("x", encoding="utf-8")
    with pytest.raises(SettingsError, match="not empty"):
        export(source_of(home, NAME), FORMATS[0], tmp_path)


@pytest.mark.parametrize("form", ["parquet", "imagefolder", "webdataset"])
def test_an_export_that_was_killed_is_made_by_the_same_command(
    home: Path, form: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / form

    def killed(source: object, form: object) -> str:
        # Of a killed process nothing is cleaned up.
        shutil.copytree(place, tmp_path / "left")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("tools.data.export.card", killed)
        export(source_of(home, NAME), form, place)
    shutil.rmtree(place)
    (tmp_path / "left").rename(place)
    assert export(source_of(home, NAME), form, place) == 24
    assert sorted(path.name for path in place.iterdir())[0] == "README.md"


@pytest.mark.parametrize("form", ["parquet", "imagefolder", "webdataset"])
def test_a_folder_that_cannot_be_written_is_named(home: Path, form: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(StorageError, match="a file is where a folder has to be"):
            export(source_of(home, NAME), form, folder)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("is_cut", [True, False])
def test_a_shard_that_is_damaged_or_missing_is_named(
    home: Path, form: Any, is_cut: bool, tmp_path: Path
) -> None:
    source = source_of(home, NAME)
    bad = tmp_path / "data-00001.parquet"
    if is_cut:
        bad.write_bytes(source.shards[0].read_bytes()[:-100])
    with pytest.raises(DataError, match=r"data-00001\.parquet is missing or damaged"):
        export(source._replace(shards=[bad]), form, tmp_path / "place")
    assert not list((tmp_path / "place").glob("*"))


def test_a_model_that_is_gone_is_named_at_the_end_of_a_session(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home, tmp_path / "home")
    settings = small(tmp_path / "home")
    for file in folder_of(settings.home, NAME).glob("rounds/*/model.json"):
        file.unlink()
    with open_session(settings, NAME) as session, pytest.raises(WeightsError, match="missing or"):
        write_results(session)


def test_run_lengths_are_coco_ones() -> None:
    mask = np.array([[0, 1], [0, 1], [1, 0]], dtype=bool)
    assert run_lengths(mask) == [2, 3, 1]
    assert run_lengths(~mask) == [0, 2, 3, 1]


def test_the_best_model_predicts_outside(home: Path, tmp_path: Path) -> None:
    best = folder_of(home, NAME) / "best"
    picture = tmp_path / "cell.png"
    Image.fromarray(np.full((300, 300), 90, np.uint8)).save(picture)
    output = subprocess.run(
        [sys.executable, str(best / "predict.py"), str(picture), "gone.png"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert output.returncode == 1
    assert "gone.png" in output.stderr and "Traceback" not in output.stderr
    assert f"{picture}: " in output.stdout
    assert any(name in output.stdout for name in ("functional", "defective"))
    card = (best / "README.md").read_text("utf-8")
    assert "| feedback |" in card
    assert "| test |" in card
    assert json.loads((best / "model.json").read_text("utf-8"))["image_shape"] == [1, 32, 32]
    assert len(list((best.parent / "dataset" / "data").iterdir())) == 6


def test_the_command_at_the_end_is_run(home: Path) -> None:
    assert (home / "finished").read_text("utf-8") == f"{NAME} rounds\n"
