"""Shards and predictions from all devices of a Ray cluster: one worker, a Ray actor, on each.

Ray places and restarts workers and repeats the tasks of a dead node (`max_restarts`,
`max_task_retries`, `ray.util.ActorPool`). Files are written by the session alone, so nodes need no
shared disk, but the same program and the same weights of the generator. Workers live as long as one
batch, so that several sessions can share a cluster.
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

# A multiple of what tasks predict at once, so that the same arithmetic is done as in one piece.
_PREDICTED_AT_ONCE = 1024
# Interval of the checks whether the session has to end, and whether there are nodes left.
_POLL_S = 1.0

Kind = Literal["cpu", "cuda"]

Call = Callable[[Any], Any]
"""Takes an actor, calls it, and returns Ray's reference to the result."""


@dataclass
class RayExecutor:
    """Makes shards on a Ray cluster; a `tools.generate_batch.ShardExecutor`.

    Attributes:
        settings: Of the cluster.
        recipe: Of the generator.
        verifier: Weighs the images.
        identity: Of the session's generator.
        device: "auto": GPUs where the cluster has any.
        n_at_once: Images that a worker draws at once; None: a whole shard.
        on_halved: Gets the new number when a worker had no memory for so many.
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
        """Create those of `paths` that do not exist, each by a free worker.

        Args:
            paths: One per shard.
            spec: The shards.
            done: See `ShardExecutor`.

        Raises:
            SettingsError: Ray is not installed, or the cluster cannot be reached or has no device
                of the kind.
            ShapingError: Workers die repeatedly over the same shard, or no node is left for
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

        As few images as one worker predicts at once are predicted here. Raises as `write_missing`.
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
        """Give each result to `take` as it comes; call `wait` while none does."""
        from ray.exceptions import RayActorError, RayTaskError
        from ray.util import ActorPool

        kind = self._kind(ray)
        # Kept as long as the actors: one that is restarted needs it again.
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
                # A worker whose node died waits for room, which idle ones must not take.
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
        """Start workers, one on every device, no more than there are calls.

        verifier: Ray's reference to a packed one.
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
        # Ray resolves the reference to the verifier.
        others = (self.identity, kind, self.n_at_once, n_threads, Path.cwd())
        n_workers = min(n_slots, n_calls, settings.workers or n_calls)
        return [actor.remote(self.recipe, verifier, *others) for _ in range(n_workers)]

    def _kind(self, ray: Any) -> Kind:
        if self.device == "auto":
            return "cuda" if slots(ray.nodes(), "cuda", self.settings.cpus) else "cpu"
        return self.device


def slots(nodes: Sequence[Mapping[str, Any]], kind: Kind, cpus: float) -> int:
    """Return how many workers living nodes have room for; nodes: as from `ray.nodes()`."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    n_by_cpu = [int(node.get("CPU", 0) / cpus + 1e-9) for node in alive]
    if kind == "cpu":
        return sum(n_by_cpu)
    return sum(min(n, int(node.get("GPU", 0))) for n, node in zip(n_by_cpu, alive, strict=True))


def connect(address: str | None) -> Any:
    """Return the module ray, connected to a cluster.

    Args:
        address: HOST:PORT; None: that of RAY_ADDRESS, else the cluster on this machine, else a new
            one of this machine alone.

    Raises:
        SettingsError: Ray is not installed, or there is no such cluster.
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
    """Restore the handler of SIGTERM, which ends a session at a safe point; Ray sets its own."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
