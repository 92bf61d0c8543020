"""Whole sessions with the toy generator: the real graph, journal, memory, jobs and report."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from agent.autonomous import dry_run
from agent.autonomous.runner import run
from agent.cli.app import app
from agent.cli.commands.common import going_on
from agent.config.sections import SessionSettings
from agent.config.settings import Settings, load_settings, overrides
from agent.replay.verify import verify
from agent.session.folder import (
    folder_of,
    list_sessions,
    next_name,
    open_session,
    unfinished,
)
from memory.chroma import MemoryIndex
from memory.errors import SessionError, SettingsError
from memory.events import StageEvent
from memory.journal import read_events, rounds
from tests.agent.quick import QUICK, toy_settings

MakeSettings = Callable[..., Settings]


def quiet() -> Console:
    return Console(quiet=True)


def content(folder: Path) -> list[dict[str, Any]]:
    """What a session came to: every journalled event but resumptions.

    Less times, and less what the brain was told, in which there are times too.
    """
    untold = ("time", "seconds", "messages", "result", "chain")
    keep = []
    for event in read_events(folder / "journal.jsonl"):
        if event.kind not in ("stage", "resumed", "opening", "ended", "fault", "paused"):
            keep.append({k: v for k, v in event.to_json().items() if k not in untold})
    return keep


def test_session_from_plan_to_report(make_elpv_settings: MakeSettings) -> None:
    settings = make_elpv_settings("session.name=first")
    report = run(settings, quiet())
    folder = folder_of(settings.home, "first")
    assert report == folder / "report.html"
    assert "<html" in report.read_text("utf-8")

    one, two = rounds(read_events(folder / "journal.jsonl"))
    for current in (one, two):
        assert current.plan and current.batch and current.training and current.report
        assert current.plan.n_images == current.batch.n_made == 24
        assert current.report.split == "feedback"
        assert set(current.seconds) >= {"generate", "train", "evaluate", "inspect"}
    assert two.training is not None and two.training.n_images == 48
    assert two.plan is not None and two.plan.hypothesis is not None
    assert two.verdict is not None
    assert (folder / "rounds" / "001" / "sealed.json").exists()

    (info,) = list_sessions(settings.home)
    assert (info.name, info.rounds_done, info.state) == ("first", 2, "finished")
    memory = MemoryIndex(settings.home / "memory")
    before = memory.stats()
    assert before["kinds"]["prompt"] >= 2
    assert before["kinds"]["lesson"] == 1
    memory.reindex([folder / "journal.jsonl"])
    assert memory.stats() == before


def test_home_may_be_relative(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    absolute = make_settings("session.name=near", "session.rounds=1").home
    monkeypatch.chdir(absolute.parent)
    settings = make_settings("session.name=near", "session.rounds=1", f"home={absolute.name}")
    assert run(settings, quiet()) == Path(absolute.name) / "sessions" / "near" / "report.html"


def test_agent_never_reads_the_sealed_test(make_settings: MakeSettings) -> None:
    """What the journal, and so every message and tool result, holds is feedback alone."""
    settings = make_settings("session.name=blind", "session.rounds=1")
    run(settings, quiet())
    folder = folder_of(settings.home, "blind")
    sealed = json.loads((folder / "rounds/001/sealed.json").read_text("utf-8"))
    assert sealed["split"] == "test"
    text = (folder / "journal.jsonl").read_text("utf-8")
    assert '"split": "feedback"' in text
    assert '"split": "test"' not in text
    assert repr(sealed["metrics"]["auroc"]["value"]) not in text


def test_same_session_twice_is_the_same_to_the_last_bit(make_settings: MakeSettings) -> None:
    folders = []
    for home in ("one", "two"):
        settings = make_settings("session.name=same", home=home)
        run(settings, quiet())
        folders.append(folder_of(settings.home, "same"))
    assert content(folders[0]) == content(folders[1])


def test_finished_session_goes_on_with_more_rounds(make_settings: MakeSettings) -> None:
    run(make_settings("session.name=more", "session.rounds=1"), quiet())
    settings = make_settings("session.name=more", "session.rounds=2")
    run(settings, quiet())
    folder = folder_of(settings.home, "more")
    assert not verify(folder / "journal.jsonl").findings
    twice = content(folder)
    straight = make_settings("session.name=more", "session.rounds=2", home="straight")
    run(straight, quiet())
    once = content(folder_of(straight.home, "more"))
    # What a plan may say of later rounds depends on how many the session has.
    offered = ("session", "tools")
    assert [{**e, "offer": None} for e in twice if e["kind"] not in offered] == [
        {**e, "offer": None} for e in once if e["kind"] not in offered
    ]


def test_a_session_that_exists_goes_on_by_its_own_settings(make_settings: MakeSettings) -> None:
    settings = make_settings("session.name=own", "session.rounds=1")
    run(settings, quiet())
    # Neither the preset nor what was set for it is said again.
    words = ["run", "--session", "own", "--home", str(settings.home)]
    done = CliRunner().invoke(app, [*words, "--rounds", "2"])
    assert done.exit_code == 0, done.output
    assert len(rounds(read_events(folder_of(settings.home, "own") / "journal.jsonl"))) == 2
    refused = CliRunner().invoke(app, [*words, "--seed", "7"])
    assert refused.exit_code == 2
    assert "session.seed: 0 -> 7" in " ".join(refused.output.split())


def test_changed_meaning_is_refused_with_the_difference(make_settings: MakeSettings) -> None:
    with open_session(make_settings("session.name=kept"), "kept"):
        pass
    with (
        pytest.raises(SettingsError, match=r"other settings: session\.seed: 0 -> 7\. Continue"),
        open_session(make_settings("session.rounds=9", "session.seed=7"), "kept"),
    ):
        pass


def test_session_in_use_is_refused_with_its_holder(make_settings: MakeSettings) -> None:
    settings = make_settings("session.name=busy")
    with (
        open_session(settings, "busy"),
        pytest.raises(SessionError, match=f"in use by process {os.getpid()}"),
        open_session(settings, "busy"),
    ):
        pass
    with open_session(settings, "busy"):
        pass


@pytest.mark.parametrize("name", ["../up", "", "a/b", ".hidden", "x" * 65])
def test_session_name_that_is_a_path_is_refused(make_settings: MakeSettings, name: str) -> None:
    settings = make_settings()
    with pytest.raises(SettingsError, match="session name"), open_session(settings, name):
        pass


def test_next_name_is_free(tmp_path: Path) -> None:
    assert next_name(tmp_path, "solar") == "solar-1"
    (tmp_path / "sessions" / "solar-1").mkdir(parents=True)
    assert next_name(tmp_path, "solar") == "solar-2"
    assert next_name(tmp_path, "Meine Fotos (2024)") == "Meine-Fotos-2024-1"


def test_the_same_command_goes_on_with_an_unfinished_session(make_settings: MakeSettings) -> None:
    settings = make_settings("session.rounds=1")
    assert unfinished(settings) is None
    with open_session(settings, "solar-1"):
        assert unfinished(settings) is None
    assert unfinished(settings) == "solar-1"
    assert going_on(settings).session.name == "solar-1"
    named = settings.model_copy(update={"session": SessionSettings(name="mine")})
    assert going_on(named) == named
    assert unfinished(make_settings("session.rounds=1", "session.seed=9")) is None
    command = ["run", "solar", "--home", str(settings.home), "--max-rounds", "1"]
    command += [word for change in QUICK for word in ("--set", change)]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    assert [info.name for info in list_sessions(settings.home)] == ["solar-1"]
    assert unfinished(settings) is None


def test_own_data_are_told_apart_by_their_folders() -> None:
    plain = load_settings("solar")
    assert (plain.data, plain.stem) == ("solar", "solar")
    own = load_settings("own", ["target.options.path=/data/Meine Fotos"])
    assert (own.data, own.stem) == ("folder:Meine Fotos", "Meine Fotos")


KILLED = """
import sys
from rich.console import Console
from agent.autonomous.runner import run
from agent.config.settings import Settings, load_settings, overrides
run(Settings.model_validate_json(sys.argv[1]), Console())
"""


def start(settings: Settings) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", KILLED, settings.model_dump_json()]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def kill_at(settings: Settings, sign: Path) -> None:
    """Run a session apart and kill it when the file `sign` is there."""
    process = start(settings)
    deadline = time.monotonic() + 120
    while not sign.exists():
        assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_kill_9_then_the_same_command_goes_on(make_settings: MakeSettings) -> None:
    """Killed in a stage of the second round, a session ends as if nothing had happened."""
    overrides = ["session.name=crash", "dstm.steps=60"]
    undisturbed = make_settings(*overrides, home="undisturbed")
    run(undisturbed, quiet())
    expected = content(folder_of(undisturbed.home, "crash"))
    for shard, stage in (("data-00000", "generate"), ("data-00002", "train")):
        settings = make_settings(*overrides, home=f"killed in {stage}")
        folder = folder_of(settings.home, "crash")
        kill_at(settings, folder / f"rounds/002/{shard}.parquet")
        assert stage not in {
            e.stage
            for e in read_events(folder / "journal.jsonl")
            if isinstance(e, StageEvent) and e.round == 2
        }
        made = {p: p.stat().st_mtime_ns for p in folder.glob("rounds/*/data-*.parquet")}
        run(settings, quiet())
        assert all(p.stat().st_mtime_ns == mtime for p, mtime in made.items())
        assert content(folder) == expected


def limit_file_size() -> None:
    """As on a full disk, no file can grow beyond 300 kB: the model of a round cannot be saved."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))


def test_full_disk_is_explained_and_loses_nothing(make_settings: MakeSettings) -> None:
    settings = make_settings("session.name=full", home="full")
    words = ["run", "solar", "--home", str(settings.home)]
    words += [word for one in overrides(settings) for word in ("--set", one)]
    broken = subprocess.run(
        [sys.executable, "-m", "agent.cli.app", *words],
        preexec_fn=limit_file_size,
        capture_output=True,
        text=True,
        check=False,
    )
    assert broken.returncode == 3, broken.stderr
    assert "could not be written" in broken.stderr
    assert "same command again" in broken.stderr
    assert "Traceback" not in broken.stderr

    whole = CliRunner().invoke(app, words)
    assert whole.exit_code == 0, whole.output
    undisturbed = make_settings("session.name=full", home="undisturbed")
    run(undisturbed, quiet())
    ended = content(folder_of(settings.home, "full"))
    assert ended == content(folder_of(undisturbed.home, "full"))


def test_unreadable_settings_of_a_session_are_explained(make_settings: MakeSettings) -> None:
    settings = make_settings()
    with open_session(settings, "old"):
        pass
    path = folder_of(settings.home, "old") / "session.yaml"
    path.write_text(path.read_text("utf-8").replace("seed:", "sead:"), encoding="utf-8")
    with pytest.raises(SessionError, match="of this version"), open_session(settings, "old"):
        pass


def test_unknown_brain_and_planner_are_named(make_settings: MakeSettings) -> None:
    with pytest.raises(SettingsError, match="Did you mean policy:uniform"):
        run(make_settings("brain=polcy:uniform"), quiet())
    with pytest.raises(SettingsError, match="Did you mean 'thompson'"):
        run(make_settings("brain=policy:tompson"), quiet())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("dstm.task=depth", "have no depth. Set dstm.task=classification"),
        ("dstm.model=resnet", "Unknown model 'resnet'"),
        ("brain=polcy:uniform", "polcy"),
    ],
)
def test_what_no_training_could_use_is_found_before_an_image_is_drawn(
    tmp_path: Path, wrong: str, words: str
) -> None:
    settings = toy_settings(tmp_path, "session.name=wrong", "audit.method=none", wrong)
    with pytest.raises(SettingsError, match=words):
        run(settings, quiet())
    assert not [*tmp_path.rglob("*.tar"), *tmp_path.rglob("*.parquet")]
    with pytest.raises(SettingsError, match=words):
        dry_run.show(settings, quiet())
