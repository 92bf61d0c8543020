"""Recorded sessions: run again without the heavy packages, walked through, asked anew."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console
from typer.testing import CliRunner

from agent.cli.app import app
from agent.replay.counterfactual import counterfactual
from agent.replay.verify import verify
from agent.replay.viewer import open_recording, pictures, print_all, walk
from memory.chain import seal
from memory.errors import SessionError, SettingsError
from memory.events import PlanEvent, ToolCallEvent
from memory.journal import RECORD_VERSION, read_events
from tests.agent.invented import long_journal, record

ASK: dict[str, Any] = {"tool": "ask_user", "arguments": {"question": "Poly or mono?"}}
PLAN: dict[str, Any] = {
    "tool": "propose_plan",
    "arguments": {
        "prompts": [
            {"text": "a dark poly cell, with a clear defect", "count": 8},
            {"text": "an intact mono cell" + " and a cell" * 9, "count": 8},
            {"text": "an intact bright cell", "count": 8},
        ],
        "hypothesis": {"slice": "wafer=poly", "expected_change": 0.05},
        "why": "Both classes \u2028 [bold]and more",
    },
    "tokens": [100, 20],
}
LOOK = {"tool": "recall_memory", "arguments": {"query": "dark"}, "tokens": [50, 5]}
REST: list[dict[str, Any]] = [
    {"tool": "finish", "arguments": {"summary": "done"}},
]
WRONG: list[dict[str, Any]] = [
    {"tool": "finish", "arguments": {"summary": ""}},
    {"text": "I would like to think."},
    {"tool": "propose_plan", "arguments": {"prompts": "many"}},
    {"tool": "propose_plan", "arguments": {"prompts": [{"text": "a dog", "count": 2}]}},
]

# Runs in a process of its own, in which the heavy packages cannot be imported.
BLOCKED = """
import json, sys
from pathlib import Path

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "diffusers", "chromadb", "transformers"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
from agent.replay.verify import verify
for folder in sys.argv[1:]:
    found = verify(Path(folder) / "journal.jsonl")
    print(json.dumps({
        "name": found.session, "rounds": found.n_rounds, "events": found.n_events,
        "ended": found.ended,
        **{
            name: [[f.place, f.what, f.recorded, f.replayed] for f in getattr(found, name)]
            for name in ("findings", "reworded")
        },
    }))
"""


def verify_blocked(*folders: Path, path: Path | None = None) -> list[dict[str, Any]]:
    places = [str(path or ""), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *map(str, folders)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=path,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recorded")


@pytest.fixture(scope="module")
def policy(home: Path) -> Path:
    return record(home, "policy", "session.rounds=3")


@pytest.fixture(scope="module")
def folders(home: Path, policy: Path) -> list[Path]:
    """Twenty sessions of different kinds."""
    one = "session.rounds=1"
    made = [policy, record(home, "uniform", "brain=policy:uniform")]
    for seed in range(4):
        made.append(record(home, f"seed{seed}", f"session.seed={seed}", one))
    for number, stage in ((1, "generate"), (1, "evaluate"), (2, "train"), (2, "evaluate")):
        made.append(record(home, f"crash-{number}-{stage}", crash_in=(number, stage)))
    scripts: dict[str, list[dict[str, Any]]] = {
        "plain": [PLAN, *REST],
        "looks": [LOOK, LOOK, PLAN, *REST],
        "illegal": [WRONG[0], WRONG[1], PLAN, *REST],
        "fallback": [*WRONG[:3], *REST],
        "refused": [WRONG[3], WRONG[2], PLAN, *REST],
        "unreachable": [{"error": "cannot be reached"}],
        "endless": [LOOK] * 7 + [PLAN, *REST],
    }
    for name, script in scripts.items():
        made.append(record(home, name, one, script=script))
    made.append(record(home, "asked", one, script=[ASK, PLAN, *REST], answers=["Poly, please."]))
    tokens = ["llm.max_tokens=3000", "llm.answer_tokens=500"]
    made.append(record(home, "budget", one, *tokens, script=[PLAN, *REST]))
    short = ["llm.context_tokens=1000", "session.rounds=2"]
    made.append(record(home, "short", *short, script=[LOOK, PLAN, *REST, LOOK, PLAN, *REST]))
    return made


def test_sessions_of_all_kinds_run_again_identically(folders: list[Path]) -> None:
    assert len(folders) == 20
    for found, folder in zip(verify_blocked(*folders), folders, strict=True):
        assert found["findings"] == [], found
        assert found["ended"]
        assert found["events"] == len(read_events(folder / "journal.jsonl"))
    kinds = {e.kind for f in folders for e in read_events(f / "journal.jsonl")}
    assert {"illegal_call", "fallback", "answer", "resumed", "verdict"} <= kinds


def test_words_that_the_generator_cannot_draw_are_recorded(tmp_path: Path) -> None:
    folder = record(
        tmp_path,
        "classes",
        "session.rounds=1",
        script=[PLAN, *REST],
        undrawn={"dark", "poly"},
    )
    events = read_events(folder / "journal.jsonl")
    (plan,) = (e for e in events if isinstance(e, PlanEvent))
    said = 'prompt 1 has words that the generator cannot draw: "dark", "poly"'
    assert said in plan.plan.warnings
    assert plan.undrawn == {"a dark poly cell, with a clear defect": ("dark", "poly")}
    accepted = next(e for e in events if isinstance(e, ToolCallEvent) and e.tool == "propose_plan")
    assert f"Warning: {said}" in accepted.result
    found = verify(folder / "journal.jsonl")
    assert found.findings == ()
    assert found.ended


def copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to / folder.name)
    return to / folder.name


def change(folder: Path, kind: str, old: str, new: str, sealed: bool = False) -> int:
    """Change the last event of a kind that holds `old`; return the number of its line."""
    path = folder / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    n = max(
        i
        for i, line in enumerate(lines)
        if json.loads(line)["kind"] == kind and old.encode() in line
    )
    lines[n] = lines[n].replace(old.encode(), new.encode(), 1)
    path.write_bytes(b"".join(seal(lines) if sealed else lines))
    return n + 1


def test_a_changed_tool_result_is_located(policy: Path, tmp_path: Path) -> None:
    folder = copy(policy, tmp_path)
    line = change(folder, "tool_call", "Trained on", "Trainet on")
    first, second = verify(folder / "journal.jsonl").findings
    assert first.place == f"journal.jsonl, line {line}"
    assert "checksum" in first.what
    assert second.place == first.place
    assert second.what.endswith("result differs")
    assert second.recorded.replace("Trainet", "Trained") == second.replayed


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("report", '"n_correct": 3', '"n_correct": 2'),
        ("plan", "dark", "dare"),
        ("batch", '"job_id": "j"', '"job_id": "k"'),
        ("model_call", "You shape", "You shave"),
        ("credits", '"n_images": ', '"n_images": 1'),
        ("stage", '"seconds": 0', '"seconds": 1'),
    ],
)
def test_a_changed_record_is_located(
    policy: Path, tmp_path: Path, kind: str, old: str, new: str
) -> None:
    folder = copy(policy, tmp_path)
    line = change(folder, kind, old, new)
    findings = verify(folder / "journal.jsonl").findings
    assert findings[0].place == f"journal.jsonl, line {line}"
    assert kind in findings[0].what


def test_a_change_with_forged_checksums_is_found_by_running_again(
    policy: Path, tmp_path: Path
) -> None:
    folder = copy(policy, tmp_path)
    line = change(folder, "verdict", '"held": ', '"held": false, "x": ', sealed=True)
    (finding,) = verify(folder / "journal.jsonl").findings
    assert finding.place == f"journal.jsonl, line {line}"
    assert "verdict.held differs" in finding.what


def test_a_removed_line_is_found(policy: Path, tmp_path: Path) -> None:
    path = copy(policy, tmp_path) / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:10] + lines[11:]))
    assert verify(path).findings[0].place == "journal.jsonl, line 11"


def reword(package: str, file: str, old: str, new: str, to: Path) -> str:
    """Copy a package, a text of it changed, to where it is imported from; return the old text."""
    shutil.copytree(Path(package), to / package, ignore=shutil.ignore_patterns("__pycache__"))
    path = to / package / file
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    return text


def test_a_changed_template_is_named_and_nothing_else(policy: Path, tmp_path: Path) -> None:
    """A prompt file differs in one character; the session is run again with the one it had."""
    text = reword("prompts", "observation.md", "Next: prop", "Next; prop", tmp_path)
    (found,) = verify_blocked(policy, path=tmp_path)
    assert found["findings"] == []
    ((place, change, recorded, now),) = found["reworded"]
    line = text[: text.index("Next: prop")].count("\n") + 1
    assert place == "prompts/observation.md"
    assert f"line {line}, column 5" in change
    assert "Next: prop" in recorded and "Next; prop" in now


def test_what_was_forged_is_found_though_templates_changed(policy: Path, tmp_path: Path) -> None:
    folder = copy(policy, tmp_path)
    line = change(folder, "model_call", "You may make", "You may take", sealed=True)
    reword("prompts", "observation.md", "Next: prop", "Next; prop", tmp_path)
    (found,) = verify_blocked(folder, path=tmp_path)
    ((place, what, *_),) = found["findings"]
    assert place == f"journal.jsonl, line {line}"
    assert "messages[1].content differs" in what


def test_a_reworded_tool_is_named_and_nothing_else(folders: list[Path], tmp_path: Path) -> None:
    """The docstring of a tool has changed: texts of the journal, checks of the program."""
    looks = next(folder for folder in folders if folder.name == "looks")
    old, new = "What to look for, in plain words.", "The words to look for."
    reword("agent", "loop/toolbox.py", old, new, tmp_path)
    (found,) = verify_blocked(looks, path=tmp_path)
    assert found["findings"] == []
    ((place, _, recorded, now),) = found["reworded"]
    assert place == "tools/recall_memory"
    assert old in recorded and new in now


def test_tools_that_take_something_else_diverge(folders: list[Path], tmp_path: Path) -> None:
    looks = next(folder for folder in folders if folder.name == "looks")
    reword("agent", "loop/toolbox.py", "Field(ge=1, le=20)", "Field(ge=1, le=21)", tmp_path)
    (found,) = verify_blocked(looks, path=tmp_path)
    assert found["reworded"] == []
    ((_, what, *_),) = found["findings"]
    assert "tools" in what


def test_a_record_that_ends_within_a_round_is_verified_up_to_there(
    policy: Path, tmp_path: Path
) -> None:
    path = copy(policy, tmp_path) / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for n in range(5, len(lines), 23):
        path.write_bytes(b"".join(lines[:n]))
        found = verify(path)
        assert found.findings == (), n
        assert found.n_events in (n, n - 1)


def test_journals_of_other_versions_are_refused_or_read(policy: Path, tmp_path: Path) -> None:
    path = copy(policy, tmp_path) / "journal.jsonl"
    text = path.read_text("utf-8")
    path.write_text(text.replace(f'"record": {RECORD_VERSION}, ', "", 1), encoding="utf-8")
    with pytest.raises(SessionError, match="stepped through"):
        verify(path)
    assert len(open_recording(path.parent).steps) > 3
    path.write_text(
        text.replace(f'"record": {RECORD_VERSION}, ', '"record": 9, ', 1), encoding="utf-8"
    )
    with pytest.raises(SessionError, match="version 9"):
        verify(path)
    path.write_text(text.replace('"schema": 1', '"schema": 2', 1), encoding="utf-8")
    with pytest.raises(SessionError, match=r"line 1 .*schema"):
        open_recording(path.parent)


def test_commands_print_and_verify(home: Path, policy: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    printed = run(app, ["replay", "policy", "--print", "--home", str(home)])
    assert printed.exit_code == 0
    assert "propose_plan" in printed.output and "report on feedback" in printed.output
    good = run(app, ["replay", "policy", "--verify", "--home", str(home)])
    assert good.exit_code == 0, good.output
    assert "Identical" in good.output and "no tool executed" in good.output
    assert "unfinished" not in good.output
    torn = copy(policy, tmp_path) / "journal.jsonl"
    torn.write_bytes(torn.read_bytes()[:-60])
    moved = run(app, ["replay", str(torn.parent), "--verify", "--home", str(tmp_path)])
    assert moved.exit_code == 0, moved.output
    assert "Identical" in moved.output and "unfinished" in moved.output
    nowhere = run(app, ["replay", str(tmp_path), "--home", str(tmp_path)])
    assert nowhere.exit_code != 0
    bad_home = tmp_path / "bad"
    bad = copy(policy, bad_home / "sessions")
    change(bad, "tool_call", "Trained on", "Trainet on")
    broken = run(app, ["replay", "policy", "--verify", "--home", str(bad_home)])
    assert broken.exit_code == 1
    assert "-Trainet on" in broken.output and "+Trained on" in broken.output


def test_walk_goes_where_it_is_told(policy: Path) -> None:
    recording = open_recording(policy)
    console = Console(record=True, width=100, file=io.StringIO())
    commands = iter(["n", "p", "p", "j 3", "/Round 2 by", "/nowhere to be found", "j 99", "x", "q"])
    walk(recording, console, lambda: next(commands))
    text = console.export_text()
    assert "This is the first step." in text
    assert "There is no round '99'." in text
    assert "'nowhere to be found' was not found." in text
    assert "j ROUND" in text
    titles = [line for line in text.splitlines() if line.startswith("step ")]
    assert [t.split("|")[1].split()[1] for t in titles if "|" in t][-2:] == ["3", "2"]


def test_texts_of_models_cannot_reach_the_terminal(folders: list[Path]) -> None:
    plain = next(folder for folder in folders if folder.name == "plain")
    console = Console(record=True, width=100, file=io.StringIO())
    print_all(open_recording(plain), console)
    text = console.export_text()
    assert "[bold]and more" in text
    assert "\u2028" not in text
    assert list(pictures(open_recording(plain), 1)) == []


def test_a_thousand_rounds_open_at_once(policy: Path, tmp_path: Path) -> None:
    path = tmp_path / "long" / "journal.jsonl"
    long_journal(policy / "journal.jsonl", path, 1000)
    before = psutil.Process().memory_info().rss
    started = time.process_time()
    recording = open_recording(path.parent)
    assert time.process_time() - started < 2
    assert recording.steps[-1].round >= 1000
    place = recording.at_round(700)
    assert place is not None
    console = Console(width=100, file=io.StringIO())
    commands = iter([*["n"] * 20, "q"])
    started = time.process_time()
    walk(recording, console, lambda: next(commands))
    assert (time.process_time() - started) / 21 < 0.05
    assert psutil.Process().memory_info().rss - before < 300e6


def test_another_brain_is_asked_with_what_was_known(policy: Path) -> None:
    events = read_events(policy / "journal.jsonl")
    same = list(counterfactual(events, "policy:audited_failure"))
    assert [d.round for d in same] == [1, 2, 3]
    for decision in same:
        assert decision.agreement is not None
        assert decision.agreement.overlap == 1
        assert decision.plan is not None and decision.plan.prompts == decision.recorded.prompts
    other = list(counterfactual(events, "policy:uniform", start=2))
    assert [d.round for d in other] == [2, 3]
    assert all(d.agreement and 0 < d.agreement.images <= 1 for d in other)
    with pytest.raises(SettingsError, match="Did you mean"):
        list(counterfactual(events, "policy:thomson"))
    with pytest.raises(SettingsError, match="no plan from round 9"):
        list(counterfactual(events, "policy:uniform", start=9))
