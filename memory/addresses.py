"""Server addresses: redaction in journals, and a warning about keys sent without encryption."""

from __future__ import annotations

import ipaddress
import logging
import re
from functools import cache
from urllib.parse import urlsplit

_HIDDEN = "[address]"
_QUOTED = r"""(?:\\?["'][^"'\\\s]+\\?["'])"""
_ADDRESSES = re.compile(
    rf"""
      (?<![\w.]) [a-z][a-z0-9+.-]* :// [^\s"'<>)\],;]*[^\s"'<>)\],;.:\\]     # a URL
    | (?i: \b(?:host(?:name)?|server|node)\s*=\s* ) (?:{_QUOTED} | [\w.:-]*\w)   # host='x'
    | (?i: (?<=\bhost\s)|(?<=\bhost\sname\s)|(?<=\bserver\sat\s)|(?<=\bresolve\s) ) {_QUOTED}
    | (?i: (?<=\bhost\s)|(?<=\bresolve\s) ) (?=\S*[.:]\w) [\w.:-]*\w       # host a.b:1
    | \[ [0-9a-f]*:[0-9a-f.:]+ \] (?: :\d+ )?                                # [IPv6]:PORT
    | (?<![\w.]) \d{{1,3}}(?:\.\d{{1,3}}){{3}} (?: :\d+ )? (?![\w.]*\w)      # IPv4:PORT
    | (?<![\w./:-]) [A-Za-z][\w-]*(?:\.[\w-]+)* :\d{{4,5}} (?!\w)            # HOST:PORT
    """,
    re.VERBOSE,
)
_log = logging.getLogger(__name__)


def without_addresses(text: str) -> str:
    """Return text with URLs, IP addresses, host names and HOST:PORT replaced by [address]."""
    return _ADDRESSES.sub(_HIDDEN, text)


def is_local(host: str) -> bool:
    """Return whether a host name or IP address is this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


@cache
def warn_of_plain_key(url: str, address: str, key: str) -> bool:
    """Warn, once per process, if a key is sent to another machine without encryption.

    Args:
        url: Address that the key is sent to.
        address: Name of the variable or setting that `url` comes from.
        key: Name of the variable that holds the key.

    Returns:
        Whether the key is sent without encryption.
    """
    parts = urlsplit(url)
    is_plain = parts.scheme == "http" and not is_local(parts.hostname or "localhost")
    if is_plain:
        _log.warning(
            "%s is a plain http:// address of another machine: the key in %s is sent there "
            "unencrypted, and others on the network can read it. Use https://, or an SSH tunnel "
            "and http://127.0.0.1:PORT.",
            address,
            key,
        )
    return is_plain
