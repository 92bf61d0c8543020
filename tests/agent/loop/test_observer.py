"""What a person at a terminal is told while a session runs by itself."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from agent.loop.observer import ConsoleObserver
from eval.report.blocks import plain_text, round_lines
from tests.eval.fake_session import session


@pytest.mark.parametrize(("share", "warned"), [(0.1, True), (0.5, False)])
def test_a_round_of_which_the_audit_keeps_little_is_warned_of(share: float, warned: bool) -> None:
    current = session(n_rounds=1).rounds[0]
    assert current.batch
    quality = tuple(
        q.model_copy(update={"n_kept": round(share * q.n_made)}) for q in current.batch.quality
    )
    batch = current.batch.model_copy(update={"quality": quality})
    told = io.StringIO()
    ConsoleObserver(Console(file=told, width=100), 1).round_done(
        current.model_copy(update={"batch": batch})
    )
    assert ("most do not show their prompts" in told.getvalue()) == warned


def test_without_an_audit_no_share_is_kept_by_it() -> None:
    done = session(n_rounds=1).rounds[0]
    shown = {}
    for audited in (True, False):
        file = io.StringIO()
        ConsoleObserver(Console(file=file, width=100), 1, audited=audited).round_done(done)
        lines = plain_text(round_lines(done, None, audited))
        shown[audited] = f"{file.getvalue()} {lines}"
    assert "kept" in shown[True]
    assert "kept" not in shown[False]
