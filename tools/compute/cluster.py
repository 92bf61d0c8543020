"""Shards and predictions from all devices of a Ray cluster: one worker, a Ray actor, on each.

Placing workers, starting them again, and repeating what a dead node had in hand is Ray's work
(`max_restarts`, `max_task_retries`, `ray.util.ActorPool`). Files are written here alone, so nodes
need no common disk; what they need in common is this program and the generator's weights. Workers
live as long as one batch, so that several sessions can share a cluster.
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
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memory.errors import SettingsError, ShapingError
from memory.files import write_bytes
from tools import tasks
from tools.compute.recipe import Recipe
from tools.compute.worker import Made, Worker, pack, pack_order
from tools.data.samples import Images
from tools.generate_batch import Judge, Order
from tools.settings import ComputeSettings
from tools.tasks import Model

# A multiple of what tasks predict at once, so that the same arithmetic is done as in one piece.
_PREDICTED_AT_ONCE = 1024
# So often it is looked whether the session has to end, and whether there are nodes left.
_LOOK_EVERY_S = 1.0

Call = Callable[[Any], Any]
"""Takes an actor, calls it, and returns Ray's reference to what will come of it."""


class RayCrew:
    """Makes shards on a Ray cluster, see `tools.generate_batch.Crew`.

    identity: of the session's generator; device: "auto" for GPUs where the cluster has any;
    n_at_once: images that a worker draws at once, None for a whole shard; tell: gets their number
    when there was no memory for so many.
    """

    def __init__(
        self,
        settings: ComputeSettings,
        recipe: Recipe,
        judge: Judge,
        identity: str,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        n_at_once: int | None = None,
        tell: Callable[[int], None] = lambda n_at_once: None,
    ) -> None:
        self._settings, self._device = settings, device
        self._recipe, self._judge, self._identity = recipe, judge, identity
        self._n_at_once, self._tell = n_at_once, tell

    def write_missing(
        self, paths: Sequence[Path], order: Order, done: Callable[[int], None]
    ) -> None:
        """Create those of `paths` that do not exist, each by a worker that is free.

        Raises SettingsError where Ray is not installed, the cluster cannot be reached or has no
        device of the kind, ShapingError when workers die again and again over the same shard or
        no node is left for `patience_s`.
        """
        missing = [number for number, path in enumerate(paths) if not path.exists()]
        n_there = len(paths) - len(missing)
        done(n_there)
        if not missing:
            return
        ray = connect(self._settings.address)
        packed = ray.put(pack_order(order))

        def call(number: int) -> Call:
            return lambda actor: actor.make.remote(packed, number)

        def take(made: Made) -> None:
            nonlocal n_there
            write_bytes(paths[made.number], made.data)
            for n_at_once in made.told:
                self._halved(n_at_once)
            n_there += 1
            done(n_there)

        self._run(ray, [call(number) for number in missing], take, lambda: done(n_there))

    def predict(self, task: str, model: Model, images: Images) -> NDArray[Any]:
        """Return what a DSTM says of images, see `tools.evaluate_real.Predict`.

        No more images than one worker predicts at once are not worth sending anywhere. Raises as
        `write_missing` does.
        """
        starts = range(0, len(images), _PREDICTED_AT_ONCE)
        if len(starts) < 2:
            return tasks.build(task).predict(model, images)
        ray = connect(self._settings.address)
        packed = ray.put(pack(model))
        found: dict[int, NDArray[Any]] = {}

        def call(start: int) -> Call:
            piece = images[start : start + _PREDICTED_AT_ONCE]
            return lambda actor: actor.predict.remote(task, packed, piece, start)

        self._run(ray, [call(start) for start in starts], lambda made: found.update([made]))
        return np.concatenate([found[start] for start in starts])

    def _run(
        self,
        ray: Any,
        calls: Sequence[Call],
        take: Callable[[Any], None],
        wait: Callable[[], None] = lambda: None,
    ) -> None:
        """Give each result to `take` as it comes; `wait` is called while nothing comes."""
        from ray.exceptions import RayActorError, RayTaskError
        from ray.util import ActorPool

        # Kept as long as the actors: one that is started again needs it again.
        judge = ray.put(pack(self._judge))
        kind = self._kind(ray)
        actors = self._hire(ray, kind, judge, len(calls))
        pool = ActorPool(actors)
        seen_at = time.monotonic()
        try:
            for call in calls:
                pool.submit(lambda actor, value: value(actor), call)
            while pool.has_next():
                try:
                    result = pool.get_next_unordered(timeout=_LOOK_EVERY_S)
                except RayTaskError as error:
                    raise error.cause from error
                except TimeoutError:
                    wait()
                    if slots(ray.nodes(), kind, self._settings.cpus):
                        seen_at = time.monotonic()
                    self._give_up_after(time.monotonic() - seen_at)
                else:
                    seen_at = time.monotonic()
                    take(result)
                # A worker whose node died waits for room, which idle ones must not take.
                while idle := pool.pop_idle():
                    ray.kill(idle)
        except RayActorError as error:
            raise ShapingError(
                f"Workers of the Ray cluster died over the same work, however often it was begun "
                f"again (compute.retries={self._settings.retries}): {error} Is this program "
                "installed on every node, and the memory enough (session.shard_size)? Run the same "
                "command again; finished shards are kept."
            ) from error
        finally:
            for actor in actors:
                ray.kill(actor)

    def _hire(self, ray: Any, kind: Literal["cpu", "cuda"], judge: Any, n_calls: int) -> list[Any]:
        """Start workers, one on every device, no more than there are calls.

        judge: Ray's reference to a packed one.
        """
        settings = self._settings
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
        arguments = (self._recipe, judge, self._identity, kind, self._n_at_once, n_threads)
        return [
            actor.remote(*arguments, Path.cwd())
            for _ in range(min(n_slots, n_calls, settings.workers or n_calls))
        ]

    def _kind(self, ray: Any) -> Literal["cpu", "cuda"]:
        if self._device == "auto":
            return "cuda" if slots(ray.nodes(), "cuda", self._settings.cpus) else "cpu"
        return self._device

    def _give_up_after(self, seconds: float) -> None:
        if seconds > self._settings.patience_s:
            raise ShapingError(
                f"For {seconds:.0f} s no node of the Ray cluster has had a device for a worker. "
                "Start nodes, and run the same command again; finished shards are kept."
            )

    def _halved(self, n_at_once: int) -> None:
        if self._n_at_once is None or n_at_once < self._n_at_once:
            self._n_at_once = n_at_once
            self._tell(n_at_once)


def slots(nodes: Sequence[Mapping[str, Any]], kind: Literal["cpu", "cuda"], cpus: float) -> int:
    """Return how many workers living nodes have room for; nodes: as `ray.nodes()` says."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    n_by_cpu = [int(own.get("CPU", 0) / cpus + 1e-9) for own in alive]
    if kind == "cpu":
        return sum(n_by_cpu)
    return sum(min(n, int(own.get("GPU", 0))) for n, own in zip(n_by_cpu, alive, strict=True))


def connect(address: str | None) -> Any:
    """Return the module ray, connected to the cluster at HOST:PORT.

    address: None for that of RAY_ADDRESS, else the one that runs on this machine, else a new one
    of this machine alone. Raises SettingsError where there is no Ray or no such cluster.
    """
    if importlib.util.find_spec("ray") is None:
        raise SettingsError(
            "compute.place is ray, but Ray is not installed. Add it with: pip install '.[ray]'"
        )
    # What is done with this program is nobody else's business.
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
    """Keep the handler of SIGTERM, by which a session ends at a safe point; Ray sets its own."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
