"""A journal whose clock was set back and forth is as good as any: its times are only shown."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from agent.autonomous.status import read_status
from agent.replay.spans import spans
from agent.replay.verify import verify
from agent.session.folder import list_sessions
from eval.tables import tables
from memory.chain import seal
from memory.journal import Journal, read_events, rounds
from tests.agent.invented import record

JUMPS_H = (0, 5, -9000, 90, -1)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The journal of a session, each event at the time of a clock that was set before it."""
    folder = record(tmp_path, "jumped")
    path = folder / "journal.jsonl"
    lines = []
    for number, line in enumerate(path.read_bytes().splitlines()):
        event = json.loads(line)
        moved = datetime.fromisoformat(event["time"])
        moved += timedelta(hours=JUMPS_H[number % len(JUMPS_H)])
        event["time"] = moved.isoformat(timespec="milliseconds")
        lines.append(json.dumps(event, ensure_ascii=False).encode())
    path.write_bytes(b"".join(seal(lines)))
    return path


def test_it_verifies_and_goes_on(journal: Path) -> None:
    result = verify(journal)
    assert result.findings == ()
    assert result.ended
    done = rounds(read_events(journal))
    assert Journal(journal).rounds() == done
    assert [r.number for r in done] == [1, 2]
    assert all(seconds >= 0 for r in done for seconds in r.seconds.values())


def test_its_status_and_its_tables_stand(journal: Path) -> None:
    home = journal.parents[2]
    assert read_status(home, "jumped").state == "finished"
    (info,) = list_sessions(home)
    assert (info.rounds_done, info.state) == (2, "finished")
    events = read_events(journal)
    assert all(span.end_ns >= span.start_ns for span in spans(events))
    assert len(tables(events)["rounds"]) == 2
