"""Files of the user that lie where the program writes: no command removes or changes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from agent.autonomous.runner import run
from agent.cli.app import app
from agent.session.folder import folder_of, memory_of, open_session
from agent.session.undo import undo
from memory.errors import SettingsError
from memory.files import remove_temporaries
from memory.user_folders import RECORD, replacing, writing
from tests.agent.quick import TOY, toy_settings


class Strangers:
    """Files of a stranger, each with a content of its own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._contents: dict[Path, bytes] = {}

    def put(self, *names: str) -> None:
        for name in names:
            path = self._root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # a hard link would change a shard
            self._contents[path] = f"of a stranger: {name}\n".encode()
            path.write_bytes(self._contents[path])

    def missing(self) -> list[str]:
        """Those that are nowhere below the root with what they held, under whatever name."""
        there = {p.read_bytes() for p in self._root.rglob("*") if p.is_file()}
        return [str(path) for path, data in self._contents.items() if data not in there]


def invoke(words: Sequence[str], home: Path, *options: str) -> Result:
    sets = [part for option in (*TOY, *options) for part in ("--set", option)]
    return CliRunner().invoke(app, [*words, "--home", str(home), *sets])


def test_no_command_removes_what_a_stranger_put_where_it_writes(tmp_path: Path) -> None:
    home = tmp_path / "home"
    strangers = Strangers(tmp_path)
    strangers.put(
        "home/notes.txt",
        "home/sessions/notes.txt",
        "home/sessions/taken/journal.jsonl",
        "home/sessions/taken/lock",
        "home/compare/notes.txt",
        "home/compare/taken/compare.csv",
        "home/pretrain/notes.txt",
        "home/pretrain/taken/train-mine.safetensors",
        "home/pretrain/taken/pipeline/model_index.json",
        "home/cache/notes.npz",
        "out/0000.png",
        "out/rounds.csv",
        "out/trace.duckdb",
        "out/spans.jsonl",
        "out/prompts.json",
        "out/page.html",
        "out/a.zip",
        "out/head.json",
        "out/train.safetensors",
    )
    settings = toy_settings(home, "session.name=s", "session.rounds=1")
    run(settings, Console(quiet=True))
    assert not strangers.missing()

    # Beside what the program made, and in place of it.
    strangers.put(
        *(
            f"home/sessions/s/{name}"
            for name in (
                "notes.txt",
                ".notes.markdown",
                "rounds/notes.txt",
                "rounds/001/notes.txt",
                "rounds/001.undone-1/notes.txt",
                "rounds/002.undone-1/notes.txt",
                "best/notes.txt",
                "best/README.md",
                "best/model.json",
                "dataset/notes.txt",
                "dataset/README.md",
                "dataset/data/mine.parquet",
            )
        )
    )
    for rounds in (2, 3):
        run(toy_settings(home, "session.name=s", f"session.rounds={rounds}"), Console(quiet=True))
        assert not strangers.missing()
    folder = folder_of(home, "s")
    assert len(list((folder / "dataset" / "data").glob("*.kept-*"))) == 0
    assert (folder / "dataset" / "README.md.kept-1").exists()
    with open_session(toy_settings(home, "session.name=s", "session.rounds=3"), "s") as session:
        undo(session, memory_of(home))
        undo(session, memory_of(home))
    assert not strangers.missing()

    out = str(tmp_path / "out")
    for words in (
        ["run", "--session", "taken"],
        ["compare", "--name", "taken", "--planners", "uniform"],
        ["pretrain", "--output", str(home / "pretrain" / "taken")],
        ["pretrain", "--output", out],
        ["export", "s", "--output", out],
        ["generate", "a cell", "-n", "2", "--output", out],
        ["prompts", "a cell", "-n", "2", "--output", f"{out}/prompts.json"],
        ["trace", "s", "--to", "csv", "--output", out],
        ["trace", "s", "--to", "duckdb", "--output", out],
        ["trace", "s", "--to", "otlp", "--output", out],
        ["trace", "s", "--report", f"{out}/page.html"],
        ["bundle", "s", "--output", f"{out}/a.zip"],
        ["label-head", "fit", "--output", out],
    ):
        takes_settings = words[0] not in ("export", "trace", "bundle")
        result = (
            invoke(words, home)
            if takes_settings
            else CliRunner().invoke(app, [*words, "--home", str(home)])
        )
        assert result.exit_code != 0, (words, result.output)
        if "otlp" not in words:
            assert isinstance(result.exception, SystemExit | SettingsError), (words, result)
            assert "Move it elsewhere" in _flat(result) or "not empty" in _flat(result), (
                words,
                result.output,
                result.exception,
            )
        assert not strangers.missing(), words


def _flat(result: Result) -> str:
    return " ".join(f"{result.output} {result.exception}".split())


def test_files_of_an_earlier_call_go_and_those_of_others_stay(tmp_path: Path) -> None:
    mine = tmp_path / "0007.png"
    for names in (["0000.png", "0001.png", "table.csv"], ["0000.png"]):
        with writing(tmp_path, names, replaces=r"\d{4}\.png"):
            for name in names:
                (tmp_path / name).write_text(f"{names}", encoding="utf-8")
        mine.write_text("mine", encoding="utf-8")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"0000.png", "0007.png", "table.csv", RECORD}


def test_own_files_are_replaced_and_removed_and_others_kept(tmp_path: Path) -> None:
    place = tmp_path / "best"
    for names in (("a", "data/b"), ("a", "data/c")):
        with replacing(place) as new:
            (new / "data").mkdir()
            for name in names:
                (new / name).write_text(f"{names}", encoding="utf-8")
    assert _files(place) == ["a", "data/c"]
    # The user changes one file, and puts a folder and a file where the program writes.
    (place / "a").write_text("mine", encoding="utf-8")
    (place / "d").mkdir()
    (place / "d" / "x").write_text("mine", encoding="utf-8")
    with replacing(place) as new:
        for name in ("a", "d"):
            (new / name).write_text("new", encoding="utf-8")
    assert _files(place) == ["a", "a.kept-1", "d", "d.kept-1/x"]
    assert (place / "a.kept-1").read_text("utf-8") == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_an_end_that_failed_changes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "best"
    with replacing(place) as new:
        (new / "a").write_text("old", encoding="utf-8")
    with pytest.raises(OSError, match="full"), replacing(place) as new:
        (new / "a").write_text("new", encoding="utf-8")
        raise OSError("full")
    assert (place / "a").read_text("utf-8") == "old"


def test_what_was_written_before_is_written_again_but_not_what_was_changed(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with writing(tmp_path, ["a.csv"]):
            (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    (tmp_path / "a.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"a\.csv"), writing(tmp_path, ["a.csv"]):
        raise AssertionError("not reached")
    assert (tmp_path / "a.csv").read_text("utf-8") == "mine"


@pytest.mark.parametrize("text", ["[1", "[]", '{"../x": null}', "[" * 10_000])
def test_by_a_damaged_record_nothing_is_the_programs(tmp_path: Path, text: str) -> None:
    place = tmp_path / "best"
    (tmp_path / "x").write_text("mine", encoding="utf-8")
    place.mkdir()
    (place / RECORD).write_text(text, encoding="utf-8")
    with replacing(place) as new:
        (new / "a").write_text("new", encoding="utf-8")
    assert (tmp_path / "x").read_text("utf-8") == "mine"


def test_hidden_files_of_others_are_not_taken_for_temporary_ones(tmp_path: Path) -> None:
    (tmp_path / ".notes.markdown").write_text("mine", encoding="utf-8")
    (tmp_path / ".a.json.ab12cd_9.shaping-tmp").write_text("half", encoding="utf-8")
    remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".notes.markdown"]


def _files(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)
    return sorted(path.relative_to(folder).as_posix() for path in found)
