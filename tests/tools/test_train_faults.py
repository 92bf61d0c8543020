"""Trainings that go wrong and go on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memory.errors import ShapingError
from tools import tasks
from tools.settings import TrainSettings
from tools.tasks import Minibatch
from tools.train_dstm import train_model


class Flaky:
    """The task `classification` with a loss that goes wrong: at calls, or for many images."""

    def __init__(self, nan_at: tuple[int, ...] = (), max_batch: int = 10**9) -> None:
        self._inner = tasks.build("classification")
        self._nan_at, self._max_batch, self._n_calls = nan_at, max_batch, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def loss(
        self, outputs: torch.Tensor, batch: Minibatch, settings: TrainSettings
    ) -> torch.Tensor:
        if len(outputs) > self._max_batch:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self._n_calls += 1
        loss = self._inner.loss(outputs, batch, settings)
        return loss * float("nan") if self._n_calls in self._nan_at else loss


def train(task: Any, target: Any, quick: TrainSettings) -> tuple[list[tuple[str, str]], Any]:
    told: list[tuple[str, str]] = []
    settings = quick.model_copy(update={"steps": 12, "batch_size": 16})
    samples = target.split("generator")
    model, loss = train_model(samples, task, 2, settings, warn=lambda *said: told.append(said))
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    return told, (model, loss)


def test_a_loss_that_is_no_number_sends_back_to_good_weights(
    target: Any, quick: TrainSettings
) -> None:
    told, _ = train(Flaky(nan_at=(5, 9)), target, quick)
    assert [what for what, _ in told] == ["diverged", "diverged"]
    assert "the loss is nan at step 5 of 12" in told[0][1]


def test_the_third_time_is_an_error(target: Any, quick: TrainSettings) -> None:
    with pytest.raises(ShapingError, match="diverged: the loss is nan at step 7"):
        train(Flaky(nan_at=(5, 6, 7)), target, quick)


def test_a_batch_too_large_for_the_device_passes_in_parts(
    target: Any, quick: TrainSettings
) -> None:
    whole = train(Flaky(), target, quick)[1]
    told, parts = train(Flaky(max_batch=5), target, quick)
    assert [text for _, text in told] == [
        "Batches pass in 2 parts from now on.",
        "Batches pass in 4 parts from now on.",
    ]
    assert parts[1] == pytest.approx(whole[1], abs=0.25)


def test_no_memory_for_two_images_is_an_error(target: Any, quick: TrainSettings) -> None:
    with pytest.raises(ShapingError, match="no memory to train on 2 images"):
        train(Flaky(max_batch=0), target, quick)
