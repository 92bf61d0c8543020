"""Questions and requests that nobody foresaw: answers hold the figures of the records, no others.

Figures are those of `tests.agent.chat.recorded`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.autonomous.runner import run_rounds
from agent.chat.answers import plan_summary, slice_lines
from agent.chat.conversation import Conversation
from agent.chat.figures import unsupported
from agent.chat.overview import Overview
from agent.chat.queries import Queries
from agent.loop.components import Components
from agent.loop.observer import Observer
from agent.replay.verify import verify
from agent.session.folder import open_session
from agent.steering.preferences import STEERING, Preference, synthetic_share
from eval.report.blocks import Line, plain_text
from memory.events import FailuresEvent, StageEvent, WishEvent
from memory.records import Hypothesis
from tests.agent.chat.recorded import recorded
from tests.agent.quick import toy_settings
from tests.factories import slice_score


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
        ("what is the accuracy on the test?", ("+0.036",)),
        ("is the improvement significant?", ("overlap",)),
        ("how sure are you", ("overlap",)),
        ("what does the plan look like?", ("60 images", "55%", "+15% since round 1")),
        ("whats next", ("60 images",)),
        ("how many test photographs are there?", ("Photographs: generator ", ", test ")),
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
        ("what did round 1 change?", ("0.612", "0.655")),
        ("did round 2 help?", ("0.655", "0.648")),
        ("/changes 0", ("0.612", "0.648")),
        ("/changes 1 1", ("Say a round before the last one: 0 to 1",)),
        ("is dark better than bright?", ("0.574", "0.702", "+0.062 since round 0")),
        ("how good is it on poly?", ("0.659",)),
        ("should I add more dark ones?", ("0.574", "55%")),
        ("where is it weak", ("brightness=dark",)),
        ("how long will it take?", ("About 1.6 min for 1 round more",)),
        ("what have i asked for so far", ("2 of 3 rounds done",)),
        ("what are you doing right now?", ("2 of 3 rounds done",)),
        ("what did round 1 change?", ("| round 0 (real only) | round 1 |", "0.612", "+0.043")),
        ("what is different between rounds 0 and 1?", ("| round 0 (real only) | round 1 |",)),
        ("what went wrong in round 1?", ("after round 1", "0.439")),
        ("what was the plan of round 1?", ("Plan of round 1",)),
        ("why did round 1 go badly?", ("Plan of round 1",)),
        ("which prompt was the worst?", ("r001p01", "0%", "6 of 6 prompts")),
        ("what would you do next?", ("No plan waits", "round 2 is carried out")),
        ("please export the data set", ("shaping export recorded",)),
        ("where are the files?", ("Files: ",)),
        ("how reliable is that number?", ("overlap",)),
        ("which data set is this?", ("Data: solar", "toy")),
        ("what did you learn?", ("Nothing is remembered yet",)),
    ],
)
def test_a_question_is_answered_from_the_records(
    chat: Conversation, text: str, answer: tuple[str, ...]
) -> None:
    reply = plain_text(chat.say(text))
    assert [part for part in answer if part not in reply] == [], reply


def test_of_equal_classes_none_is_the_worst(tmp_path: Path) -> None:
    with recorded(tmp_path, pixels={"bus": [0.5] * 3, "car": [0.5] * 3}) as chat:
        assert "worst" not in plain_text(chat.say("/classes"))
        assert "bus" in plain_text(chat.say("/classes"))


def test_a_value_that_is_not_measured_alone_is_answered_by_its_slices(chat: Conversation) -> None:
    past = chat._queries.rounds()
    report = past[-1].report
    assert report is not None
    both = slice_score({"brightness": "dark", "wafer": "mono"}, 0.41, 80, 0.04)
    last = past[-1].model_copy(update={"report": report.model_copy(update={"slices": (both,)})})
    lines = slice_lines({"wafer": ("mono",)}, [last], None, chat.vocabulary)
    assert "brightness=dark wafer=mono 0.410" in plain_text(lines)


def test_what_was_changed_last_is_said(tmp_path: Path) -> None:
    with recorded(tmp_path) as chat:
        assert "Nothing was changed" in plain_text(chat.say("what did you just change?"))
        assert "avoid brightness=dark" in plain_text(chat.say("dont use dark cells anymore pls"))
        assert "avoid brightness=dark (w1)" in plain_text(chat.say("what did you just change?"))
        chat.say("undo that")
        assert "Forgotten: w1" in plain_text(chat.say("what did you just do"))
        chat.say("fewer mono cells")
        chat.say("more dark cells, and fewer with low contrast")
        assert "Forgotten: w3 (more of brightness=dark (x2)), w4 (" in plain_text(
            chat.say("undo that")
        )
        assert "Forgotten: w2" in plain_text(chat.say("undo that"))


def test_failures_are_those_of_the_last_round_also_where_it_has_none(tmp_path: Path) -> None:
    with recorded(tmp_path) as chat:
        journal = chat.live.session.journal
        journal.append(StageEvent(key="stage/2/inspect", round=2, stage="inspect", seconds=1.0))
        journal.append(FailuresEvent(key="failures/2/again", round=2, failures=()))
        reply = plain_text(chat.say("where does it fail?"))
    assert "after round 2" in reply and "brightness=dark" not in reply, reply


def test_a_plan_is_shown_in_12_lines(chat: Conversation) -> None:
    blocks = chat.say("/plan")
    assert all(isinstance(block, Line) for block in blocks) and len(blocks) <= 12
    assert "a dark mono cell" not in plain_text(blocks)
    assert "a dark mono cell" in plain_text(chat.say("/plan all"))


def test_a_plan_expects_nothing_of_a_slice_that_it_has_no_image_of(chat: Conversation) -> None:
    plan = chat.live.session.rounds()[-1].plan
    assert plan is not None
    for brightness, expects in (("dark", True), ("bright", True), ("unseen", False)):
        hypothesis = Hypothesis(slice=f"brightness={brightness}", expected_change=0.01)
        now = plan.model_copy(update={"hypothesis": hypothesis})
        text = plain_text(plan_summary(now, None, None, (), chat.vocabulary))
        assert ("It expects" in text) == expects


def test_a_question_changes_nothing(chat: Conversation) -> None:
    n_events = len(chat.live.session.journal.events())
    for text in ("can i stop now?", "should I stop after this round?", "more dark?",
                 "is 20% bright better?", "do we need less poly?"):  # fmt: skip
        chat.say(text)
    assert len(chat.live.session.journal.events()) == n_events
    assert chat.live.progress.state == "idle"


def test_halves_of_a_sentence_that_contradict_each_other_are_both_refused(tmp_path: Path) -> None:
    with recorded(tmp_path) as chat:
        for text in ("less dark but more dark", "no dark, but 20% dark", "only poly and only mono"):
            reply = plain_text(chat.say(text))
            assert reply.count('"') == 4 and "contradict" in reply, (text, reply)
        assert not chat.live.session.journal.events(WishEvent)
        reply = plain_text(chat.say("5 rounds and at least 30% dark"))
        assert "7 rounds in all" in reply and "at least 30% brightness=dark (w1)" in reply
        assert "contradicts w1" in plain_text(chat.say("at most 10% dark"))
        assert "Not run" in plain_text(chat.say("3 rounds and more of the gloomy stuff"))
        assert "what you said" not in plain_text(chat.say("fewer dark"))
        assert [e.wish["id"] for e in chat.live.session.journal.events(WishEvent)] == ["w1", "w2"]


# Words that the grammar does not fully understand, and what a model makes of them that lies.
FALSE = [
    ("tell me about my dark ones, please: how do they do", "Dark cells score 0.702."),
    ("what would a colleague think of the outcome", "Balanced accuracy is 0.93 now."),
    ("summarise the whole thing for my boss", "It rose from 0.612 to 0.655 in round 2."),
    ("and what happened to the pictures", "The audit kept all 120 images."),
    ("did we waste pictures", "Only 3 images were rejected."),
    ("is my boss happy with this", "Accuracy fell by 0.036 since round 0."),
    ("how does bright compare with dark to you", "Dark is 0.128 better than bright."),
    ("say something about what was learnt", "Twelve thousand images were used."),
    ("what should my colleague know", "Round 9 was the best."),
    ("do physicists like this", "Images helped by 12%."),
    ("what did the doctor order", "Half of the plan is bright."),
    ("describe the state of affairs", "It is 0.655."),
]
TRUE = [
    ("tell me about my dark ones, please: how do they do", "Dark cells score 0.574 in round 2."),
    ("what would a colleague think of the outcome", "Balanced accuracy is 64.8% after round 2."),
    ("summarise the whole thing for my boss", "It rose by 0.036 since round 0."),
    ("did we waste pictures", "The audit kept 98 of 120 images, 22 were rejected."),
    ("how does bright compare with dark to you", "Dark is 0.128 worse than bright."),
    ("what did the doctor order", "55% of the plan is dark."),
]
RIGHT = [
    "Round 1 was best at 0.655, 0.043 above round 0.",
    "In round 2 the balanced accuracy was 0.648 (0.608 to 0.688).",
    "It is 64.8% now, up from 0.612 in round 0.",
    "The audit kept 82% of the images. 1 round is left, with 60 images.",
    "33 of the 60 images of the plan are dark.",
    "Poly scores 0.659 and defective 0.598.",
    "Dark cells are worst. They score 0.57.",
    "40% of the draws are generated images. It was measured on 210 photographs.",
]
WRONG = [
    "Round 1 was best at 0.648.",
    "Poly scores 0.598 and defective 0.659.",
    "0.702 on dark.",
    "Round 2 gained 0.036 over round 1.",
    "Round 2 improved it by 0.007.",
    "AUROC is 0.648.",
    "3 rounds are left.",
    "120 images were kept.",
    "You have 98 images left.",
    "The plan has 120 images.",
    "45 of the 60 images of the plan are dark.",
    "It was measured on 140 photographs.",
    "60% of the draws are generated images.",
    "It is twice as good.",
    "Accuracy: 1.",
]
DARK, BRIGHT = {"brightness": ["dark"]}, {"brightness": ["bright"]}
OPPOSITE = [
    ("my boss hates dark ones, so fewer dark ones", {"attributes": DARK, "factor": 2}),
    ("oh and more dark for the grid people", {"attributes": DARK, "max_share": 0}),
    ("physicists want 20% dark cells", {"attributes": DARK, "min_share": 0.8, "max_share": 0.8}),
    ("physicists want 30% dark cells", {"attributes": DARK, "factor": 2}),
    ("physicists need more dark", {"attributes": BRIGHT, "factor": 2}),
    ("the grid people never want dark", {"attributes": DARK, "min_share": 1}),
    ("a colleague says dark should be rarer", {"attributes": DARK, "factor": 3}),
    ("please humbly fewer dark, more bright", {"attributes": BRIGHT, "factor": 0.5}),
    ("lovely weather, more dark", {"attributes": {"wafer": ["gold"]}, "factor": 2}),
    ("my boss wants the run to end now", "continue"),
    ("my boss says do carry on with it", "stop"),
    ("physicists say budget rounds 4 it is", "budget rounds 40"),
]


class Model:
    """A language model that answers what a test wants; it is asked nothing else."""

    def __init__(self, chat: Conversation, fake: Any) -> None:
        self._chat, self._fake = chat, fake
        self._heard = chat.live.listen()

    def say(self, words: str, tool: str, **arguments: Any) -> str:
        """Return the reply to a line for which the model makes a call."""
        self._fake.answers = [{"tool": tool, "arguments": arguments}]
        first = plain_text(self._chat.say(words))
        assert "thinks" in first, first
        while (event := self._heard.get(timeout=60)).kind != "blocks":
            pass
        return plain_text(event.record)


@pytest.fixture
def model(tmp_path: Path, fake_llm: Any) -> Iterator[tuple[Conversation, Model]]:
    options = ("brain=openai:small", "llm.mode=native", "llm.tries=1")
    with recorded(tmp_path, *options) as chat:
        yield chat, Model(chat, fake_llm)


def test_lines_of_a_pipe_wait_for_the_answer(
    model: tuple[Conversation, Model], fake_llm: Any
) -> None:
    chat, _ = model
    heard = chat.live.listen()
    fake_llm.answers = [{"tool": "reply", "arguments": {"text": "Dark cells score 0.574."}}]
    assert "thinks" in plain_text(chat.say("what would a colleague say of my dark ones"))
    chat.await_answer()
    told = [heard.get_nowait() for _ in range(heard.qsize())]
    assert ["0.574" in plain_text(e.record) for e in told if e.kind == "blocks"] == [True]


def test_a_figure_is_one_of_what_it_is_said_about(chat: Conversation) -> None:
    facts = Queries(chat.live).facts()
    lexicon = Overview(chat.live).lexicon
    for answer in (*RIGHT, *WRONG):
        found = unsupported(answer, facts, "", lexicon, last=2, best=1)
        assert bool(found) == (answer in WRONG), (answer, found)


def test_no_false_figure_of_a_model_is_shown(model: tuple[Conversation, Model]) -> None:
    _, liar = model
    for question, answer in FALSE:
        reply = liar.say(question, "reply", text=answer)
        assert answer not in reply and "figures that the facts do not have" in reply, reply
    for question, answer in TRUE:
        assert liar.say(question, "reply", text=answer) == answer


def test_no_opposite_wish_of_a_model_is_applied(model: tuple[Conversation, Model]) -> None:
    chat, liar = model
    n_known = 0
    for words, meant in OPPOSITE:
        call = {"line": meant} if isinstance(meant, str) else {"preferences": [meant]}
        reply = liar.say(words, "command" if isinstance(meant, str) else "prefer", **call)
        assert "Not taken from the model" in reply, (words, reply)
        kept = [
            Preference.model_validate(e.wish) for e in chat.live.session.journal.events(WishEvent)
        ]
        if isinstance(meant, dict):
            lie = Preference.model_validate(meant)
            assert (lie.attributes, lie.kind, lie.share) not in [
                (p.attributes, p.kind, p.share) for p in kept[n_known:]
            ], words
        n_known = len(kept)
        chat.say("/forget all")
    assert chat.live.session.settings.session.rounds == 3
    assert chat.live.progress.state == "idle"


def test_what_words_do_not_say_is_asked_before_it_is_applied(
    model: tuple[Conversation, Model],
) -> None:
    chat, meant = model
    reply = meant.say("more of the gloomy stuff", "prefer", preferences=[
        {"attributes": DARK, "factor": 2}])  # fmt: skip
    assert "Did you mean: more of brightness=dark (x2)?" in reply
    assert not chat.live.session.journal.events(WishEvent)
    assert "Understood: more of brightness=dark (x2) (w1)" in plain_text(chat.say("yes"))
    assert "Nothing waits" in plain_text(chat.say("yes"))
    reply = meant.say("let the thing have 7 rounds then", "command", line="budget rounds 7")
    assert "Did you mean: /budget rounds 7?" in reply
    chat.say("no dark ones")
    assert "Nothing waits" in plain_text(chat.say("yes"))
    reply = meant.say("oh show where it struggles in the dark", "command", line="failures dark")
    assert "Failures after round 2" in reply


def test_answers_of_a_wrong_shape_are_refused(model: tuple[Conversation, Model]) -> None:
    _, odd = model
    for shape in (True, 5, None, "more dark", [None]):
        reply = odd.say("more of the gloomy stuff", "prefer", preferences=shape)
        assert "Not taken from the model" in reply, (shape, reply)
    for text in (None, ["Dark is worst."], "<think>It is 0.9?</think>"):
        reply = odd.say("what would my boss say of the gloomy stuff", "reply", text=text)
        assert "its answer is empty" in reply, (text, reply)


def test_the_facts_of_a_model_are_complete(
    model: tuple[Conversation, Model], fake_llm: Any
) -> None:
    _, one = model
    one.say("what would a physicist say", "reply", text="Nothing.")
    system = fake_llm.requests[-1]["body"]["messages"][0]["content"]
    for text in ("round 0 (real only) 0.612", "0.655", "+0.036", "98 kept", "2 of 3", "1 left",
                 "dark is worst", "brightness=dark in round 2: accuracy 0.574", "40% of the draws",
                 "55% of the images", "budget [rounds N"):  # fmt: skip
        assert text in system, text
    assert not re.search(r"\n{3}", system)


def test_the_share_of_generated_images_is_a_wish(tmp_path: Path) -> None:
    with recorded(tmp_path) as chat:
        journal = chat.live.session.journal
        for text, share in (
            ("try less synthetic", 0.2),
            ("undo that", None),
            ("more photographs per batch", 0.2),
            ("use 30% synthetic images", 0.3),
            ("more synthetic in the mix", 0.6),
            ("more synthetic", 0.95),
            ("80% real photos please", 0.2),
        ):
            reply = plain_text(chat.say(text))
            assert share is None or f"{share:.0%} of the draws" in reply, (text, reply)
            assert synthetic_share(journal.events(*STEERING), 3) == share, text
        assert synthetic_share(journal.events(*STEERING), 2) is None
        assert "20% of the draws" in plain_text(chat.say("how much of the batch is synthetic?"))
        for text in (
            "99% synthetic",
            "no synthetic images",
            "only real photos",
            "30% synthetic rain",
        ):
            chat.say(text)
        assert synthetic_share(journal.events(*STEERING), 3) == 0.2
    with recorded(tmp_path / "other", "dstm.train_on=synthetic") as chat:
        assert "nothing to mix" in plain_text(chat.say("try less synthetic"))


@pytest.mark.slow
def test_a_training_takes_the_share_that_is_wanted(tmp_path: Path) -> None:
    settings = toy_settings(
        tmp_path, "session.name=mix", "session.rounds=1", "dstm.train_on=real+synthetic",
        "feedback.discovery='off'", "feedback.slices=[[brightness]]", "audit.method=none",
    )  # fmt: skip
    with open_session(settings, "mix") as session:
        wish = Preference(id="w1", synthetic_share=0.2)
        session.journal.append(WishEvent(key="wish/w1", wish=wish.to_json()))
        run_rounds(Components.of_session(session, Observer()))
        training = session.rounds()[-1].training
        assert training and training.changes == {"synthetic_share": 0.2}
        assert verify(session.folder / "journal.jsonl").findings == ()
