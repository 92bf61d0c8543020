"""Session folders of somebody else: what they name is shown, and run only once it is confirmed."""

from __future__ import annotations

import io
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.cli.app import app
from agent.cli.commands.common import confirm
from agent.config.settings import Settings, with_changes
from agent.experiments.rerun import rerun
from agent.session import trust
from agent.session.folder import folder_of, open_session, store_settings, stored_settings
from agent.session.fork import fork
from agent.web.registry import SessionRegistry
from memory.errors import SessionError, SettingsError, UntrustedSession, WeightsError
from memory.events import HeadEvent
from tests.agent.quick import toy_settings
from tools import plugins, targets
from tools.models.dstm_file import load_model

NAME = "theirs"


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a file when it is imported; returns that file."""
    proof = tmp_path / "executed"
    monkeypatch.syspath_prepend(tmp_path)
    code = f"from pathlib import Path\nPath({str(proof)!r}).touch()\n"
    (tmp_path / "evil_plugin.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(plugins, "_allowed", set())
    monkeypatch.setattr(plugins, "_refused", set())
    return proof


def stranger(home: Path, *changes: str) -> Settings:
    """Write a session folder as copied from another machine."""
    settings = toy_settings(home, f"session.name={NAME}", "session.rounds=1", *changes)
    store_settings(folder_of(home, NAME), settings)
    head = HeadEvent(
        key="session",
        session=NAME,
        target="toy",
        settings=settings.model_dump(mode="json", exclude={"home"}),
        palette={},
    )
    line = json.dumps({"schema": 1, "time": "2026-01-01T00:00:00+00:00", "kind": head.kind})
    line = json.dumps(json.loads(line) | {"key": "session"} | head.content())
    (folder_of(home, NAME) / "journal.jsonl").write_text(line + "\n", encoding="utf-8")
    return settings


CODE = "evil_plugin:build"
PLACES = [
    f"target.name={CODE}",
    f"generator.name={CODE}",
    f"labeler.name={CODE}",
    f"dstm.task=depth+{CODE}",
    f"audit.train.task={CODE}",
    f"brain=policy:{CODE}:floor=0.5",
    f"llm.fallback={CODE}",
    f"generator.options={{source: {{name: '{CODE}'}}}}",
    f"pretrain_target={{name: '{CODE}'}}",
]


@pytest.mark.parametrize("change", PLACES)
def test_code_of_a_foreign_folder_is_listed_and_not_run(
    tmp_path: Path, evil: Path, change: str
) -> None:
    settings = stranger(tmp_path, change)
    with pytest.raises(UntrustedSession, match=CODE) as caught, open_session(settings, NAME):
        pass
    assert "--trust" in str(caught.value)
    assert not evil.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["resume", NAME],
        ["run", "--session", NAME],
        ["run", "--session", NAME, "--dry-run"],
        ["run", "--session", NAME, "--detach"],
        ["chat", NAME],
        ["web", NAME, "--port", "0"],
        ["replay", NAME, "--verify", "--rerun", "train"],
        ["report", NAME],
        ["export", NAME, "--output", "out"],
        ["fork", NAME, "--at", "2"],
        ["sessions"],
        ["status", NAME],
        ["replay", NAME, "--print"],
    ],
)
def test_no_command_runs_what_a_foreign_folder_names(
    tmp_path: Path, evil: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = tmp_path / "command-ran"
    stranger(tmp_path, f"target.name={CODE}", f"session.on_finish=touch {command}")
    CliRunner().invoke(app, [*words, "--home", str(tmp_path)])
    assert not evil.exists()
    assert not command.exists()


@pytest.mark.parametrize("words", [["resume", NAME], ["run", "--session", NAME], ["chat", NAME]])
def test_a_refusal_shows_the_whole_command(tmp_path: Path, evil: Path, words: list[str]) -> None:
    stranger(tmp_path, "session.on_finish=true '\x1b[2K'")
    refused = CliRunner().invoke(app, [*words, "--home", str(tmp_path)])
    assert refused.exit_code == 4
    assert r"true '\x1b[2K'" in refused.output
    assert "session.on_finish" in refused.output


def test_trust_is_asked_for_once(tmp_path: Path, evil: Path) -> None:
    proof = tmp_path / "ran"
    stranger(tmp_path, f"session.on_finish=echo >> {proof}")
    (folder_of(tmp_path, NAME) / "journal.jsonl").unlink()
    for words in (["--trust"], []):
        done = CliRunner().invoke(app, ["resume", NAME, "--home", str(tmp_path), *words])
        assert done.exit_code == 0, done.output
    assert len(proof.read_text("utf-8").splitlines()) == 2


@pytest.mark.parametrize(("answer", "runs"), [("y", True), ("n", False), ("", False)])
def test_a_terminal_is_asked(
    tmp_path: Path, evil: Path, monkeypatch: pytest.MonkeyPatch, answer: str, runs: bool
) -> None:
    settings = stranger(tmp_path, "session.on_finish=true")
    stdin = io.StringIO(f"{answer}\n")
    monkeypatch.setattr(stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", stdin)
    with nullcontext() if runs else pytest.raises(UntrustedSession):
        confirm(settings, settings, NAME)
    assert bool(trust.untrusted(settings, settings)) is not runs


def test_trust_is_kept_for_later_openings(tmp_path: Path, evil: Path) -> None:
    settings = stranger(tmp_path, "session.on_finish=true", "compute.place=ray:far:10001")
    with pytest.raises(UntrustedSession, match="ray:far:10001"), open_session(settings, NAME):
        pass
    trust.trust(settings)
    with open_session(settings, NAME):
        pass
    # Whoever changes the folder afterwards is asked again.
    changed = with_changes(settings, ["session.on_finish=false"])
    store_settings(folder_of(tmp_path, NAME), changed)
    with pytest.raises(UntrustedSession, match="false"), open_session(changed, NAME):
        pass


def test_what_is_given_here_needs_no_word(tmp_path: Path, evil: Path) -> None:
    settings = toy_settings(tmp_path, f"session.name={NAME}", "session.on_finish=true")
    for change in ("session.on_finish=true", "session.on_finish=false", f"llm.fallback={CODE}"):
        with open_session(with_changes(settings, [change]), NAME):
            pass
        with open_session(stored_settings(tmp_path, NAME), NAME):
            pass


def test_a_folder_without_commands_and_code_needs_nothing(tmp_path: Path, evil: Path) -> None:
    settings = stranger(tmp_path, "brain=openai:gpt-4", "generator.weights=bundled:solar")
    with pytest.raises(SessionError) as caught, open_session(settings, NAME):
        raise SessionError("opened")
    assert str(caught.value) == "opened"
    assert not (tmp_path / "state").exists()


def test_a_copied_home_brings_no_trust(
    tmp_path: Path, evil: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = toy_settings(tmp_path, f"session.name={NAME}", "session.on_finish=true")
    with open_session(settings, NAME):
        pass
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another-machine"))
    with pytest.raises(UntrustedSession), open_session(settings, NAME):
        pass
    with pytest.raises(UntrustedSession):
        SessionRegistry(tmp_path, lambda preset: settings).open(NAME)


def test_forks_and_reruns_do_not_make_it_trusted(tmp_path: Path, evil: Path) -> None:
    stranger(tmp_path, f"generator.name={CODE}")
    with pytest.raises(UntrustedSession):
        fork(tmp_path, NAME, 2)
    with pytest.raises(UntrustedSession):
        rerun(folder_of(tmp_path, NAME), tmp_path, ["train"])
    assert not (tmp_path / "state").exists()


def test_reading_the_settings_of_others_loads_none_of_their_code(
    tmp_path: Path, evil: Path
) -> None:
    stranger(tmp_path, f"target.name={CODE}")
    settings = stored_settings(tmp_path, NAME)
    with pytest.raises(SettingsError, match="not given on this machine"):
        targets.build(settings.target.name, tmp_path)
    assert not evil.exists()


@pytest.mark.parametrize("task", [CODE, f"depth+{CODE}", "evil_plugin:a b"])
def test_a_model_of_others_loads_none_of_their_code(tmp_path: Path, evil: Path, task: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    meta = {"sha256": empty, "task": task, "architecture": {}}
    (tmp_path / "model.json").write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises((SettingsError, WeightsError)):
        load_model(tmp_path)
    assert not evil.exists()
