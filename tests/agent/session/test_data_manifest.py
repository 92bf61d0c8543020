"""A session over a user's own photographs notices when they have changed since it began."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageOps
from rich.console import Console

from agent.autonomous.runner import run
from agent.config.settings import Settings
from agent.loop.user_dataset import user_settings
from agent.session.data_manifest import check_folder
from agent.session.fork import fork
from memory.errors import DataError, SessionError
from memory.events import FaultEvent
from memory.journal import read_events
from tests.tools.targets.own_data import class_folders
from tools import targets
from tools.targets.manifest import FILE, SPLITS_FILE, ManifestEntry, changes_between


def session(root: Path, rounds: int = 1) -> Settings:
    overrides = [
        f"home={root.parent / 'home'}",
        "generator.name=toy",
        "session.name=s",
        f"session.rounds={rounds}",
        "session.images_per_round=8",
        "dstm.steps=2",
        "dstm.batch_size=8",
        "audit.method=none",
        "device=cpu",
    ]
    return user_settings(f"folder:{root}", overrides, {}, needs_weights=True)


def faults(page: Path) -> list[str]:
    events = read_events(page.parent / "journal.jsonl")
    return [e.message for e in events if isinstance(e, FaultEvent)]


def test_photographs_that_came_and_went_stop_a_session_until_their_splits_are_kept(
    tmp_path: Path,
) -> None:
    root = class_folders(tmp_path / "birds", n=24)
    page = run(session(root), Console(quiet=True))
    (root / "Red Kite" / "img 0-03.png").unlink()
    shutil.copyfile(root / "Red Kite" / "img 0-05.png", root / "Red Kite" / "new.png")
    ImageOps.invert(Image.open(root / "Red Kite" / "new.png")).save(root / "Red Kite" / "new.png")
    with pytest.raises(DataError) as stopped:
        run(session(root, rounds=2), Console(quiet=True))
    said = str(stopped.value)
    assert '1 added: "Red Kite/new.png"; 1 removed: "Red Kite/img 0-03.png"' in said
    assert "photographs lie in another one (" in said and " to " in said
    table = page.parent / SPLITS_FILE
    assert str(table) in said and str(root / "attributes.csv") in said
    assert "Red Kite/new.png,generator" in table.read_text("utf-8")
    shutil.copyfile(table, root / "attributes.csv")
    run(session(root, rounds=2), Console(quiet=True))
    assert "1 added" in faults(page)[0]
    run(session(root, rounds=3), Console(quiet=True))
    assert len(faults(page)) == 1, "what was said once is known"


def test_other_words_of_the_same_photographs_are_said(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds", n=24)
    files = sorted(str(file.relative_to(root)) for file in root.rglob("*.png"))
    rows = [f"{file},{'dry' if i % 2 else 'wet'}" for i, file in enumerate(files)]
    (root / "attributes.csv").write_text("\n".join(["file,weather", *rows]), "utf-8")
    page = run(session(root), Console(quiet=True))
    rows[0] = rows[0].replace("wet", "dry")
    (root / "attributes.csv").write_text("\n".join(["file,weather", *rows]), "utf-8")
    run(session(root, rounds=2), Console(quiet=True))
    assert f'1 with other attributes: "{files[0]}"' in faults(page)[0]


def test_another_time_is_no_change_another_picture_is_and_another_class_is_refused(
    tmp_path: Path,
) -> None:
    root = class_folders(tmp_path / "birds", n=24)
    run(session(root), Console(quiet=True))
    file = root / "Red Kite" / "img 0-03.png"
    file.touch()
    page = run(session(root, rounds=2), Console(quiet=True))
    assert faults(page) == []
    ImageOps.invert(Image.open(file)).save(file)
    page = run(session(root, rounds=3), Console(quiet=True))
    assert '1 edited: "Red Kite/img 0-03.png"' in faults(page)[0]
    assert "Photographs have changed" in page.read_text("utf-8")
    (root / "Red Kite").rename(root / "Milan")
    with pytest.raises(DataError, match=r"classes were .*Red Kite.*, and are .*Milan"):
        run(session(root, rounds=4), Console(quiet=True))
    assert page.is_file()


def test_a_file_of_another_name_is_no_change() -> None:
    before = {
        "a.png": ManifestEntry("test", "1", "-"),
        "b.png": ManifestEntry("audit", "2", "-"),
        "c.png": ManifestEntry("audit", "3", "-"),
    }
    now = {
        "z.png": ManifestEntry("test", "1", "-"),
        "b.png": ManifestEntry("test", "2", "+"),
        "c.png": ManifestEntry("audit", "4", "-"),
    }
    found = changes_between(before, now)
    assert (found.added, found.removed, found.edited) == ([], [], ["c.png"])
    assert found.described == ["b.png"]
    assert found.moved == {("audit", "test"): ["b.png"]}
    assert (found.n_moved, found.moves()) == (1, "audit to test 1")
    assert not changes_between(before, before)


def test_a_comparison_is_of_the_photographs_that_it_began_with(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    target = targets.build("folder", tmp_path / "cache", path=str(root))
    for _ in range(2):
        check_folder(tmp_path, str(root), target, "the comparison 'x'")
    file = root / "Red Kite" / "img 0-03.png"
    ImageOps.invert(Image.open(file)).save(file)
    changed = targets.build("folder", tmp_path / "cache", path=str(root))
    with pytest.raises(DataError, match=r"the comparison 'x' began with \(1 edited"):
        check_folder(tmp_path, str(root), changed, "the comparison 'x'")
    check_folder(tmp_path / "other", None, changed, "the comparison 'y'")
    assert not (tmp_path / "other").exists()


def test_a_fork_and_an_old_session_know_what_to_compare_with(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds", n=24)
    page = run(session(root), Console(quiet=True))
    home = tmp_path / "home"
    fork(home, "s", 2, "f")
    assert (home / "sessions" / "f" / FILE).is_file()
    (page.parent / FILE).unlink()
    run(session(root, rounds=2), Console(quiet=True))
    assert (page.parent / FILE).is_file()
    (page.parent / FILE).write_text("{", "utf-8")
    with pytest.raises(SessionError, match=r"photographs\.json is damaged"):
        run(session(root, rounds=3), Console(quiet=True))
