"""URLs in settings, which must not contain a password since they are written to session.yaml."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import unquote

from pydantic import AfterValidator

_PASSWORDS = re.compile(r"(?<=://)([^/@\s:]*):[^@\s]*(?=@)|(password=)[^&\s]*", re.IGNORECASE)


def hidden(text: str) -> str:
    """Return text with passwords in URLs, also percent-encoded ones, replaced by ***."""
    if _PASSWORDS.search(unquote(text)):
        text = unquote(text)
    return _PASSWORDS.sub(lambda m: f"{m[1]}:***" if m[1] is not None else f"{m[2]}***", text)


def _without_password(url: str) -> str:
    if hidden(url) != url:
        raise ValueError(
            "it should hold no password, since settings are written down; give it by the "
            "environment: PGPASSWORD or ~/.pgpass for Postgres, CHROMA_CLIENT_AUTH_CREDENTIALS "
            "with CHROMA_CLIENT_AUTH_PROVIDER for Chroma"
        )
    return url


PlainUrl = Annotated[str, AfterValidator(_without_password)]
"""A URL without a password."""
