"""Small sessions that are disturbed at seeded random moments, resumed, and compared.

    python -m tests.agent.crashes --kills 50 --terms 20 --oom 10 --full-disk 10 --chroma 5
    python -m tests.agent.crashes --llm 10 --two 10

Everything is imported once; every run is a fork of that. A moment is a share of the processor time
that an undisturbed run takes, so that all stages are hit however busy the machine is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import chromadb  # noqa: F401
from rich.console import Console
from safetensors import safe_open

from agent.autonomous import runner
from agent.cli.app import exit_code
from agent.config.settings import Settings
from agent.session.control import read_heartbeat
from agent.session.folder import folder_of, memory_of
from memory import minilm
from memory.errors import ShapingError
from memory.events import Event, FallbackEvent, FaultEvent, ModelCallEvent, RoundDoneEvent
from memory.items import items_from_events
from memory.journal import read_events
from tests.agent.brains.planning_server import MODEL, PlanningServer
from tests.agent.quick import toy_settings

NAME = "crash"
SMALL = (
    "dstm.train_on=real+synthetic",
    "dstm.steps=8",
    "audit.train.steps=4",
    "audit.train.batch_size=8",
    "feedback.n_min=5",
    "feedback.slices=[[brightness], [severity]]",
    "session.images_per_round=12",
    "session.images_per_prompt=4",
    "session.shard_size=4",
    "limits.disk_reserve_gb=0",
    f"session.name={NAME}",
)
# Of a run, not of what it came to; and what a brain was told, in which there are times.
UNTOLD_KINDS = ("stage", "resumed", "opening", "ended", "fault", "paused")
UNTOLD_FIELDS = ("time", "seconds", "messages", "result", "chain", "told", "settings")

# Three rounds with a model that is asked again at once when it comes back.
QUICK_TO_FORGIVE = (
    "session.rounds=3",
    "llm.mode=native",
    "llm.tries=2",
    "llm.pause_s=0.05",
    "llm.cool_down_s=0.2",
)
# What "same" means where no undisturbed session is compared with.
GOOD = {"language model killed": "taken over and given back", "two sessions": "without a loss"}

Prepare = Callable[[], object]


def small(home: Path, *overrides: str) -> Settings:
    """Settings of a session of a second or two."""
    return toy_settings(home, *SMALL, *overrides)


def outcome(settings: Settings) -> dict[str, Any]:
    """What a session came to: journal, files of the rounds, and what is remembered of it."""
    folder = folder_of(settings.home, NAME)
    return {
        "journal": [
            {k: v for k, v in event.to_json().items() if k not in UNTOLD_FIELDS}
            for event in read_events(folder / "journal.jsonl")
            if event.kind not in UNTOLD_KINDS
        ],
        "files": {
            str(path.relative_to(folder)): _content(path)
            for path in sorted(folder.glob("rounds/*/*"))
            if path.is_file()
        },
        "memory": memory_of(settings.home).stats(),
    }


def _content(path: Path) -> bytes:
    if path.name not in ("feedback.safetensors", "sealed.safetensors"):
        return path.read_bytes()
    # The order of the metadata in such a file is by chance.
    with safe_open(path, framework="np") as file:
        words = json.dumps(file.metadata(), sort_keys=True).encode()
        return words + bytes(file.get_tensor("predictions").tobytes())


def start(settings: Settings, prepare: Prepare = lambda: None) -> int:
    """Fork a process that runs a session; return its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        prepare()
        runner.run(settings, Console(quiet=True))
        code = 0
    except ShapingError as error:
        code = exit_code(error)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def finish(settings: Settings, prepare: Prepare = lambda: None) -> int:
    """Run a session in a fork; return its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(start(settings, prepare), 0)[1])


def spent_s(pid: int) -> float:
    """Return the processor time of a process so far."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(path.read_text("ascii").split()[0])
        except (OSError, IndexError):
            continue
    return total / 1e9


def disturb(settings: Settings, after_s: float, with_signal: signal.Signals) -> tuple[int, str]:
    """Run a session and send it a signal after some processor time.

    Returns its exit code and the stage that it was in.
    """
    pid = start(settings)
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended and spent_s(pid) >= after_s:
            os.kill(pid, with_signal)
            _, status = os.waitpid(pid, 0)
            ended = pid
        if ended:
            break
        time.sleep(0.001)
    beat = read_heartbeat(folder_of(settings.home, NAME))
    return os.waitstatus_to_exitcode(status), beat.stage or "between stages" if beat else "start"


def full(n_bytes: int) -> None:
    """As on a full disk, let no file grow beyond `n_bytes`."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def damage(memory: Path, rng: random.Random) -> str:
    """Damage a Chroma folder in one of the ways that happen; return which."""
    way = rng.choice(["garbage", "short", "empty", "removed", "index"])
    database = memory / "chroma.sqlite3"
    if not database.exists():
        return "nothing there yet"
    if way == "garbage":
        database.write_bytes(rng.randbytes(5000))
    elif way == "short":
        os.truncate(database, database.stat().st_size // 2)
    elif way == "empty":
        os.truncate(database, 0)
    elif way == "removed":
        shutil.rmtree(memory)
    else:
        for path in memory.glob("*/*.bin"):
            path.write_bytes(rng.randbytes(100))
    return way


class Trials:
    """Disturbed sessions, counted; `expected` is what an undisturbed one comes to."""

    def __init__(self, folder: Path, first_seed: int) -> None:
        self.folder, self.first_seed = folder, first_seed
        # In the parent, so that no fork loads it again; torch has run no training here.
        minilm.load().embed(["warm"])
        whole = small(folder / "undisturbed")
        started = time.monotonic()
        pid = start(whole)
        while not os.waitpid(pid, os.WNOHANG)[0]:
            self.run_s = spent_s(pid) or self.run_s
            time.sleep(0.005)
        self.elapsed_s = time.monotonic() - started
        self.expected = outcome_in_fork(whole)
        self.failed: list[str] = []

    run_s = 0.0

    def same(self, settings: Settings, what: str) -> bool:
        """Compare a resumed session with the undisturbed one."""
        found = outcome_in_fork(settings)
        wrong = [key for key in found if found[key] != self.expected[key]]
        say(f"  {what}: {'DIFFERENT' if wrong else 'the same'}")
        if wrong:
            self.failed.append(f"{what}: {', '.join(wrong)} differ in {settings.home}")
        else:
            shutil.rmtree(settings.home)
        return not wrong

    def signals(self, n: int, with_signal: signal.Signals) -> Counter[str]:
        """Disturb `n` sessions by a signal; return how many in which stage, and "same"."""
        counts: Counter[str] = Counter()
        for seed in range(self.first_seed, self.first_seed + n):
            rng = random.Random(f"{with_signal.name} {seed}")
            home = self.folder / f"{with_signal.name}-{seed}"
            code, stage = disturb(small(home), rng.uniform(0, self.run_s), with_signal)
            counts[f"in {stage}"] += 1
            counts[f"exit {code}"] += 1
            again = finish(small(home))
            counts["same"] += again == 0 and self.same(
                small(home), f"{with_signal.name} {seed} in {stage}"
            )
        return counts

    def out_of_memory(self, n: int) -> Counter[str]:
        """Draw on a machine that has memory for a few images alone."""
        counts: Counter[str] = Counter()
        for seed in range(self.first_seed, self.first_seed + n):
            home = self.folder / f"oom-{seed}"
            limit = random.Random(seed).randint(1, 3)
            options = f'generator.options={{"max_batch": {limit}}}'
            settings = small(home, "generator.name=tests.agent.loop.faulty:build", options)
            counts["exit 0"] += finish(settings) == 0
            events = read_events(folder_of(home, NAME) / "journal.jsonl")
            counts["in the journal"] += any(isinstance(e, FaultEvent) for e in events)
            counts["same"] += self.same(small(home), f"oom {seed}")
        return counts

    def full_disk(self, n: int) -> Counter[str]:
        """Let files grow to a random size alone, then go on with space."""
        counts: Counter[str] = Counter()
        for seed in range(self.first_seed, self.first_seed + n):
            home = self.folder / f"full-{seed}"
            n_bytes = int(10 ** random.Random(seed).uniform(2, 5.5))
            code = finish(small(home), lambda n_bytes=n_bytes: full(n_bytes))  # type: ignore[misc]
            counts[f"exit {code}"] += 1
            again = finish(small(home))
            counts["same"] += again == 0 and self.same(small(home), f"full disk {seed}, {n_bytes}")
        return counts

    def language_model(self, n: int) -> Counter[str]:
        """Kill the server of the language model that plans, and start it when the policy plans.

        "same": the session ends, the policy has taken over, and the model is back at the end.
        """
        counts: Counter[str] = Counter()
        server = PlanningServer(n_images=12)
        os.environ |= {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "none"}
        model = f"openai:{MODEL}"
        try:
            for seed in range(self.first_seed, self.first_seed + n):
                settings = small(self.folder / f"llm-{seed}", f"brain={model}", *QUICK_TO_FORGIVE)
                # Of the 6 calls of three rounds; after the last of these there are rounds left.
                n_calls = random.Random(f"llm {seed}").randint(1, 3)
                pid = start(settings)
                events = _wait_for(settings, pid, "model_call", n_calls)
                server.kill()
                known = len(events)
                _wait_for(settings, pid, "fallback", 1)
                server.start()
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                events = read_events(folder_of(settings.home, NAME) / "journal.jsonl")
                authors = [e.author for e in events if isinstance(e, ModelCallEvent)]
                n_by_policy = sum(author.startswith("policy:") for author in authors)
                n_told = sum(isinstance(e, FallbackEvent) for e in events)
                rounds_ = sum(isinstance(e, RoundDoneEvent) for e in events)
                counts[f"exit {code}"] += 1
                counts["calls that the policy took"] += n_by_policy
                good = code == 0 and rounds_ == 3 and 0 < n_by_policy == n_told
                good = good and authors[-1] == model and known < len(events)
                counts["same"] += good
                say(f"  llm {seed}, killed after {n_calls} calls: {_short(authors)}")
                if good:
                    shutil.rmtree(settings.home)
                else:
                    self.failed.append(f"llm {seed}: exit {code}, see {settings.home}")
        finally:
            server.kill()
        return counts

    def two_at_once(self, n: int) -> Counter[str]:
        """Run two sessions on one memory; "same": it holds all that both journals tell."""
        counts: Counter[str] = Counter()
        for seed in range(self.first_seed, self.first_seed + n):
            home = self.folder / f"two-{seed}"
            names = ("one", "two")
            own = [
                small(home, f"session.name={name}", f"session.seed={10 * seed + i}")
                for i, name in enumerate(names)
            ]
            pids = [start(settings) for settings in own]
            codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
            told = {
                item.id: name
                for name in names
                for item in items_from_events(read_events(folder_of(home, name) / "journal.jsonl"))
            }
            found = in_fork(lambda home=home: memory_of(home).stats())  # type: ignore[misc]
            good = codes == [0, 0] and found["sessions"] == dict(Counter(told.values()))
            counts["items"] += len(told)
            counts["same"] += good
            say(f"  two {seed}: {found['sessions']} of {dict(Counter(told.values()))}")
            if good:
                shutil.rmtree(home)
            else:
                self.failed.append(f"two {seed}: exit {codes}, see {home}")
        return counts

    def chroma(self, n: int) -> Counter[str]:
        """Kill a session, damage its memory, and go on."""
        counts: Counter[str] = Counter()
        for seed in range(self.first_seed, self.first_seed + n):
            rng = random.Random(f"chroma {seed}")
            home = self.folder / f"chroma-{seed}"
            after_s = rng.uniform(0.5, 1) * self.run_s
            disturb(small(home), after_s, signal.SIGKILL)
            counts[damage(home / "memory", rng)] += 1
            again = finish(small(home))
            counts["same"] += again == 0 and self.same(small(home), f"chroma {seed}")
        return counts


def _wait_for(settings: Settings, pid: int, kind: str, n: int) -> list[Event]:
    """Wait until a session has journaled `n` events of a kind, or has ended; return its events."""
    path = folder_of(settings.home, NAME) / "journal.jsonl"
    while True:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        events = read_events(path) if path.exists() else []
        if ended or sum(event.kind == kind for event in events) >= n:
            return events
        time.sleep(0.02)


def _short(authors: Sequence[str]) -> str:
    """Say who decided, one after the other, with how often."""
    runs = [(who, len(list(calls))) for who, calls in groupby(authors)]
    return ", ".join(f"{count} by {who}" for who, count in runs)


def outcome_in_fork(settings: Settings) -> dict[str, Any]:
    """Return the outcome of a session, files by their hashes."""

    def found() -> dict[str, Any]:
        whole = outcome(settings)
        hashes = {name: hash_of(data) for name, data in whole["files"].items()}
        return whole | {"files": hashes}

    return in_fork(found)


def in_fork(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what `work` returns in a fork: Chroma is opened there, and its threads stay there."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        with os.fdopen(writing, "w") as stream:
            json.dump(work(), stream)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    found_: dict[str, Any] = json.loads(text)
    return found_


def hash_of(data: bytes) -> str:
    """Return a name of a file's content."""
    return hashlib.sha256(data).hexdigest()[:16]


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("kills", "terms", "oom", "full-disk", "chroma", "llm", "two"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--first-seed", type=int, default=0)
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="crashes-"))
    trials = Trials(folder, chosen.first_seed)
    say(f"undisturbed: {trials.run_s:.1f} s of processor time, {trials.elapsed_s:.1f} s")
    for name, n, try_ in (
        ("SIGKILL", chosen.kills, lambda n: trials.signals(n, signal.SIGKILL)),
        ("SIGTERM", chosen.terms, lambda n: trials.signals(n, signal.SIGTERM)),
        ("out of memory", chosen.oom, trials.out_of_memory),
        ("full disk", chosen.full_disk, trials.full_disk),
        ("Chroma damaged", chosen.chroma, trials.chroma),
        ("language model killed", chosen.llm, trials.language_model),
        ("two sessions", chosen.two, trials.two_at_once),
    ):
        if n:
            counts = try_(n)
            same = counts.pop("same")
            rest = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
            say(f"{name}: {same} of {n} {GOOD.get(name, 'the same')} ({rest})")
    for line in trials.failed:
        say(line)
    if trials.failed:
        raise SystemExit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
