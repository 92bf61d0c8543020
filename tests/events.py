"""Events of a journal for tests."""

from __future__ import annotations

import json
from typing import Any

from memory.events import Event, parse_event


def event(kind: str, **data: Any) -> Event:
    """Return an event as it would be read from a line with these keys."""
    return parse_event(json.dumps({"schema": 1, "kind": kind, **data}))
