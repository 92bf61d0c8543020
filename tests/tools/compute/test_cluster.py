"""Batches made by a Ray cluster of two nodes on this machine, against the same made here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memory.errors import SettingsError, Stopped, WeightsError
from memory.records import Batch, Plan, PromptSpec
from tools import targets
from tools.compute.cluster import RayExecutor, connect, slots
from tools.compute.worker import Recipe
from tools.generate_batch import LabelVerifier, ShardExecutor, Workshop, generate_batch
from tools.generators import Generator
from tools.labelers.audit import AuditClassifier, train_audit
from tools.settings import AuditSettings, ComputeSettings, TrainSettings
from tools.targets import Target

PLAN = Plan(
    round=1,
    author="test",
    prompts=(
        PromptSpec(id="r001p00", text="a broken cell", class_name="defective", count=9),
        PromptSpec(id="r001p01", text="a dark intact cell", class_name="functional", count=7),
    ),
)
SHAPE = (1, 64, 64)
TOY = Recipe("toy", SHAPE, {})
MTDM = Recipe("mtdm", SHAPE, {"weights": "bundled:solar", "steps": 2, "guidance": 2.0})
# Ray starts within half a minute or not at all; on a busy machine it must have little to do.
QUICK_START = {
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_USAGE_STATS_ENABLED": "0",
}
Progress = Callable[[int, int], None]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> LabelVerifier:
    cache = tmp_path_factory.mktemp("cache")
    train = TrainSettings(steps=4, batch_size=8)
    target: Target = targets.build("toy", cache)
    return train_audit(target, AuditSettings(train=train), cache)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with one processor each."""
    ray = pytest.importorskip("ray", reason="needs the extra `ray`")
    from ray.cluster_utils import Cluster

    for name, value in QUICK_START.items():
        os.environ.setdefault(name, value)
    quiet = {"num_cpus": 1, "include_log_monitor": False}
    found = Cluster(
        initialize_head=True,
        head_node_args={**quiet, "include_dashboard": False, "no_monitor": True},
    )
    found.add_node(**quiet)
    found.wait_for_nodes()
    yield found
    ray.shutdown()
    found.shutdown()


def make(
    folder: Path,
    recipe: Recipe,
    judge: LabelVerifier,
    crew: ShardExecutor | None = None,
    progress: Progress = lambda done, total: None,
) -> Batch:
    generator: Generator = recipe.build("cpu")
    classes = ("functional", "defective")
    # The name of the folder is part of the manifest.
    return generate_batch(
        PLAN,
        folder / "session",
        0,
        Workshop(generator, judge, classes, executor=crew),
        2,
        progress,
    )


def crew_of(
    cluster: Any, recipe: Recipe, judge: LabelVerifier, identity: str, **settings: Any
) -> RayExecutor:
    place = ComputeSettings(place=f"ray:{cluster.address}", **settings)
    return RayExecutor(place, recipe, judge, identity, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [TOY, MTDM], ids=["toy", "mtdm"])
def test_a_cluster_makes_the_manifest_that_is_made_here(
    tmp_path: Path, cluster: Any, judge: LabelVerifier, recipe: Recipe
) -> None:
    here = make(tmp_path / "here", recipe, judge)
    crew = crew_of(cluster, recipe, judge, recipe.build("cpu").identity)
    seen: list[int] = []
    there = make(tmp_path / "there", recipe, judge, crew, lambda n, total: seen.append(n))
    assert there == here
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, 16)


@pytest.mark.slow
def test_a_stopped_batch_goes_on_at_the_missing_shards(
    tmp_path: Path, cluster: Any, judge: LabelVerifier
) -> None:
    def stop(done: int, total: int) -> None:
        if done >= 4:
            raise Stopped("asked", "Ended on request.")

    crew = crew_of(cluster, TOY, judge, "toy 1.0")
    with pytest.raises(Stopped):
        make(tmp_path, TOY, judge, crew, stop)
    assert len(list(tmp_path.glob("session/rounds/001/*.parquet"))) == 2
    seen: list[int] = []
    again = make(tmp_path, TOY, judge, crew, lambda n, total: seen.append(n))
    assert seen[0] == 4
    assert again == make(tmp_path / "here", TOY, judge)


@pytest.mark.slow
def test_other_weights_on_a_node_are_refused(
    tmp_path: Path, cluster: Any, judge: LabelVerifier
) -> None:
    crew = crew_of(cluster, TOY, judge, "toy 0.5")
    with pytest.raises(WeightsError, match=r"has the generator 'toy 1.0', the session 'toy 0.5'"):
        make(tmp_path, TOY, judge, crew)


@pytest.mark.slow
def test_without_room_for_a_worker_nothing_is_waited_for(
    tmp_path: Path, cluster: Any, judge: LabelVerifier
) -> None:
    crew = crew_of(cluster, TOY, judge, "toy 1.0", cpus=64)
    with pytest.raises(SettingsError, match="No node of the Ray cluster has 64 CPU"):
        make(tmp_path, TOY, judge, crew)


@pytest.mark.slow
def test_a_cluster_predicts_what_is_predicted_here(cluster: Any, judge: LabelVerifier) -> None:
    assert isinstance(judge, AuditClassifier)
    images = np.random.default_rng(0).integers(0, 256, (1100, *SHAPE), dtype=np.uint8)
    crew = crew_of(cluster, TOY, judge, "toy 1.0")
    there = crew.predict("classification", judge.models[0], images)
    np.testing.assert_array_equal(there, judge.task.predict(judge.models[0], images))


@pytest.mark.slow
def test_a_node_that_dies_in_mid_batch_loses_no_shard(
    tmp_path: Path, cluster: Any, judge: LabelVerifier
) -> None:
    """The last test of the module: the node that is killed is not there afterwards."""
    (doomed,) = cluster.worker_nodes
    (tmp_path / "node").write_text(doomed.node_id, encoding="ascii")
    recipe = Recipe("tests.tools.compute.stalling:build", SHAPE, {"folder": str(tmp_path)})
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        # Not before a shard is in its hands, and others are done.
        if not killed and done >= 6 and (tmp_path / "stalls").exists():
            killed.append(done)
            cluster.remove_node(doomed, allow_graceful=False)

    there = make(tmp_path, recipe, judge, crew_of(cluster, recipe, judge, "toy 1.0"), kill)
    assert killed
    assert there == make(tmp_path / "here", TOY, judge)


def test_slots_are_those_of_living_nodes() -> None:
    def node(alive: bool, **resources: float) -> dict[str, Any]:
        return {"Alive": alive, "Resources": resources}

    nodes = [node(True, CPU=4.0, GPU=2.0), node(True, CPU=3.0), node(False, CPU=8.0, GPU=8.0)]
    assert slots(nodes, "cpu", 1) == 7
    assert slots(nodes, "cpu", 2) == 3
    assert slots(nodes, "cpu", 0.5) == 14
    assert slots(nodes, "cuda", 1) == 2
    assert slots(nodes, "cuda", 4) == 1


@pytest.mark.parametrize("place", ["moon", "ray:", "local:here"])
def test_a_place_is_local_or_ray(place: str) -> None:
    with pytest.raises(ValueError, match="expected local, ray, or ray:HOST:PORT"):
        ComputeSettings(place=place)


def test_without_ray_the_error_says_what_adds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.compute.cluster.importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install '\.\[ray\]'"):
        connect(None)
