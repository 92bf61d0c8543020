"""Questions and requests that nobody foresaw: answers hold the figures of the records, no others.

Figures are those of `tests.agent.chat.recorded`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.chat.conversation import Conversation
from eval.report.blocks import plain
from tests.agent.chat.recorded import recorded


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Conversation]:
    with recorded(tmp_path_factory.mktemp("home")) as conversation:
        yield conversation


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (
            "is another round worth it?",
            ("0.655", "0.648", "Best: round 1", "1 round of 3"),
        ),
        ("is it worth going on", ("Best: round 1",)),
        ("can i stop now?", ("Best: round 1",)),
        ("should we do another round", ("Best: round 1",)),
        ("how much better than my photographs alone?", ("0.612", "0.648", "+0.036", "overlap")),
        ("did the images help?", ("+0.036",)),
        ("is the improvement significant?", ("overlap",)),
        ("how sure are you", ("overlap",)),
        ("what does the plan look like?", ("60 images", "33")),
        ("whats next", ("60 images",)),
        ("how much of the plan is dark?", ("55% of the images of the plan of round 2",)),
        ("why did you choose dark?", ("0.574", "score 0.51 on brightness=dark", "33")),
        ("why?", ("dark is worst",)),
        ("how much of the batch is synthetic?", ("40%", "140 photographs, 120 generated images")),
        ("which class is worst?", ("worst: severity=defective", "0.598")),
        ("how many images are left?", ("1 round of 60 images left: 60 images",)),
        ("how many imges did we make so far?", ("120 images made, 98 kept", "22 not")),
        ("how many were rejected by the audit", ("22 not",)),
        ("how many photos do you test on?", ("210 feedback photographs",)),
        ("which round was best?", ("Best: round 1",)),
        ("whats the score rn", ("0.648",)),
        ("is it getting better?", ("0.612", "0.648")),
        ("compare round 1 and round 2", ("0.655", "0.648")),
        ("is dark better than bright?", ("0.574", "0.702", "+0.062 since round 0")),
        ("how good is it on poly?", ("0.659",)),
        ("should I add more dark ones?", ("0.574", "55%")),
        ("where is it weak", ("brightness=dark",)),
        ("how long will it take?", ("About 1.6 min for 1 round more",)),
        ("what have i asked for so far", ("2 of 3 rounds done",)),
    ],
)
def test_a_question_is_answered_from_the_records(
    chat: Conversation, text: str, answer: tuple[str, ...]
) -> None:
    reply = plain(chat.say(text))
    assert [part for part in answer if part not in reply] == [], reply


def test_what_was_changed_last_is_said(tmp_path: Path) -> None:
    with recorded(tmp_path) as chat:
        assert "Nothing was changed" in plain(chat.say("what did you just change?"))
        assert "avoid brightness=dark" in plain(chat.say("dont use dark cells anymore pls"))
        assert "avoid brightness=dark (w1)" in plain(chat.say("what did you just change?"))
        chat.say("undo that")
        assert "Forgotten: w1" in plain(chat.say("what did you just do"))


def test_a_question_changes_nothing(chat: Conversation) -> None:
    n_events = len(chat.live.session.journal.events())
    for text in ("can i stop now?", "should I stop after this round?", "more dark?",
                 "is 20% bright better?", "do we need less poly?"):  # fmt: skip
        chat.say(text)
    assert len(chat.live.session.journal.events()) == n_events
    assert chat.live.progress.state == "idle"
