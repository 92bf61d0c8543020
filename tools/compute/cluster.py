"""Generation of shards and prediction on a Ray cluster, with one actor per device.

Ray places and restarts the workers and repeats the tasks of a dead node (`max_restarts`,
`max_task_retries`, `ray.util.ActorPool`). Only the session writes files, so nodes need no shared
disk, but the same program and the same generator weights. Workers live for one batch, so that
several sessions can share a cluster.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memory.errors import SettingsError, ShapingError
from memory.files import write_bytes
from tools import tasks
from tools.compute.worker import Recipe, ShardResult, Worker, pack
from tools.data.samples import Images
from tools.generate_batch import LabelVerifier, ShardSpec
from tools.settings import ComputeSettings
from tools.tasks import Model

# A multiple of the tasks' batch sizes, so that the arithmetic is the same as in one piece.
_PREDICTED_AT_ONCE = 1024
# Interval of the checks for the end of the session and for remaining nodes.
_POLL_S = 1.0

Kind = Literal["cpu", "cuda"]

Call = Callable[[Any], Any]
"""Calls a method of an actor; returns Ray's reference to the result."""


@dataclass
class RayExecutor:
    """Creates shards on a Ray cluster; a `tools.generate_batch.ShardExecutor`.

    Attributes:
        settings: Settings of the cluster.
        recipe: Recipe of the generator.
        verifier: Weights the images.
        identity: Identity of the session's generator.
        device: "auto": GPUs if the cluster has any, otherwise CPUs.
        n_at_once: Images that a worker draws at once; None: a whole shard.
        on_halved: Called with the reduced number after a worker ran out of memory.
    """

    settings: ComputeSettings
    recipe: Recipe
    verifier: LabelVerifier
    identity: str
    device: Literal["auto", "cpu", "cuda"] = "auto"
    n_at_once: int | None = None
    on_halved: Callable[[int], None] = lambda n_at_once: None

    def write_missing(
        self, paths: Sequence[Path], spec: ShardSpec, done: Callable[[int], None]
    ) -> None:
        """Create the missing shards of `paths`, each on a free worker.

        Args:
            paths: One path per shard.
            spec: Specification of the shards.
            done: See `ShardExecutor`.

        Raises:
            SettingsError: Ray is not installed, or the cluster cannot be reached or has no device
                of the requested kind.
            ShapingError: Workers die repeatedly over the same shard, or the cluster has no node for
                `patience_s`.
        """
        missing = [number for number, path in enumerate(paths) if not path.exists()]
        n_done = len(paths) - len(missing)
        done(n_done)
        if not missing:
            return
        ray = connect(self.settings.address)
        packed = ray.put(pack(spec))

        def call(number: int) -> Call:
            return lambda actor: actor.make.remote(packed, number)

        def take(result: ShardResult) -> None:
            nonlocal n_done
            write_bytes(paths[result.number], result.data)
            for n_at_once in result.halved:
                if self.n_at_once is None or n_at_once < self.n_at_once:
                    self.n_at_once = n_at_once
                    self.on_halved(n_at_once)
            n_done += 1
            done(n_done)

        self._run(ray, [call(number) for number in missing], take, lambda: done(n_done))

    def predict(self, task: str, model: Model, images: Images) -> NDArray[Any]:
        """Return a DSTM's predictions for images, see `tools.evaluate_real.Predict`.

        Sets that fit into one call of a worker are predicted locally. Raises as `write_missing`.
        """
        starts = range(0, len(images), _PREDICTED_AT_ONCE)
        if len(starts) < 2:
            return tasks.build(task).predict(model, images)
        ray = connect(self.settings.address)
        packed = ray.put(pack(model))
        parts: dict[int, NDArray[Any]] = {}

        def call(start: int) -> Call:
            piece = images[start : start + _PREDICTED_AT_ONCE]
            return lambda actor: actor.predict.remote(task, packed, piece, start)

        self._run(ray, [call(start) for start in starts], lambda part: parts.update([part]))
        return np.concatenate([parts[start] for start in starts])

    def _run(
        self,
        ray: Any,
        calls: Sequence[Call],
        take: Callable[[Any], None],
        wait: Callable[[], None] = lambda: None,
    ) -> None:
        """Pass each result to `take` as it arrives; call `wait` while none arrives."""
        from ray.exceptions import RayActorError, RayTaskError
        from ray.util import ActorPool

        kind = self._kind(ray)
        # The reference must outlive the actors: a restarted actor resolves it again.
        verifier = ray.put(pack(self.verifier))
        actors = self._start_workers(ray, kind, verifier, len(calls))
        pool = ActorPool(actors)
        seen_at = time.monotonic()
        try:
            for call in calls:
                pool.submit(lambda actor, value: value(actor), call)
            while pool.has_next():
                try:
                    result = pool.get_next_unordered(timeout=_POLL_S)
                except RayTaskError as error:
                    raise error.cause from error
                except TimeoutError:
                    wait()
                    if slots(ray.nodes(), kind, self.settings.cpus):
                        seen_at = time.monotonic()
                    idle_s = time.monotonic() - seen_at
                    if idle_s > self.settings.patience_s:
                        raise ShapingError(
                            f"For {idle_s:.0f} s no node of the Ray cluster has had a device for a "
                            "worker. Start nodes, and run the same command again; finished shards "
                            "are kept."
                        ) from None
                else:
                    seen_at = time.monotonic()
                    take(result)
                # A worker whose node died waits for a free slot; idle workers must release theirs.
                while idle := pool.pop_idle():
                    ray.kill(idle)
        except RayActorError as error:
            raise ShapingError(
                f"Workers of the Ray cluster died over the same work after "
                f"{self.settings.retries} retries (compute.retries): {error} Is this program "
                "installed on every node, and the memory enough (session.shard_size)? Run the same "
                "command again; finished shards are kept."
            ) from error
        finally:
            for actor in actors:
                ray.kill(actor)

    def _start_workers(self, ray: Any, kind: Kind, verifier: Any, n_calls: int) -> list[Any]:
        """Start workers, one per device, at most one per call.

        Args:
            ray: The module.
            kind: Kind of device.
            verifier: Ray's reference to a packed `LabelVerifier`.
            n_calls: Number of calls.
        """
        settings = self.settings
        n_slots = slots(ray.nodes(), kind, settings.cpus)
        if not n_slots:
            wanted = "a GPU" if kind == "cuda" else f"{settings.cpus:g} CPU"
            raise SettingsError(
                f"No node of the Ray cluster has {wanted} for a worker. Set device and compute.cpus"
                " to what `ray status` shows, or add nodes."
            )
        actor = ray.remote(Worker).options(
            num_cpus=settings.cpus,
            num_gpus=int(kind == "cuda"),
            max_restarts=-1,
            max_task_retries=settings.retries,
            scheduling_strategy="SPREAD",
        )
        n_threads = max(1, int(settings.cpus)) if kind == "cpu" else None
        # Ray replaces the reference by the verifier.
        others = (self.identity, kind, self.n_at_once, n_threads, Path.cwd())
        n_workers = min(n_slots, n_calls, settings.workers or n_calls)
        return [actor.remote(self.recipe, verifier, *others) for _ in range(n_workers)]

    def _kind(self, ray: Any) -> Kind:
        if self.device == "auto":
            return "cuda" if slots(ray.nodes(), "cuda", self.settings.cpus) else "cpu"
        return self.device


def slots(nodes: Sequence[Mapping[str, Any]], kind: Kind, cpus: float) -> int:
    """Return the number of workers that the alive nodes have room for.

    Args:
        nodes: Nodes as returned by `ray.nodes()`.
        kind: Kind of device.
        cpus: CPUs per worker.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    n_by_cpu = [int(node.get("CPU", 0) / cpus + 1e-9) for node in alive]
    if kind == "cpu":
        return sum(n_by_cpu)
    return sum(min(n, int(node.get("GPU", 0))) for n, node in zip(n_by_cpu, alive, strict=True))


def connect(address: str | None) -> Any:
    """Connect to a Ray cluster; return the module ray.

    Args:
        address: HOST:PORT; None: the address in RAY_ADDRESS, else the cluster of this machine, else
            a new one on this machine alone.

    Raises:
        SettingsError: Ray is not installed, or the cluster cannot be reached.
    """
    if importlib.util.find_spec("ray") is None:
        raise SettingsError(
            "compute.place is ray, but Ray is not installed. Add it with: pip install '.[ray]'"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with _sigterm_kept():
        import ray

        if not ray.is_initialized():
            try:
                ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise SettingsError(
                    f"The Ray cluster {address or 'of this machine'} cannot be reached: {error}. "
                    "Start it with `ray start --head`, and give the address that this prints: "
                    "--compute ray:HOST:PORT"
                ) from error
    return ray


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Restore the session's SIGTERM handler, which Ray replaces."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
