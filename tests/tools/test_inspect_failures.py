from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from memory.errors import DataError
from memory.records import (
    Batch,
    Failure,
    Plan,
    PromptQuality,
    PromptSpec,
    Round,
    Shard,
    Training,
)
from tests.factories import training
from tools import tasks
from tools.data.samples import Samples
from tools.data.shards import write_shard
from tools.evaluate_real import evaluate_real
from tools.inspect_failures import Discovery, inspect
from tools.models.dstm_file import save_model
from tools.settings import TrainSettings
from tools.tasks import Slicing
from tools.train_dstm import train_model

BY = [("light",)]
SLICING = Slicing(BY, 10)


@pytest.fixture
def session(tmp_path: Path, target: Any) -> Path:
    """A session whose model takes each dim square for plain and knows all else."""
    feedback = target.split("feedback")
    wrong = [a["light"] == "dim" and c == 1 for a, c in zip(*parts(feedback), strict=True)]
    seen = np.where(wrong, 0, feedback.classes)
    arrays = {"predictions": 0.2 + 0.6 * np.eye(2)[seen]}
    folder = tmp_path / "rounds/002"
    folder.mkdir(parents=True)
    ids = json.dumps(list(feedback.ids))
    save_file(
        arrays, folder / "feedback.safetensors", metadata={"ids": ids, "task": "classification"}
    )
    return tmp_path


def parts(samples: Any) -> tuple[Any, Any]:
    return samples.attributes, samples.classes


def test_a_failure_comes_with_a_picture_of_its_errors(session: Path, target: Any) -> None:
    (failure,) = inspect(2, session, target, SLICING)
    assert (failure.slice, failure.n, failure.n_wrong) == ("light=dim", 40, 20)
    assert failure.significant
    assert failure.rest_error_rate == 0
    assert failure.picture == f"rounds/002/failures/{failure.id}.png"
    feedback = target.split("feedback")
    for name in failure.examples:
        i = list(feedback.ids).index(name)
        assert feedback.attributes[i] == {"light": "dim"}
        assert feedback.classes[i] == 1
    with Image.open(session / failure.picture) as picture:
        assert picture.width > 8 * 32


def test_inspecting_twice_gives_the_same(session: Path, target: Any) -> None:
    first = inspect(2, session, target, SLICING)
    path = session / str(first[0].picture)
    data = path.read_bytes()
    assert inspect(2, session, target, SLICING) == first
    assert path.read_bytes() == data


def test_no_slice_is_large_enough(session: Path, target: Any) -> None:
    assert inspect(2, session, target, Slicing(BY, 41)) == ()
    assert not (session / "rounds/002/failures").exists()


def test_a_round_that_was_not_evaluated(session: Path, target: Any) -> None:
    with pytest.raises(DataError, match="Call evaluate_real"):
        inspect(3, session, target, SLICING)


def test_predictions_of_another_target_are_refused(session: Path, target: Any) -> None:
    other = dataclasses.replace(target, n_images=40)
    with pytest.raises(DataError, match="other photographs"):
        inspect(2, session, other, SLICING)


def test_a_failure_beyond_the_slices_is_discovered(session: Path, target: Any) -> None:
    (found,) = inspect(2, session, target, Slicing(n_min=10), discovery=Discovery())
    assert (found.slice, found.n, found.n_wrong) == ("light=dim", 40, 20)
    assert found.significant and found.fixable is None
    assert found.picture and (session / found.picture).is_file()
    known = inspect(2, session, target, SLICING, discovery=Discovery())
    assert [failure.slice for failure in known] == ["light=dim"]


DIM = {"light": "dim"}


def darkened(samples: Samples) -> Samples:
    """Dim squares are as bright above their ground as others, on a dark ground."""
    images = samples.images.copy()
    for i, (attributes, is_square) in enumerate(
        zip(samples.attributes, samples.classes, strict=True)
    ):
        if attributes == DIM:
            images[i] //= 3
            images[i, :, 4:10, 4:10] += np.uint8(90 * is_square)
    return dataclasses.replace(samples, images=images)


@pytest.fixture(scope="module")
def mistaught(target: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Training]:
    """A session whose model takes dim squares for plain and plain ones for them; its target."""
    folder = tmp_path_factory.mktemp("session")
    dark = SimpleNamespace(
        **{name: getattr(target, name) for name in ("name", "class_names", "image_shape")},
        pixel_classes=(),
        vocabulary=target.vocabulary,
        split=lambda name: darkened(target.split(name)),
    )
    task, settings = tasks.build("classification"), TrainSettings(steps=150, batch_size=16)
    taught = dark.split("generator")
    is_dim = np.array([a == DIM for a in taught.attributes])
    wrong = dataclasses.replace(taught, classes=np.where(is_dim, 1, 0) ^ taught.classes)
    model, loss = train_model(wrong, task, 2, settings)
    meta = {
        "task": "classification",
        "class_names": list(target.class_names),
        "settings": settings.model_dump(mode="json"),
    }
    sha256 = save_model(folder / "rounds/002", model, meta)
    return (
        folder,
        dark,
        training(2, model="rounds/002", n_images=80, n_steps=150, final_loss=loss, sha256=sha256),
    )


@pytest.fixture(scope="module")
def tried(mistaught: tuple[Path, Any, Training], target: Any) -> Any:
    """Judge 24 images of dim squares in the session of `mistaught`."""
    folder, dark, training = mistaught
    report = evaluate_real(2, folder, training, dark, SLICING)
    drawn = dark.split("audit")
    rows = np.flatnonzero([a == DIM for a in drawn.attributes])[:24]

    def judge(flipped: bool = False, n_kept: int = 1, attributes: dict[str, str] = DIM) -> Failure:
        own = drawn.take(rows)
        own = dataclasses.replace(own, classes=own.classes ^ 1 if flipped else own.classes)
        names = [f"r002p{i:02d}" for i in range(24)]
        path = folder / "rounds/002/data-00000.parquet"
        data = write_shard(own, [""] * 24, names, [0] * 24, target.class_names)
        path.write_bytes(data)
        prompts = [
            PromptSpec(id=name, text="x", class_name="square", attributes=attributes, count=1)
            for name in names
        ]
        quality = [
            PromptQuality(prompt_id=name, n_made=1, n_kept=n_kept, mean_weight=1) for name in names
        ]
        shard = Shard(file="rounds/002/data-00000.parquet", n_images=24, sha256="0")
        done = Round(
            number=2,
            plan=Plan(round=2, author="test", prompts=tuple(prompts)),
            batch=Batch(round=2, job_id="b", shards=(shard,), quality=tuple(quality)),
            training=training,
            report=report,
        )
        found = inspect(2, folder, dark, SLICING, past=[done])
        return next(f for f in found if f.slice == "light=dim")

    return judge


def test_images_tell_what_helps_from_what_does_not(tried: Any) -> None:
    assert tried(attributes={}).fixable is None
    right, flipped, rejected = tried(), tried(flipped=True), tried(n_kept=0)
    assert right.significant and right.error_rate.value > 0.8
    assert right.fixable.verdict == "fixable"
    assert right.fixable.drawable.n == 24
    assert flipped.fixable.verdict == "hard"
    assert flipped.fixable.chance.high < right.fixable.chance.low
    assert rejected.fixable.verdict == "not drawable"


def test_a_finding_is_followed_though_photographs_were_removed(
    mistaught: tuple[Path, Any, Training], target: Any
) -> None:
    folder, dark, training = mistaught
    shard = folder / "rounds/002/data-00000.parquet"
    drawn = dark.split("audit").take([0])
    shard.write_bytes(write_shard(drawn, [""], ["r002p00"], [0], target.class_names))
    rounds = []
    for number, gone in enumerate((0, 0, 3)):
        fewer = SimpleNamespace(**vars(dark))
        fewer.split = lambda name, gone=gone: dark.split(name).take(
            np.arange(gone, len(dark.split(name)))
        )
        report = evaluate_real(number, folder, training, fewer, SLICING)
        rounds.append(Round(number=number, report=report, training=training))
    found = inspect(0, folder, dark, Slicing(n_min=10), rounds[:1], Discovery())
    dim = next(f for f in found if f.slice == "light=dim")
    members = [n for n, a in zip(*_feedback(dark), strict=True) if a == DIM]
    cluster = dim.model_copy(
        update={"id": "c", "slice": "cluster c", "kind": "cluster", "members": tuple(members)}
    )
    rounds[0] = rounds[0].model_copy(update={"failures": (cluster,)})
    batch = Batch(
        round=2,
        job_id="b",
        shards=(Shard(file="rounds/002/data-00000.parquet", n_images=1, sha256="0"),),
        quality=(PromptQuality(prompt_id="r002p00", n_made=1, n_kept=1, mean_weight=1),),
    )
    rounds[2] = rounds[2].model_copy(update={"batch": batch})
    after = inspect(2, folder, fewer, SLICING, past=rounds)
    assert [f.slice for f in after if f.significant] == ["light=dim"]


def _feedback(target: Any) -> tuple[list[str], list[dict[str, str]]]:
    feedback = target.split("feedback")
    return list(feedback.ids), list(feedback.attributes)
