"""Texts of several clauses: commands beside preferences, and several questions."""

from __future__ import annotations

import pytest

from agent.steering.clauses import parse
from agent.steering.lexicon import Lexicon
from agent.steering.preferences import opposed
from prompts.vocabulary import load_vocabulary

ELPV = Lexicon(load_vocabulary("elpv"))


@pytest.mark.parametrize(
    ("text", "commands", "wishes"),
    [
        ("5 rounds and more dark cells", ["continue 5"], ["more dark"]),
        ("more dark ones and then run 2 rounds", ["continue 2"], ["more dark"]),
        ("run 2 more rounds with more dark", ["continue 2"], ["more dark"]),
        ("do another 2 rounds then stop, no bright", ["continue 2"], ["avoid bright"]),
        ("more dark and stop after this round", ["stop round"], ["more dark"]),
        ("pause and avoid dark", ["pause"], ["avoid dark"]),
        ("can you do 5 rounds and more dark?", ["continue 5"], ["more dark"]),
        ("forget the bright ones and more dark", ["forget bright ones"], ["more dark"]),
        ("never mind, forget the bright ones", ["forget bright ones"], []),
        ("go back one round", ["undo"], []),
        ("undo the last round", ["undo"], []),
        ("increase the number of images to 40", ["budget images 40"], []),
        ("use 60% photographs and 40% synthetic", ["synthetic 40%"], []),
        ("show dark more often", [], ["more dark"]),
        ("where's my model?", ["files"], []),
        ("which prompt helped the most?", ["prompts best"], []),
        ("30% synthetic, only dark", ["synthetic 30%"], ["only dark"]),
        ("more dark, where does it fail?", ["failures"], ["more dark"]),
        ("where does it fail and why?", ["failures", "why"], []),
        ("only dark, 80 images per round, 4 rounds in total",
         ["budget images 80", "budget rounds 4"], ["only dark"]),
        ("more dark because it fails there, stop at 0.8", ["budget score 0.8"], ["more dark"]),
        ("no, more dark", ["reject"], ["more dark"]),
        ("yes but fewer dark", [], ["fewer dark"]),
        ("ok but remove row 3", ["edit 3 remove"], []),
        ("looks good, but only 20 images", ["budget images 20"], []),
        ("yes and undo the last round", ["undo"], []),
        ("remove row 3 and remove row 5", ["edit 5 remove", "edit 3 remove"], []),
    ],
)  # fmt: skip
def test_commands_and_preferences_of_one_sentence(
    text: str, commands: list[str], wishes: list[str]
) -> None:
    result = parse(text, ELPV)
    assert result.is_exact, result
    assert [c for c in (result.command, *result.beside) if c] == commands
    assert [f"{p.kind} {p.attributes['brightness'][0]}" for p in result.preferences] == wishes


@pytest.mark.parametrize(
    "text",
    [
        "should I stop and more dark?",
        "more dark and 5 rounds?",
        "5 rounds and more gloomy",
        "stop if it gets worse and more dark",
        "mono only for dark",
        "poly more in dark",
        "dark but no poly",
        "pause and continue",
        "5 rounds and 3 rounds",
        "how do dark and bright compare?",
    ],
)
def test_questions_and_what_is_half_understood_are_no_orders(text: str) -> None:
    result = parse(text, ELPV)
    assert result.command in (None, "worth") and not result.preferences
    assert not (result.beside and result.is_exact)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("darker please", "more"),
        ("too dark", "fewer"),
        ("not so dark", "fewer"),
        ("dark down", "fewer"),
        ("hardly any dark ones", "fewer"),
        ("mostly dark", "focus"),
        ("10% dark max", "at_most"),
        ("same as before but more dark", "more"),
        ("maybe more dark", "more"),
        ("either more dark or more bright", ""),
        ("first more dark, then more bright", ""),
        ("more dark in the next round only", ""),
        ("not dark, bright", ""),
    ],
)
def test_kinds_of_phrasing(text: str, kind: str) -> None:
    assert [p.kind for p in parse(text, ELPV).preferences] == [kind] * bool(kind)


def test_what_no_plan_can_follow_at_once_is_opposed() -> None:
    for text, is_opposed in (
        ("less dark but more dark", True),
        ("only dark, fewer dark", True),
        ("at least 30% dark, at most 10% dark", True),
        ("at least 10% dark, at most 30% dark", False),
        ("at least 10% dark, fewer dark", False),
        ("more dark, more bright", False),
    ):
        one, other = parse(text, ELPV).preferences
        assert opposed(one, other) == is_opposed == opposed(other, one), text
