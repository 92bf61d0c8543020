"""What a round costs does not grow with the rounds before it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from agent.config.settings import load_settings
from benchmarks.rounds import SMALL, Cost, added, mean, measure, tenths
from memory.chroma_clients import OWNER
from memory.journal import Journal, read_events
from tests.agent.invented import record


def test_a_round_reads_none_of_the_journal_again(tmp_path: Path) -> None:
    seen: list[Journal] = []
    n_read: list[int] = []

    def watch(journal: Journal) -> None:
        seen.append(journal)
        n_read.append(journal.n_read)

    folder = record(tmp_path, "long", "session.rounds=60", watch=watch)
    assert len(n_read) == 60
    assert n_read[-1] == n_read[0]
    assert len(seen[-1].rounds(5)) == 5
    assert seen[-1].n_read == n_read[-1]
    # The same as when all is folded at once.
    assert [r.number for r in seen[-1].rounds()] == list(range(1, 61))
    assert seen[-1].events() == read_events(folder / "journal.jsonl")


@pytest.mark.slow
def test_a_long_session_stays_flat(tmp_path: Path) -> None:
    settings = load_settings("solar", [*SMALL, "session.rounds=80", f"home={tmp_path}"], {})
    owners: set[str] = set()
    costs = measure(
        settings, lambda cost: owners.add((tmp_path / "memory" / OWNER).read_text("ascii"))
    )
    # The index of the memory is opened once, not for every search.
    assert len(owners) == 1
    assert [cost.round for cost in costs] == list(range(1, 81))
    assert max(cost.n_read for cost in costs) <= 4
    # Four files for its jobs, and data, model, predictions and figures of its own.
    files = {after.n_files - before.n_files for before, after in pairwise(costs[30:])}
    assert max(files) <= 16
    # The look-back fills up to round 20, which is past the second tenth.
    middle, late = tenths(costs)[3], tenths(costs)[9]
    assert added(late, "folder_mb") == pytest.approx(added(middle, "folder_mb"), rel=0.1)

    def relative(part: Sequence[Cost]) -> float:
        return mean(part, "seconds") / mean(part, "reference_s")

    assert relative(late) < 1.15 * relative(middle)
