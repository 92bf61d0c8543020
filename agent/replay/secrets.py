"""Secrets and places of this machine in texts that leave it: replaced, or found."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

_HIDDEN = "***"
# Two or more names behind a slash that begins a word, or a drive of Windows.
_PATHS = re.compile(r"(?<![\w.:/\\+=-])(?:/[\w.@+-]+){1,}/([\w.@+-]+)|\b[A-Za-z]:\\[^\s\"']+")
# What issuers of keys begin them with, by name.
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
# In the base64 of a picture anything may look like a path.
_PICTURES = re.compile(r"(data:[\w/+.-]+;base64,[A-Za-z0-9+/=]*)")


def scrub(text: str) -> str:
    """Return text without absolute paths, keys, and the secrets of this environment."""
    for _, value in _of_environment():
        text = text.replace(value, _HIDDEN)
    pieces = _PICTURES.split(text)
    return "".join(p if p.startswith("data:") else _scrub(p) for p in pieces)


def find_secret(data: bytes) -> str | None:
    """Return what kind of secret a file holds, None for none that is known."""
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
