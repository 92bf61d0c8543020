"""Two processes train the model that one trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from memory.errors import SettingsError, ShapingError, Stopped
from tests.tools import tiny_transformers
from tools import tasks
from tools.compute.data_parallel import DataParallelTrainer
from tools.data.shards import write_shard
from tools.data.stored_images import StoredImages
from tools.models.dstm_file import load_model
from tools.settings import TrainSettings
from tools.train_dstm import Callbacks, Trainer, train_dstm, train_model

TASK = tasks.build("classification")
CLASSES = ["plain", "square"]


@pytest.fixture
def shard(tmp_path: Path, target: Any) -> Path:
    part = target.split("generator")
    n = len(part)
    path = tmp_path / "night/rounds/001/data-000.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(write_shard(part, ["a cell"] * n, ["p"] * n, range(n), CLASSES))
    return path


@pytest.fixture
def settings(tmp_path: Path) -> TrainSettings:
    """Of a small transformer, which normalises every image for itself."""
    folder = tmp_path / "vit"
    tiny_transformers.vit().save_pretrained(folder)
    return TrainSettings(model=str(folder), steps=30, batch_size=16, learning_rate=0.003)


@pytest.mark.slow
def test_two_processes_train_the_same_model(shard: Path, settings: TrainSettings) -> None:
    expected, loss_of_one = train_model(StoredImages([shard]), TASK, 2, settings)
    team: Trainer = DataParallelTrainer(2, "cpu", settings.batch_size)
    steps: list[tuple[int, int]] = []
    trained = train_dstm(
        1,
        shard.parents[2],
        [shard],
        CLASSES,
        settings,
        team,
        callbacks=Callbacks(lambda *done: steps.append(done)),
    )
    assert steps == [(step, 30) for step in range(1, 31)]
    assert trained.n_steps == 30
    assert trained.final_loss == pytest.approx(loss_of_one, abs=1e-4)
    model, _ = load_model(shard.parents[2] / trained.model)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=2e-3)
    alone = train_dstm(1, shard.parents[2], [shard], CLASSES, settings)
    assert alone.job_id != trained.job_id


@pytest.mark.slow
def test_who_stops_the_training_ends_all_processes(shard: Path, settings: TrainSettings) -> None:
    def stop(done: int, total: int) -> None:
        raise Stopped("asked", "enough")

    many = settings.model_copy(update={"steps": 100_000})
    with pytest.raises(Stopped):
        DataParallelTrainer(2, "cpu", 16).train([shard], 2, many, Callbacks(stop))
    # Python's own tracker of shared resources ends with the session.
    children = psutil.Process().children(recursive=True)
    assert not [p for p in children if "resource_tracker" not in " ".join(p.cmdline())]


@pytest.mark.slow
def test_what_fails_in_a_process_is_said_here(shard: Path, settings: TrainSettings) -> None:
    wild = settings.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(ShapingError, match=r"the loss is (nan|inf) at step .*1e\+30"):
        DataParallelTrainer(2, "cpu", 16).train([shard], 2, wild)


def test_a_batch_is_shared_evenly() -> None:
    assert DataParallelTrainer(4, "cpu", 64).n_processes == 4
    with pytest.raises(SettingsError, match=r"train_processes is 3.* 64 images"):
        DataParallelTrainer(3, "cpu", 64)
    with pytest.raises(SettingsError, match="2 or more for each"):
        DataParallelTrainer(4, "cpu", 4)


def test_there_are_no_more_processes_than_gpus() -> None:
    n = torch.cuda.device_count() + 1
    with pytest.raises(SettingsError, match=f"{n}, but this machine has {n - 1} GPUs"):
        DataParallelTrainer(n, "cuda", 2 * n)
