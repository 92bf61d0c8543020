"""Bundles: sessions as one file, packed without keys and paths, and validated when opened.

A bundle is a zip of manifest.json (version, sizes and checksums of the rest), journal.jsonl,
session.yaml, report.html, pictures under rounds/NNN and, on request, models. It contains nothing
that can be executed: no checkpoints of the graph, no pickles.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import io
import json
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import yaml

from agent.autonomous.thumbnails import prompt_thumbnails, thumbnail_path
from agent.config.settings import without_private
from agent.loop.eyes import picture_path, shown_in
from agent.replay.secrets import find_secret, scrub
from agent.session.folder import folder_of, latest, stored_settings
from memory.chain import seal
from memory.errors import SessionError, SettingsError
from memory.files import write_atomic
from memory.journal import read_events, rounds
from memory.user_folders import writing

VERSION = 1
MAX_FILES = 50_000
MAX_BYTES = 2 * 10**9
# Largest compression ratio of a file; a higher one indicates a zip bomb.
MAX_RATIO = 200
_MAX_MANIFEST_BYTES = 2 * 10**7
_MAX_LINE_BYTES = 5 * 10**7
_PIECE_BYTES = 2**20
# A command in journals of earlier versions, which may contain a password.
_ON_FINISH = re.compile(r'("on_finish": )"(?:[^"\\]|\\.)*"')

_MANIFEST = "manifest.json"
_ALLOWED = re.compile(
    r"journal\.jsonl|session\.yaml|report\.html|"
    r"rounds/\d{3,6}/(failures|prompts|seen)/[A-Za-z0-9][\w.-]{0,120}\.png|"
    r"rounds/\d{3,6}/(model\.safetensors|model\.json)"
)


def bundle(home: Path, name: str, path: Path, weights: bool = False) -> int:
    """Write the bundle of a session and return its size in bytes.

    weights: whether the models of the rounds are included. Absolute paths are cut to their last
    component and likely keys removed, consistently, so that the journal can still be verified.
    """
    stored_settings(home, name)
    folder = folder_of(home, name)
    files, events = _texts(folder), read_events(folder / "journal.jsonl")
    for number, sha256, _ in shown_in(events):
        if (file := picture_path(folder, number, sha256)).is_file():
            files[file.relative_to(folder).as_posix()] = file.read_bytes()
    for done in rounds(events):
        if done.batch:
            for prompt_id, data in prompt_thumbnails(folder, done.batch).items():
                file = thumbnail_path(folder, done.number, prompt_id)
                files[file.relative_to(folder).as_posix()] = data
        pictures = [folder / f.picture for f in done.failures if f.picture]
        model = (
            [folder / done.training.model / n for n in ("model.json", "model.safetensors")]
            if (weights and done.training)
            else []
        )
        for file in (*pictures, *model):
            if file.is_file():
                files[file.relative_to(folder).as_posix()] = file.read_bytes()
    for key, data in files.items():
        if left := find_secret(data):
            raise SessionError(
                f"The bundle of {name!r} is not written: {key} holds {left}. Take it out of the "
                "session's folder, or of the environment where it is not a secret."
            )
    listed = {
        key: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for key, data in files.items()
    }
    manifest = {"bundle": VERSION, "session": name, "weights": weights, "files": listed}

    def write(handle: Any) -> None:
        with zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED) as archive:
            for key, data in {_MANIFEST: json.dumps(manifest, indent=1).encode(), **files}.items():
                # Without times, so that the bundle of a session is deterministic.
                archive.writestr(zipfile.ZipInfo(key), data, zipfile.ZIP_DEFLATED)

    with writing(path.parent, [path.name]):
        write_atomic(path, write)
    return path.stat().st_size


@contextmanager
def opened(home: Path, name: str | None) -> Iterator[Path]:
    """Yield the folder of a session, given its name, its path, or a bundle.

    Args:
        home: Home folder.
        name: Name of a session; None: the latest. With a slash: path of a session folder, which may
            be a copy. NAME.zip: path of a bundle, which is unpacked into a temporary folder.

    Raises:
        SettingsError: There is no such session.
        SessionError: The bundle is refused; the message names the reason.
    """
    if name is not None and name.endswith(".zip"):
        with tempfile.TemporaryDirectory(prefix="shaping-bundle-") as scratch:
            unpack_bundle(Path(name), Path(scratch))
            yield Path(scratch)
        return
    if name is not None and "/" in name:
        if not (Path(name) / "journal.jsonl").exists():
            raise SettingsError(f"There is no journal.jsonl in {name}; is it a session's folder?")
        yield Path(name)
        return
    name = name or latest(home)
    stored_settings(home, name)
    yield folder_of(home, name)


class _Refused(Exception):
    """The reason why a bundle is not unpacked."""


def unpack_bundle(path: Path, folder: Path) -> None:
    """Unpack a bundle into a folder; raises SessionError with the reason if it is refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name, expected in _check(archive).items():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as handle:
                    if _copy(archive, name, handle) != expected:
                        raise _Refused(f"{name} is not as the manifest says")
            _check_texts(folder)
        return
    except FileNotFoundError as error:
        raise SettingsError(f"There is no bundle {path}.") from error
    except _Refused as error:
        reason = str(error)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, zlib.error, ValueError) as error:
        reason = f"it is not a complete zip file ({error})"
    except (OSError, NotImplementedError) as error:
        reason = f"it cannot be read ({error})"
    raise SessionError(
        f"The bundle {path.name} is refused: {reason}. Ask for it again; it is made by: "
        "shaping bundle NAME -o FILE.zip"
    )


def _check(archive: zipfile.ZipFile) -> Mapping[str, str]:
    """Validate a bundle before it is unpacked, and return its files with their checksums."""
    entries = archive.infolist()
    if len(entries) > MAX_FILES:
        raise _Refused(f"it has {len(entries)} files, more than {MAX_FILES}")
    if sum(entry.file_size for entry in entries) > MAX_BYTES:
        raise _Refused(f"it unpacks to more than {MAX_BYTES / 1e9:g} GB")
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise _Refused("it has two files of one name")
    for entry in entries:
        _check_entry(entry)
    if _MANIFEST not in names:
        raise _Refused("it has no manifest.json, so it is no bundle")
    if archive.getinfo(_MANIFEST).file_size > _MAX_MANIFEST_BYTES:
        raise _Refused("its manifest is too long")
    try:
        with io.BytesIO() as buffer:
            _copy(archive, _MANIFEST, buffer)
            manifest = json.loads(buffer.getvalue())
        version = manifest["bundle"]
        listed = {name: str(entry["sha256"]) for name, entry in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _Refused(f"its manifest is damaged ({error})") from error
    if version != VERSION:
        raise _Refused(f"it is of version {version!r}, and this program knows {VERSION}")
    if listed.keys() | {_MANIFEST} != set(names):
        odd = sorted(listed.keys() ^ (set(names) - {_MANIFEST}))[:3]
        raise _Refused(f"its files are not those of its manifest: {', '.join(odd)}")
    if "journal.jsonl" not in listed:
        raise _Refused("it has no journal")
    return listed


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.filename
    shown = json.dumps(name[:100])
    parts = PurePosixPath(name).parts
    if name.startswith(("/", "\\")) or ".." in parts or "\\" in name or ":" in name:
        raise _Refused(f"the file {shown} would be written outside of the folder")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise _Refused(f"{shown} is a link or no plain file")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _Refused(f"{shown} is compressed by a method that bundles do not use")
    if entry.flag_bits & 1:
        raise _Refused(f"{shown} is encrypted")
    if name != _MANIFEST and not _ALLOWED.fullmatch(name):
        raise _Refused(
            f"{shown} does not belong into a bundle; checkpoints and code are never taken"
        )
    if entry.file_size > 10**6 and entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
        raise _Refused(f"{shown} unpacks to {entry.file_size / 1e6:.0f} MB out of nearly none")


def _copy(archive: zipfile.ZipFile, name: str, target: IO[bytes]) -> str:
    """Unpack a file in pieces up to its declared size, and return its SHA-256."""
    left, digest = archive.getinfo(name).file_size, hashlib.sha256()
    with archive.open(name) as handle:
        while piece := handle.read(min(_PIECE_BYTES, left + 1)):
            left -= len(piece)
            if left < 0:
                break
            digest.update(piece)
            target.write(piece)
    if left:
        raise _Refused(f"{name} has another size than it claims")
    return digest.hexdigest()


def _check_texts(folder: Path) -> None:
    """Refuse journals and settings that are too long, nested too deeply, or use YAML aliases."""
    try:
        with (folder / "journal.jsonl").open("rb") as journal:
            while line := journal.readline(_MAX_LINE_BYTES + 1):
                if len(line) > _MAX_LINE_BYTES:
                    raise _Refused("a line of its journal is too long")
                # Damaged lines are handled by the reader of the journal.
                with contextlib.suppress(ValueError):
                    json.loads(line)
        settings = folder / "session.yaml"
        if settings.is_file():
            if settings.stat().st_size > _MAX_LINE_BYTES:
                raise _Refused("its session.yaml is too long")
            # Aliases allow exponential expansion.
            if any(isinstance(e, yaml.AliasEvent) for e in yaml.parse(settings.read_bytes())):
                raise _Refused("its session.yaml has aliases")
            yaml.safe_load(settings.read_bytes())
    except RecursionError as error:
        raise _Refused("its texts are nested too deeply") from error
    except yaml.YAMLError as error:
        raise _Refused("its session.yaml is no YAML") from error


def _texts(folder: Path) -> dict[str, bytes]:
    """Return journal, settings and report without paths, keys, and the command `on_finish`."""
    raw = (folder / "journal.jsonl").read_bytes()
    complete = raw[: raw.rfind(b"\n") + 1]
    lines = complete.splitlines(keepends=True)
    scrubbed = [scrub(_ON_FINISH.sub(r"\1null", line.decode())).encode() for line in lines]
    files = {"journal.jsonl": b"".join(lines if scrubbed == lines else seal(scrubbed))}
    command = yaml.safe_load((folder / "session.yaml").read_text("utf-8"))["settings"]["session"]
    hidden = str(command.get("on_finish") or "")
    for name in ("session.yaml", "report.html"):
        if (folder / name).is_file():
            text = (folder / name).read_text("utf-8")
            text = _without_hosts(text) if name == "session.yaml" else text
            for shown in filter(None, (hidden, html.escape(hidden))):
                text = text.replace(shown, "***")
            files[name] = scrub(text).encode()
    return files


def _without_hosts(settings: str) -> str:
    """Return the text of session.yaml without servers and cluster of the session."""
    stored = yaml.safe_load(settings)
    stored["settings"] = without_private(stored["settings"])
    return yaml.safe_dump(stored, sort_keys=False)
