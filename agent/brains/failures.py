"""Explains errors of language-model clients: causes, details from the server, and proxies."""

from __future__ import annotations

import json
import os
import ssl
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

_LOST_TLS = "Use http:// if the server has no TLS; else let SSL_CERT_FILE name its certificate."
_SCHEMES = "must begin with http:// or https://"


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def reason_of(error: Exception) -> str:
    """Return the text of an error, with the cause and the server's answer if clients omit them."""
    text = str(error)
    causes = [str(cause) for cause in chain_of(error) if str(cause)]
    if text.rstrip(".").lower() == "connection error" and len(causes) > 1:
        return f"{text.rstrip('.')}: {causes[-1]}"
    body = getattr(error, "body", None)
    detail = body if isinstance(body, str) else json.dumps(body, default=repr) if body else ""
    if detail and text.startswith("Error code:") and " - " not in text:
        return f"{text} - {detail}"
    return text


def advice(error: Exception, url: str) -> str:
    """Return what to do about a server that cannot be reached, "" if the cause is not known.

    Args:
        error: Error of the client.
        url: URL of the server.
    """
    chain = list(chain_of(error))
    if any(isinstance(cause, ssl.SSLError) or "SSL:" in str(cause) for cause in chain):
        return _LOST_TLS
    if any(type(cause).__name__ == "UnsupportedProtocol" for cause in chain):
        return f"The server's address {_SCHEMES}."
    if any(type(cause).__name__ == "LocalProtocolError" for cause in chain):
        return "The key contains characters that are not allowed in a header: set it again."
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxies = urllib.request.getproxies_environment()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(parts.netloc):
        return (
            f"Requests go through the proxy {urlsplit(proxy).netloc.rpartition('@')[2] or proxy} "
            f"of the environment: start it, or set NO_PROXY={host}."
        )
    return ""


def check_scheme(url: str, variable: str) -> str:
    """Return the problem of a server's address from an environment variable, "" if it is valid."""
    if os.environ.get(variable) and urlsplit(url).scheme not in ("http", "https"):
        return f"{variable} is {os.environ[variable]!r}: it {_SCHEMES}."
    return ""
