"""Removal and detection of secrets and paths of this machine in texts that leave it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

_HIDDEN = "***"
# Absolute paths of at least two components, or with a drive letter of Windows.
_PATHS = re.compile(r"(?<![\w.:/\\+=-])(?:/[\w.@+-]+){1,}/([\w.@+-]+)|\b[A-Za-z]:\\[^\s\"']+")
# Patterns of keys and credentials, by description.
_KEYS = {
    "a key of OpenAI or Anthropic": r"\bsk-[\w*.-]{4,}",
    "a token of Hugging Face": r"\bhf_\w{8,}",
    "a token of GitHub": r"\b(?:gh[opsur]_\w{16,}|github_pat_\w{20,})",
    "a token of GitLab": r"\bglpat-[\w-]{16,}",
    "an access key of AWS": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a key of Google": r"\bAIza[\w-]{30,}",
    "a token of Slack": r"\bxox[abeoprs]-[\w-]{8,}",
    "a web token": r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END[A-Z -]*-----|$)",
    "a web hook": (
        r"https?://(?:hooks\.slack\.com|[\w.-]*discord(?:app)?\.com/api/webhooks"
        r"|[\w.-]*webhook\.office\.com|api\.telegram\.org/bot)[^\s\"']*"
    ),
    "a bearer token": r"(?i:\bbearer\s+)(?!\*)[^\s'\",}\\]{6,}",
    "basic credentials": r"(?i:\bbasic\s+)[A-Za-z0-9+/]{8,}=*",
    "a user with a password": r"(?<=://)[^\s/@:\"']+:(?!\*)[^\s/@\"']+(?=@)",
    "an option with a password": (
        r"(?<=\s)(?:-u|--user|--password|--token|--api-key|--secret)(?:\s+|=)(?!\*)[^\s\"'\\]+"
    ),
    "a named secret": (
        r"(?i:\b[\w-]*(?:password|passwd|secret|api[_-]?key|access[_-]?token|auth[_-]?token)"
        r"[\w-]*)\s*=\s*(?!\*|None\b|null\b)[^\s\"',;&\\]{4,}"
    ),
}
_KEY = re.compile("|".join(f"(?:{pattern})" for pattern in _KEYS.values()))
_SECRET_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
# Base64 data of pictures may contain sequences that look like paths or keys.
_PICTURES = re.compile(r"(data:[\w/+.-]+;base64,[A-Za-z0-9+/=]*)")


def scrub(text: str) -> str:
    """Return text without absolute paths, keys, and secrets of environment variables."""
    for _, value in _of_environment():
        text = text.replace(value, _HIDDEN)
    pieces = _PICTURES.split(text)
    return "".join(p if p.startswith("data:") else _scrub(p) for p in pieces)


def find_secret(data: bytes) -> str | None:
    """Return a description of the first known secret in a file, or None."""
    for name, value in _of_environment():
        if value.encode() in data:
            return f"the value of the environment variable {name}"
    try:
        text = _PICTURES.sub("", data.decode())
    except UnicodeDecodeError:
        return None
    return next((kind for kind, pattern in _KEYS.items() if re.search(pattern, text)), None)


def _of_environment() -> Iterator[tuple[str, str]]:
    for name, value in os.environ.items():
        if _SECRET_NAMES.search(name) and len(value) >= 8:
            yield name, value


def _scrub(text: str) -> str:
    return _PATHS.sub(lambda match: f"PATH/{match[1] or 'file'}", _KEY.sub(_HIDDEN, text))
