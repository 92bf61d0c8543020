"""Bundles hold no secrets and no paths; what cannot be trusted is refused with the reason."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import stat
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.cli.app import app
from agent.config.settings import with_changes
from agent.replay.bundle import bundle, opened, unpack_bundle
from agent.replay.secrets import find_secret, scrub
from agent.replay.verify import verify
from agent.replay.viewer import open_recording, pictures
from agent.session.folder import store_settings, stored_settings
from memory.errors import SessionError, SettingsError
from tests.agent.invented import record

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("bundles")
    script = [{"error": "no answer from /home/ada/models/x.gguf with Bearer abcdef"}]
    folder = record(home, "shared", "session.rounds=1", script=script)
    (folder / "report.html").write_text(f"<p>--home {home}</p>", encoding="utf-8")
    places = ("compute.place=ray:ada-1:6379", "memory.url=http://ada-2:8000")
    own = with_changes(
        stored_settings(home, "shared"), [*places, "session.checkpoints=postgresql://ada-3/db"]
    )
    store_settings(folder, own)
    (folder / "graph.sqlite").write_bytes(b"checkpoints")
    (folder / "lock.json").write_text('{"host": "ada"}', encoding="utf-8")
    return home


@pytest.fixture(scope="module")
def good(home: Path) -> Path:
    path = home / "shared.zip"
    bundle(home, "shared", path)
    return path


def test_a_bundle_is_replayed_anywhere(home: Path, good: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "no-home", str(good)) as folder:
        found = verify(folder / "journal.jsonl")
        assert found.findings == () and found.n_rounds == 1
        assert list(pictures(open_recording(folder), 1)) == []
    assert not folder.exists()
    shown = CliRunner().invoke(app, ["replay", str(good), "--home", str(tmp_path / "no-home")])
    assert shown.exit_code == 0 and "propose_plan" in shown.output
    asked = ["--brain", "policy:uniform", "--home", str(tmp_path / "no-home")]
    instead = CliRunner().invoke(app, ["replay", str(good), *asked])
    assert instead.exit_code == 0 and "in place of the recorded brain" in instead.output
    refused = CliRunner().invoke(app, ["replay", str(good), "--verify", "--rerun", "train"])
    assert refused.exit_code == 2


def test_a_bundle_tells_neither_paths_nor_keys(home: Path, good: Path) -> None:
    with zipfile.ZipFile(good) as archive:
        assert set(archive.namelist()) == {
            "manifest.json",
            "journal.jsonl",
            "session.yaml",
            "report.html",
        }
        text = "".join(archive.read(name).decode() for name in archive.namelist())
    assert str(home) not in text
    assert "/home/ada" not in text and "abcdef" not in text
    assert not any(host in text for host in ("ada-1", "ada-2", "ada-3"))
    assert "no answer from PATH/x.gguf with ***" in text


def test_scrubbing_leaves_words_and_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "correct-horse")
    picture = '<img src="data:image/png;base64,AA/bc/de/fg+/hi/jk==">'
    kept = f"{picture} and/or 3/4, https://example.org/a/b, tool_call/1/r001c00 3:/x"
    assert scrub(kept) == kept
    assert scrub('"/data/models/net.pt", C:\\Users\\ada\\x') == '"PATH/net.pt", PATH/file'
    assert scrub("key correct-horse sk-abc123456") == "key *** ***"


SECRETS = {
    "curl -u ada:hunter22 https://example.org": "hunter22",
    "notify --password hunter22": "hunter22",
    "https://ada:hunter22@example.org/x": "hunter22",
    "https://hooks.slack.com/services/T00/B00/XXXXXXXX": "B00",
    "https://discord.com/api/webhooks/123/abcdef": "abcdef",
    "ghp_0123456789abcdefABCDEF0123456789abcd": "ghp_0123",
    "github_pat_11ABCDEFG0123456789abcdef": "11ABCDEFG",
    "glpat-0123456789abcdefghij": "0123456789",
    "AKIAIOSFODNN7EXAMPLE": "IOSFODNN7",
    "AIzaSyA0123456789abcdefghijklmnopqrstuv": "SyA0123",
    "xoxb-1234567890-abcdef": "1234567890",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl": "c2lnbmF0dXJl",
    "Authorization: Bearer abc.def": "abc.def",
    "Authorization: Basic YWRhOmh1bnRlcjIy": "YWRhOmh1bnRlcjIy",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----": "MIIE",
    "DB_PASSWORD=hunter22 make": "hunter22",
    "sk-proj-abcdefgh": "abcdefgh",
    "hf_abcdefghijkl": "abcdefghijkl",
}


@pytest.mark.parametrize(("text", "secret"), SECRETS.items())
def test_secrets_are_found_and_scrubbed(text: str, secret: str) -> None:
    assert find_secret(text.encode()) is not None
    assert secret not in scrub(text)
    assert find_secret(scrub(text).encode()) is None


@pytest.mark.parametrize(
    "text",
    [
        "tokens=12, max_tokens: 4000, key: plan/3, shared secretly",
        "a basic cell under basic-light conditions, the bearer of it",
        "https://example.org:8000/v1 and http://127.0.0.1:7860/?session=a",
        '{"tokens": {"prompt": 12}, "password": null}',
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert scrub(text) == text and find_secret(text.encode()) is None


def test_the_command_at_the_end_is_not_bundled(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sessions" / "shared"
    shutil.copytree(home / "sessions" / "shared", folder)
    command = "curl https://example.org/done?who=ada"
    settings = with_changes(stored_settings(tmp_path, "shared"), [f"session.on_finish={command}"])
    store_settings(folder, settings)
    (folder / "report.html").write_text(f"<p>{command}</p>", encoding="utf-8")
    bundle(tmp_path, "shared", tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert not any(b"who=ada" in archive.read(name) for name in archive.namelist())


def test_a_secret_that_is_left_stops_the_bundle(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.replay.bundle.scrub", lambda text: text)
    folder = tmp_path / "sessions" / "shared"
    shutil.copytree(home / "sessions" / "shared", folder)
    (folder / "report.html").write_text("AKIAIOSFODNN7EXAMPLE", encoding="utf-8")
    with pytest.raises(SessionError, match="a bearer token"):
        bundle(tmp_path, "shared", tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


def test_the_same_session_gives_the_same_bundle(home: Path, good: Path, tmp_path: Path) -> None:
    bundle(home, "shared", tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == good.read_bytes()


def pack(files: Files, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def listed(files: Files) -> None:
    """Put all files into the manifest, as somebody would who forges a bundle."""
    manifest = json.loads(files["manifest.json"])
    manifest["files"] = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
        if name != "manifest.json"
    }
    files["manifest.json"] = json.dumps(manifest).encode()


def extra(name: str, data: bytes = b"x") -> Callable[[Files], None]:
    def forge(files: Files) -> None:
        files[name] = data
        listed(files)

    return forge


def version(files: Files) -> None:
    files["manifest.json"] = files["manifest.json"].replace(b'"bundle": 1', b'"bundle": 7')


def damaged_manifest(files: Files) -> None:
    files["manifest.json"] = b"{"


def changed(files: Files) -> None:
    files["report.html"] += b"!"


def without_journal(files: Files) -> None:
    del files["journal.jsonl"]
    listed(files)


def nested_journal(files: Files) -> None:
    files["journal.jsonl"] += b'{"kind": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    listed(files)


def nested_manifest(files: Files) -> None:
    files["manifest.json"] = b"[" * 100_000 + b"]" * 100_000


def aliases(files: Files) -> None:
    files["session.yaml"] = b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
    listed(files)


def unlisted(files: Files) -> None:
    files["rounds/001/failures/x.png"] = b"x"


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (extra("../evil.txt"), "outside of the folder"),
        (extra("/etc/evil"), "outside of the folder"),
        (extra("rounds/../../evil"), "outside of the folder"),
        (extra("C:evil"), "outside of the folder"),
        (extra("graph.sqlite"), "checkpoints and code are never taken"),
        (extra("rounds/001/model.pt"), "does not belong"),
        (extra("rounds/001/failures/x.py"), "does not belong"),
        (extra("rounds/001/failures/x.png", b"0" * 50_000_000), "out of nearly none"),
        (version, "of version 7"),
        (damaged_manifest, "manifest is damaged"),
        (changed, "not as the manifest says"),
        (without_journal, "no journal"),
        (nested_journal, "nested too deeply"),
        (nested_manifest, "manifest is damaged"),
        (aliases, "aliases"),
        (unlisted, "not those of its manifest"),
    ],
)
def test_forged_bundles_are_refused(
    good: Path, tmp_path: Path, forge: Callable[[Files], None], reason: str
) -> None:
    with zipfile.ZipFile(good) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    forge(files)
    path = tmp_path / "in" / "forged.zip"
    path.parent.mkdir()
    pack(files, path)
    (tmp_path / "out").mkdir()
    with pytest.raises(SessionError, match=reason):
        unpack_bundle(path, tmp_path / "out")
    written = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    assert written <= {"forged.zip", "journal.jsonl", "session.yaml", "report.html"}


def test_links_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("session.yaml")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(SessionError, match="is a link"):
        unpack_bundle(tmp_path / "link.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(good: Path, tmp_path: Path, method: int) -> None:
    """A few hundred bytes of bzip2 unpack to gigabytes at one read."""
    with zipfile.ZipFile(good) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "odd.zip", "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    with pytest.raises(SessionError, match="compressed by a method"):
        unpack_bundle(tmp_path / "odd.zip", tmp_path / "out")


def test_unpacking_takes_little_memory(good: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(good) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    extra("rounds/001/model.safetensors", random.Random(0).randbytes(10**7) * 12)(files)
    pack(files, tmp_path / "big.zip")
    del files
    tracemalloc.start()
    unpack_bundle(tmp_path / "big.zip", tmp_path / "out")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return a bundle with changed, removed, doubled or inserted bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(changed))
        length = rng.choice([1, 1, 4, 64, 1024])
        kind = rng.randrange(4)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[at : at + length]
        elif kind == 2:
            changed[at:at] = changed[at : at + length]
        else:
            changed[at:at] = rng.randbytes(length)
    return bytes(changed)


@pytest.mark.parametrize("n", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_mutated_bundles_never_crash_or_write_elsewhere(good: Path, tmp_path: Path, n: int) -> None:
    data, rng = good.read_bytes(), random.Random(n)
    path, out = tmp_path / "in" / "odd.zip", tmp_path / "out"
    path.parent.mkdir()
    for _ in range(n):
        path.write_bytes(mutate(data, rng))
        out.mkdir()
        with contextlib.suppress(SessionError), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            unpack_bundle(path, out)
        assert {p.name for p in tmp_path.iterdir()} == {"in", "out"}
        shutil.rmtree(out)


def test_two_files_of_one_name_are_refused(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "double.zip"
    path.write_bytes(good.read_bytes())
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(path, "a") as archive,
    ):
        archive.writestr("journal.jsonl", "{}")
    with pytest.raises(SessionError, match="two files of one name"):
        unpack_bundle(path, tmp_path / "out")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_broken_files_are_refused(good: Path, tmp_path: Path, share: float) -> None:
    data = good.read_bytes()
    path = tmp_path / "torn.zip"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(SessionError, match="not a complete zip file"):
        unpack_bundle(path, tmp_path / "out")
    noise = bytearray(data)
    noise[len(noise) // 3] ^= 0xFF
    path.write_bytes(bytes(noise))
    with pytest.raises(SessionError, match="refused"):
        unpack_bundle(path, tmp_path / "out")


def test_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    with (
        pytest.raises(SettingsError, match="no bundle"),
        opened(tmp_path, os.fspath(tmp_path / "x.zip")),
    ):
        pass
