"""Statements without figures: those of the records are shown, all others are withheld.

Figures are those of `tests.agent.chat.recorded`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.chat.claims import unsupported_claims
from agent.chat.conversation import Conversation
from agent.chat.figures import unsupported
from agent.chat.overview import Overview
from agent.chat.queries import Queries
from eval.report.blocks import plain_text
from tests.agent.chat.recorded import recorded

PIXELS = {"car": (0.41, 0.44, 0.47), "pedestrian": (0.22, 0.2, 0.18)}
TRUE = [
    "It is true that dark did not get worse.",
    "Dark improved, not significantly.",
    "Dark cells are the weakest slice: 0.574 in round 2, although they improved since round 0.",
    "The plan puts most images on dark cells because dark is worst.",
    "Balanced accuracy peaked in round 1 and fell slightly in round 2.",
    "Yes. Since round 0, accuracy went up.",
    "The images help over photographs alone, but the last round did not improve the score.",
    "No, another round is not recommended.",
    "It is not worth it: the last round was not better than round 1.",
    "Dark needs more images, since it is the worst slice.",
    "The model does poorly on dark cells and well on bright ones.",
    "Bright is fine; dark is the problem.",
    "I would add more dark images.",
    "The audit rejected 22 of 120 images.",
    "Poly improved over the photographs alone.",
    "Dark has improved in both rounds.",
    "Dark went from 0.512 to 0.574.",
    "There is 1 round left.",
    "You asked for fewer dark images.",
    "The weakest class is pedestrian.",
    "Car improved in every round.",
    "The pedestrian IoU dropped from 0.22 to 0.18.",
    "More synthetic images are used now than before.",
    "More bright images might help poly recover.",
    "If it gets worse, stop.",
    "Dark improved.",
    "Dark cells improved since round 0.",
    "Dark is the worst.",
    "Dark and defective are the worst slices.",
    "Bright is the best slice.",
    "Bright did not improve.",
    "Bright got slightly worse in round 2.",
    "Round 1 was the best.",
    "Round 1 was the best at 0.655, 0.043 above round 0.",
    "The last round did not help.",
    "The last round was not the best.",
    "The images helped since the start.",
    "Accuracy fell in the last round.",
    "Dark is worse than bright.",
    "Bright cells are easier than dark ones.",
    "Poly is worse than bright but better than dark.",
    "Dark is worse than the rest.",
    "More dark images could help.",
    "Another round is not worth it.",
    "Not all images were kept.",
    "It rose from 0.612 to 0.655 in round 1.",
    "Overall it improved slightly over round 0.",
    "Defective is the worst class.",
    "The change in the last round is not significant.",
    "Dark improved while bright got worse.",
    "Try more fog.",
    "In round 1 all slices improved.",
    "The plan has more dark than before.",
    "Dark is the weakest spot, and it has been improving.",
    "The model is weakest on dark cells.",
    "It fails most on dark.",
    "Bright remains the strongest.",
    "The best result came in round 1.",
    "Round 2 did not beat round 1.",
    "Dark got better each round.",
    "Poly dropped in round 2.",
    "Neither bright nor poly improved in round 2.",
    "None of the classes is perfect.",
    "Dark cells are the hardest.",
    "The model struggles with dark cells.",
    "Dark cells have the lowest accuracy.",
    "The audit rejected some images.",
    "Since round 1, dark improved.",
    "I don't know.",
    "Performance peaked in round 1.",
    "The score in round 2 is lower than in round 1.",
    "The car class is the best.",
    "Pedestrians got worse.",
    "Pedestrian is the worst class of pixels.",
]
FALSE = [
    "No doubt, dark got worse.",
    "Dark got worse, with no change in poly.",
    "Without a doubt dark got worse.",
    "Not only bright improved.",
    "Dark cells are getting weaker.",
    "The best slice is dark.",
    "The pedestrian class improved and is the best.",
    "Accuracy is at its peak now.",
    "The current round is the best so far.",
    "Things improved in round 2.",
    "We made progress in every round.",
    "The model improved each round.",
    "Dark overtook bright.",
    "Dark is on par with bright.",
    "The photographs alone were better.",
    "Round 0 was the best.",
    "The session is a success, every slice got better.",
    "Images hurt the model.",
    "The images were all rejected.",
    "Another round is recommended.",
    "You should do another round, it will help.",
    "Performance on dark is excellent.",
    "The improvement is statistically significant.",
    "The model no longer fails on dark.",
    "Bright cells fail most often.",
    "The most failures are on bright cells.",
    "The car class is the weakest.",
    "We can see that dark got worse.",
    "As expected, dark got worse.",
    "If you ask me, dark got worse.",
    "You should note that bright improved.",
    "Dark got worse.",
    "Dark fell in the last round.",
    "Bright is the worst.",
    "Defective is the worst slice.",
    "Dark is the best slice.",
    "Bright improved.",
    "Round 2 was the best.",
    "The last round helped.",
    "The last round was the best.",
    "The images did not help since the start.",
    "Accuracy rose in the last round.",
    "Dark is better than bright.",
    "Bright lags behind dark.",
    "Poly is better than bright.",
    "Another round is worth it.",
    "Another round will help.",
    "All images were kept.",
    "No images were rejected.",
    "Dark improved significantly.",
    "All slices improved.",
    "Nothing improved.",
    "Everything got better.",
    "Dark is unchanged.",
    "Accuracy is significantly better than round 0.",
    "The hypothesis was confirmed.",
    "Dark and bright improved.",
    "It improved a lot.",
    "Dark improved, bright did too and got better.",
    "Mono improved.",
    "More dark will fix it and improve accuracy.",
    "The last round hurt dark.",
    "Poly outperforms bright.",
    "The model struggles with bright cells.",
    "The model is weakest on bright cells.",
    "Dark has been getting worse.",
    "Things are looking up: accuracy climbed.",
    "The trend is positive.",
    "There was clear progress in the last round.",
    "Dark is no longer the worst.",
    "Poly is a problem.",
    "The model handles dark cells well.",
    "It keeps getting better.",
    "Bright surged.",
    "Accuracy peaked in round 2.",
    "We see a steady improvement.",
    "Dark is fixed.",
    "Performance went downhill since the start.",
    "Round 2 beats round 1.",
    "The second round was better than the first.",
    "The generated images made things worse.",
    "Accuracy doubled.",
    "Dark has the highest score.",
    "Bright is doing badly.",
    "Pedestrians improved.",
    "Car is the worst class.",
]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Conversation]:
    with recorded(tmp_path_factory.mktemp("home"), pixels=PIXELS) as conversation:
        yield conversation


def test_a_statement_is_one_of_the_records(chat: Conversation) -> None:
    overview = Overview(chat.live)
    past, lexicon = overview.rounds(), overview.with_pixel_classes()
    for answer in (*TRUE, *FALSE):
        found = unsupported_claims(answer, "", past, lexicon)
        assert bool(found) == (answer in FALSE), (answer, found)


def test_the_records_themselves_are_supported(chat: Conversation) -> None:
    overview = Overview(chat.live)
    past, lexicon = overview.rounds(), overview.with_pixel_classes()
    for fact in Queries(chat.live).facts():
        assert not unsupported_claims(fact, "", past, lexicon), fact


def test_figures_of_classes_of_pixels_are_theirs(chat: Conversation) -> None:
    overview = Overview(chat.live)
    facts, lexicon = Queries(chat.live).facts(), overview.with_pixel_classes()
    for answer, wrong in (
        ("Pedestrian is the worst class at 0.18, 0.040 below round 0.", []),
        ("Dark is worst at 0.57.", []),
        ("Dark is worst at 0.60.", ["0.60"]),
        ("The IoU of car is 0.18.", ["0.18"]),
    ):
        assert unsupported(answer, facts, "", lexicon, last=2, best=1) == wrong, answer


def test_it_stands_for_what_was_named_last(chat: Conversation) -> None:
    overview = Overview(chat.live)
    past, lexicon = overview.rounds(), overview.with_pixel_classes()
    for answer, question, is_false in (
        ("Bright has 80 photographs. It improved.", "", True),
        ("Dark has 80 photographs. It improved.", "", False),
        ("It got worse.", "how is bright?", False),
        ("It got worse.", "how is dark?", True),
    ):
        assert bool(unsupported_claims(answer, question, past, lexicon)) == is_false, answer


def test_classes_of_pixels_are_understood_in_questions(chat: Conversation) -> None:
    for text in ("how good is pedestrian?", "where does it fail on pedestrians?",
                 "/failures pedestrian"):  # fmt: skip
        reply = plain_text(chat.say(text))
        assert "pedestrian in round 2: IoU 0.180" in reply and "\N{MINUS SIGN}0.040" in reply, text
    assert "/failures pedestrian" in plain_text(chat.say("/show pedestrian"))
    assert "pedestrian" in plain_text(chat.say("which class is worst?"))


def test_false_statements_of_a_model_are_replaced(tmp_path: Path, fake_llm: Any) -> None:
    options = ("brain=openai:small", "llm.mode=native", "llm.tries=1")
    with recorded(tmp_path, *options) as chat:
        heard = chat.live.listen()
        for answer, shown, withheld, fact in (
            ("Bright improved. Dark is worst.", "Dark is worst.", "Bright improved", "0.702"),
            ("The last round helped.", "", "helped", "0.648"),
            ("Another round is worth it.", "", "worth", "no reason for another one"),
            ("All images were kept.", "", "were kept", "98 kept by the audit"),
        ):
            fake_llm.answers = [{"tool": "reply", "arguments": {"text": answer}}]
            chat.say("what would a physicist make of all that")
            while (event := heard.get(timeout=60)).kind != "blocks":
                pass
            reply = plain_text(event.record)
            assert shown in reply and fact in reply and withheld not in reply, reply
