from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from agent.cli.app import Explained, app
from agent.cli.doctor import checks
from memory.errors import (
    DataError,
    SessionError,
    SettingsError,
    ShapingError,
    StorageError,
    ToolError,
    WeightsError,
)

runner = CliRunner()


def failing(error: BaseException) -> typer.Typer:
    broken = typer.Typer(cls=Explained)

    @broken.callback()
    def group() -> None: ...

    @broken.command()
    def fail() -> None:
        raise error

    return broken


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError, 2),
        (DataError, 2),
        (WeightsError, 2),
        (StorageError, 3),
        (SessionError, 4),
        (ToolError, 1),
        (ShapingError, 1),
    ],
)
def test_errors_are_printed_and_have_exit_codes(error: type[ShapingError], code: int) -> None:
    result = runner.invoke(failing(error("the [cell] is gone")), ["fail"])
    assert result.exit_code == code
    assert result.stderr == "Error: the [cell] is gone\n"
    assert result.stdout == ""


def test_an_interrupt_says_how_to_go_on() -> None:
    result = runner.invoke(failing(KeyboardInterrupt()), ["fail"])
    assert result.exit_code == 130
    assert result.stderr == "Interrupted; run the same command again to continue.\n"


def test_other_exceptions_are_not_hidden() -> None:
    result = runner.invoke(failing(ZeroDivisionError("x")), ["fail"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_help_names_commands_and_exit_codes() -> None:
    text = runner.invoke(app, ["--help"]).stdout
    commands = ["run", "sessions", "report", "presets", "pretrain", "generate", "doctor", "memory"]
    assert [command for command in commands if f" {command} " not in text] == []
    assert "4 a session in use" in " ".join(text.split())


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["label-head", "fit", "--help"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import atexit, runpy, sys\n"
        "heavy = {'torch', 'numpy', 'diffusers', 'transformers', 'chromadb', 'langgraph', 'yaml'}\n"
        "atexit.register(lambda: print('HEAVY', sorted(heavy & set(sys.modules))))\n"
        f"sys.argv = {['shaping', *words]!r}\n"
        "runpy.run_module('agent.cli', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage:" in done.stdout
    assert done.stdout.endswith("HEAVY []\n")


def test_an_interrupt_while_modules_load_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    code = "import sys; from agent.cli.__main__ import main; sys.path.insert(0, '.'); main()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "")


def test_status_does_not_wait_for_torch_or_scipy_stats() -> None:
    code = (
        "import sys, agent.autonomous.status\n"
        "print(sorted({'torch', 'scipy.stats', 'transformers', 'langgraph'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "solr"], "Unknown preset 'solr'. Did you mean 'solar'?"),
        (["run", "missing.yaml"], "missing.yaml cannot be read"),
        (["run", "--rounds", "0"], "session.rounds cannot be 0"),
        (["run", "--rounds", "-1"], "session.rounds cannot be -1"),
        (["run", "--images-per-round", "0"], "session.images_per_round cannot be 0"),
        (["run", "--images-per-round", "-5"], "session.images_per_round cannot be -5"),
        (["run", "--seed", "-1"], "session.seed cannot be -1"),
        (["run", "--set", "audti.floor=0"], "Did you mean 'audit.floor'"),
        (["run", "--set", "nothing"], "expected KEY=VALUE"),
        (["pretrain", "--steps", "0"], "pretrain.steps cannot be 0"),
        (["pretrain", "--lora-only"], "add --from MODEL"),
        (["generate", "a cell", "--preset", "solr"], "Unknown preset 'solr'"),
        (["chat", "streetz"], "Unknown session or preset 'streetz'. Did you mean 'streets'"),
        (["run", "--target", "folder:Meine", "Fotos", "2024"], "needs quotes"),
        (["run", "--target", "folder:Meine", "Fotos"], "needs quotes: --target 'folder:PATH'"),
        (["report"], "There are no readable sessions under"),
        (["report", "solar-9"], "There is no session 'solar-9'"),
    ],
)
def test_bad_input_is_explained(tmp_path: Path, arguments: list[str], words: str) -> None:
    result = runner.invoke(app, arguments, env={"SHAPING_HOME": str(tmp_path)})
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_count_below_one_is_a_usage_error() -> None:
    assert runner.invoke(app, ["generate", "a cell", "-n", "0"]).exit_code == 2
    assert runner.invoke(app, ["memory", "search", "x", "-n", "0"]).exit_code == 2
    assert runner.invoke(app, ["run", "--rounds", "two"]).exit_code == 2


def test_presets() -> None:
    result = runner.invoke(app, ["presets"])
    assert result.exit_code == 0
    assert "solar" in result.stdout


def test_sessions_of_an_empty_home(tmp_path: Path) -> None:
    result = runner.invoke(app, ["sessions", "--home", str(tmp_path / "none")])
    assert result.exit_code == 0
    assert "Start one with: shaping run" in result.stdout
    assert not (tmp_path / "none").exists()


def test_memory_without_sessions(tmp_path: Path) -> None:
    home = ["--home", str(tmp_path)]
    assert runner.invoke(app, ["memory", "reindex", *home]).stdout == "0 items from 0 sessions.\n"
    stats = runner.invoke(app, ["memory", "stats", *home]).stdout
    assert "items" in stats and "{" not in stats
    search = runner.invoke(app, ["memory", "search", "dark poly cell", *home])
    assert search.stdout == "Nothing is remembered that fits.\n"
    assert search.stderr == "Opening the memory ...\n"


def test_doctor_fails_when_something_required_is_missing(tmp_path: Path) -> None:
    result = runner.invoke(app, ["doctor", "--home", str(tmp_path)])
    whole = all(check.ok for check in checks(tmp_path) if check.required)
    assert result.exit_code == (0 if whole else 1)
    assert ("MISSING" in result.stdout) != whole
