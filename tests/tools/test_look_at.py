"""What a model that sees is shown of a slice: wrong, right and generated in one picture."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from eval.montage import SHEET_PX
from memory.errors import DataError
from memory.records import Batch, Plan, PromptQuality, PromptSpec, Round, Shard
from tools.data.samples import Samples
from tools.data.shards import write_shard
from tools.look_at import look_at

DIM = {"light": "dim"}


@pytest.fixture
def session(tmp_path: Path, target: Any) -> Path:
    """A session whose model takes dim squares for plain and knows all else; four images of dim."""
    feedback = target.split("feedback")
    pairs = zip(feedback.attributes, feedback.classes, strict=True)
    seen = [0 if a == DIM and c == 1 else c for a, c in pairs]
    folder = tmp_path / "rounds/001"
    folder.mkdir(parents=True)
    ids = {"ids": json.dumps(list(feedback.ids)), "task": "classification"}
    predictions = {"predictions": 0.2 + 0.6 * np.eye(2)[seen]}
    save_file(predictions, folder / "feedback.safetensors", metadata=ids)
    images = np.full((4, *target.image_shape), 200, np.uint8)
    names = [f"r001p00-{i:04d}" for i in range(4)]
    samples = Samples(images, np.zeros(4, np.int64), [DIM] * 4, names, np.array([0.1, 1, 1, 1.0]))
    shard = write_shard(samples, ["dim"] * 4, ["r001p00"] * 4, range(4), target.class_names)
    (folder / "data-0.parquet").write_bytes(shard)
    return tmp_path


def past(n_made: int = 4) -> list[Round]:
    prompt = PromptSpec(id="r001p00", text="dim", class_name="plain", attributes=DIM, count=4)
    quality = PromptQuality(prompt_id="r001p00", n_made=n_made, n_kept=3, mean_weight=0.8)
    shard = Shard(file="rounds/001/data-0.parquet", n_images=4, sha256="0" * 64)
    batch = Batch(round=1, job_id="j", shards=(shard,), quality=(quality,))
    return [Round(number=1, plan=Plan(round=1, author="x", prompts=(prompt,)), batch=batch)]


def test_wrong_right_and_generated_are_in_one_picture(session: Path, target: Any) -> None:
    shown = look_at(1, session, target, past(), "light=dim", DIM, prompts=["r001p00"])
    with Image.open(io.BytesIO(shown.png)) as picture:
        assert max(picture.size) <= SHEET_PX and picture.width > SHEET_PX // 2
        # The lowest of three rows has the images, which are brighter than any dim photograph.
        lowest = np.asarray(picture.convert("L"))[-picture.height // 3 :]
    assert (lowest == 200).mean() > 0.3
    for words in ("20 wrong", "20 right", "4 generated", "light=dim after round 1"):
        assert words in shown.text
    again = look_at(1, session, target, past(), "light=dim", DIM, prompts=["r001p00"])
    assert again == shown


def test_rows_without_an_image_are_left_out(session: Path, target: Any) -> None:
    feedback = target.split("feedback")
    right = [feedback.ids[i] for i, a in enumerate(feedback.attributes) if a != DIM][:2]
    shown = look_at(1, session, target, past(), "cluster 1a2b3c", {}, members=right)
    assert "0 wrong, 2 right" in shown.text and "generated" not in shown.text
    with Image.open(io.BytesIO(shown.png)) as picture:
        assert max(picture.size) <= SHEET_PX


def test_what_no_photograph_shows_cannot_be_looked_at(session: Path, target: Any) -> None:
    with pytest.raises(DataError, match="'light=green'"):
        look_at(1, session, target, past(), "light=green", {"light": "green"})
