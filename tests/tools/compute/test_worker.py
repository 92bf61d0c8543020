"""What a worker makes is what is made without one; no cluster is needed to see that."""

from __future__ import annotations

import pytest

from memory.errors import SettingsError, WeightsError
from memory.records import PromptSpec
from tools import targets
from tools.compute.worker import Recipe, Worker, pack
from tools.generate_batch import ShardSpec, make_shard
from tools.labelers.audit import AuditClassifier, train_audit
from tools.settings import AuditSettings, TrainSettings

SHAPE = (1, 64, 64)
PROMPT = PromptSpec(id="r001p00", text="a broken cell", class_name="defective", count=4)
SPEC = ShardSpec([[(PROMPT, 0)], [(PROMPT, i) for i in (1, 2, 3)]], 7, ("functional", "defective"))
TOY = Recipe("toy", SHAPE, {})


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> AuditClassifier:
    cache = tmp_path_factory.mktemp("cache")
    settings = AuditSettings(train=TrainSettings(steps=2, batch_size=8))
    return train_audit(targets.build("toy", cache), settings, cache)


def test_a_worker_makes_the_same_shard(judge: AuditClassifier) -> None:
    made = Worker(TOY, pack(judge), "toy 1.0").make(pack(SPEC), 1)
    assert (made.number, made.halved) == (1, [])
    assert made.data == make_shard(SPEC, 1, TOY.build("cpu"), judge)


def test_a_worker_with_little_memory_tells_and_makes_the_same(judge: AuditClassifier) -> None:
    faulty = Recipe("tests.agent.loop.faulty:build", SHAPE, {"max_batch": 1})
    worker = Worker(faulty, pack(judge), "toy 1.0")
    made = worker.make(pack(SPEC), 1)
    assert made.halved == [1]
    assert made.data == make_shard(SPEC, 1, TOY.build("cpu"), judge)
    assert worker.make(pack(SPEC), 1).halved == []


def test_another_generator_is_refused(judge: AuditClassifier) -> None:
    worker = Worker(TOY, pack(judge), "toy 0.5")
    with pytest.raises(WeightsError, match=r"worker \d+ on .* 'toy 1.0', the session 'toy 0.5'"):
        worker.make(pack(SPEC), 0)


def test_a_generator_that_cannot_be_built_is_told_with_its_node(judge: AuditClassifier) -> None:
    worker = Worker(Recipe("toyy", SHAPE, {}), pack(judge), "toy 1.0")
    with pytest.raises(SettingsError, match=r"worker \d+ on .*Unknown generator 'toyy'"):
        worker.make(pack(SPEC), 0)
