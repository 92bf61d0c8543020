"""Plain words: what is understood, and what is said not to be."""

from __future__ import annotations

import random

import pytest

from agent.steering.grammar import Understood, understand
from agent.steering.lexicon import Lexicon
from prompts.own_words import own_vocabulary
from prompts.vocabulary import load_vocabulary

ELPV = Lexicon(load_vocabulary("elpv"))
STREETS = Lexicon(load_vocabulary("streets"))


@pytest.mark.parametrize(
    ("text", "wishes"),
    [
        ("more dark poly cells", [("more", {"brightness": "dark", "wafer": "poly"}, 2)]),
        (
            "More defective, a bit fewer with a large dark area on the left.",
            [
                ("more", {"severity": "defective"}, 2),
                ("fewer", {"dark_area": "large", "where": "left"}, 1.5),
            ],
        ),
        ("only mono please", [("only", {"wafer": "mono"}, 2)]),
        ("no more bright ones", [("avoid", {"brightness": "bright"}, 2)]),
        ("don't draw cells with two busbars", [("avoid", {"busbars": "two"}, 2)]),
        ("focus on poly with low contrast", [("focus", {"wafer": "poly", "contrast": "low"}, 2)]),
        (
            "much more dark cells without dark areas",
            [("more", {"brightness": "dark", "dark_area": "none"}, 3)],
        ),
        ("only small or large dark areas", [("only", {"dark_area": "small|large"}, 2)]),
        (
            "avoid brightness=dark wafer=mono",
            [("avoid", {"brightness": "dark", "wafer": "mono"}, 2)],
        ),
        (
            "no dark ones and more bright ones",
            [("avoid", {"brightness": "dark"}, 2), ("more", {"brightness": "bright"}, 2)],
        ),
    ],
)
def test_wishes(text: str, wishes: list[tuple[str, dict[str, str], float]]) -> None:
    found = understand(text, ELPV)
    said = [
        (m.kind, {k: "|".join(v) for k, v in m.attributes.items()}, m.strength)
        for m in found.wishes
    ]
    assert said == wishes
    assert found.unknown == ()


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("Where does it fail?", "failures"),
        ("stop after this round", "stop round"),
        ("pause", "pause"),
        ("Show me.", "show"),
        ("show me the dark mono cells", "show the dark mono cells"),
        ("Why did you choose that?", "why"),
        ("how is it going?", "status"),
        ("show me the failures", "failures"),
        ("which cells are worst?", "failures"),
        ("why is it bad on dark cells?", "failures brightness=dark"),
        ("why row 2?", "why 2"),
        ("what changed since round 2?", "changes 2"),
        ("did it get better?", "changes"),
        ("what does it cost?", "budget"),
        ("how long will it take?", "budget"),
        ("go on for 3 rounds", "continue 3"),
        ("one more round please", "continue 1"),
        ("stop after round 5", "budget rounds 5"),
        ("60 images per round", "budget images 60"),
        ("fewer images", "budget images"),
        ("run until the accuracy is above 0.7", "budget score 0.7"),
        ("stop at 70%", "budget score 0.7"),
        ("do not spend more than 30 minutes", "budget hours 0.5"),
        ("undo that", "back"),
        ("forget everything", "forget all"),
        ("forget the dark ones", "forget dark ones"),
        ("what are my wishes?", "status"),
        ("yes, looks good", "approve"),
        ("don't stop", "continue"),
        ("run until tomorrow morning", "budget time"),
        ("what is the balanced accuracy?", "status"),
        ("no", "reject"),
        ("remove row 2", "edit 2 remove"),
        ("set row 1 to 12 images", "edit 1 count 12"),
        ("ok", "approve"),
    ],
)
def test_commands(text: str, command: str) -> None:
    assert understand(text, ELPV) == Understood(command=command)


@pytest.mark.parametrize(
    ("text", "wishes"),
    [
        ("I don't want any more night scenes", ["avoid light=night"]),
        ("nothing at night", ["avoid light=night"]),
        ("everything except night", ["avoid light=night"]),
        ("all but snow", ["avoid weather=snow"]),
        ("stop with the rain", ["avoid weather=rain"]),
        ("neither rain nor fog", ["avoid weather=rain", "avoid weather=fog"]),
        ("too much rain", ["fewer x2 weather=rain"]),
        ("rain should be rarer", ["fewer x2 weather=rain"]),
        ("there's not enough rain", ["more x2 weather=rain"]),
        ("no cars", ["only traffic=empty"]),
        ("I'd like more foggy nights with lots of pedestrians",
         ["more x2 weather=fog light=night pedestrians=many"]),
        ("could we have more rain?", ["more x2 weather=rain"]),
        ("twice as many rainy ones", ["more x2 weather=rain"]),
        ("three times as much fog", ["more x3 weather=fog"]),
        ("half as much fog", ["fewer x2 weather=fog"]),
        ("20% more rain", ["more x1.2 weather=rain"]),
        ("20% rain", ["20% weather=rain"]),
        ("half of them at dusk", ["50% light=dusk"]),
        ("increase rain to 40%", ["40% weather=rain"]),
        ("at least 30% night, no more than 12.5 % fog",
         ["at_least 30% light=night", "at_most 12.5% weather=fog"]),
        ("everything at night", ["only light=night"]),
        ("0% snow", ["avoid weather=snow"]),
        ("fog instead of rain", ["more x2 weather=fog", "fewer x2 weather=rain"]),
        ("replace rain with fog", ["more x2 weather=fog", "avoid weather=rain"]),
    ],
)  # fmt: skip
def test_wishes_with_negations_and_numbers(text: str, wishes: list[str]) -> None:
    found = understand(text, STREETS)
    said = []
    for m in found.wishes:
        how = f"x{m.strength:g} " if m.kind in ("more", "fewer") else ""
        kind = "" if m.kind == "share" else f"{m.kind} "
        share = "" if m.share is None else f"{m.share:.3g}"
        share = share and f"{float(share):.1%} ".replace(".0%", "%")
        said.append(
            kind + how + share + " ".join(f"{k}={'|'.join(v)}" for k, v in m.attributes.items())
        )
    assert said == wishes
    assert not found.unknown and not found.unclear and not found.topics


@pytest.mark.parametrize(
    "text",
    ["not only rain", "don't avoid rain", "we don't need more rain", "not more rain", "enough rain",
     "120% rain", "10 more images of rain"],
)  # fmt: skip
def test_what_can_mean_several_things_is_no_wish(text: str) -> None:
    found = understand(text, STREETS)
    assert not found.wishes
    assert [values for _, values in found.unclear] == [{"weather": ("rain",)}]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("should I add more fog?", {"weather": ("fog",)}),
        ("is more rain better?", {"weather": ("rain",)}),
        ("what about night?", {"light": ("night",)}),
        ("what is a slice?", None),
    ],
)
def test_a_question_wishes_nothing(text: str, named: dict[str, tuple[str, ...]] | None) -> None:
    assert understand(text, STREETS) == Understood(bare=named, question=True)


def test_an_attribute_without_a_value_is_asked_back() -> None:
    assert understand("more rain and fewer pedestrians", STREETS).topics == {
        "pedestrians": "pedestrians"
    }
    found = understand("more cars at night", STREETS)
    assert (found.wishes, found.topics) == ((), {"cars": "traffic"})
    assert [m.attributes for m in found.half] == [{"light": ("night",)}]
    assert understand("more light", STREETS).topics == {"light": "light"}
    assert understand("many rainy scenes", STREETS).bare == {"weather": ("rain",)}


def test_what_is_to_be_absent_may_be_a_value() -> None:
    for text in ("no dark areas", "no more dark areas", "never dark areas"):
        found = understand(text, ELPV)
        assert [(m.kind, m.attributes) for m in found.wishes] == [
            ("only", {"dark_area": ("none",)})
        ], text
    found = understand("no large dark areas", ELPV)
    assert [(m.kind, m.attributes) for m in found.wishes] == [("avoid", {"dark_area": ("large",)})]


def test_harder_data_are_no_wish() -> None:
    for text in ("make it harder", "more of what fails", "improve it"):
        assert understand(text, STREETS).vague


OWN = Lexicon(
    own_vocabulary(
        "mine",
        ["Äpfel", "blue mug", "STOP-sign", "tennis ball", "Traffic Cone"],
        {"brightness": ["dark", "medium", "bright"], "colour": ["pale", "medium", "vivid"]},
    )
)


@pytest.mark.parametrize(
    ("text", "wishes"),
    [
        ("only STOP signs please", [("only", {"class": "stop-sign"})]),
        ("more Äpfel, fewer mugs",
         [("more", {"class": "äpfel"}), ("fewer", {"class": "blue-mug"})]),
        ("focus on the dark tennis balls",
         [("focus", {"class": "tennis-ball", "brightness": "dark"})]),
        ("more traffic-cones and stop-signs", [("more", {"class": "traffic-cone|stop-sign"})]),
        ("focus on class=traffic cone brightness=dark",
         [("focus", {"class": "traffic-cone", "brightness": "dark"})]),
    ],
)  # fmt: skip
def test_classes_are_named_as_people_write_them(
    text: str, wishes: list[tuple[str, dict[str, str]]]
) -> None:
    found = understand(text, OWN)
    assert [(m.kind, {k: "|".join(v) for k, v in m.attributes.items()}) for m in found.wishes] == [
        (kind, said) for kind, said in wishes
    ]
    assert found.unknown == ()


FRUIT = Lexicon(
    own_vocabulary(
        "fruit",
        ["red apple", "green apple", "Tomato", "Cherry", "leaf", "insects 1", "person", "knife"],
        {
            "brightness": ["dark", "medium", "bright"],
            "ripe": ["yes", "no"],
            "verkauft": ["ja", "nein"],
        },
    )
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("more dark apples", {"brightness": "dark", "class": "green-apple|red-apple"}),
        ("more red apples", {"class": "red-apple"}),
        ("more tomatoes and cherries", {"class": "tomato|cherry"}),
        ("more bright leaves", {"brightness": "bright", "class": "leaf"}),
        ("more knives", {"class": "knife"}),
        ("more insects", {"class": "insects-1"}),
        ("more dark people, thanks", {"brightness": "dark", "class": "person"}),
        ("more ripe tomatoes", {"ripe": "yes", "class": "tomato"}),
        ("more tomatoes that are not ripe", {"ripe": "no", "class": "tomato"}),
        ("more verkauft", {"verkauft": "ja"}),
    ],
)
def test_plurals_parts_of_names_and_yes_or_no(text: str, said: dict[str, str]) -> None:
    found = understand(text, FRUIT)
    assert [{k: "|".join(v) for k, v in m.attributes.items()} for m in found.wishes] == [said]
    assert found.unknown == ()


def test_the_class_of_a_prompt_may_be_said_in_another_number() -> None:
    birds = Lexicon(own_vocabulary("birds", ["birds", "red fruit"], {}))
    assert birds.class_of("a dark photograph of a bird") == "birds"
    assert birds.class_of("many fruits") == "red-fruit"
    assert birds.class_of("birds and fruits") is None
    assert birds.class_of("a dark cell") is None


def test_a_wish_is_not_taken_without_the_words_that_narrow_it() -> None:
    found = understand("more dark bananas, fewer tomatoes", FRUIT)
    assert [(m.kind, m.attributes) for m in found.wishes] == [("fewer", {"class": ("tomato",)})]
    assert found.unknown == ("bananas",)
    assert [(m.kind, m.attributes) for m in found.half] == [("more", {"brightness": ("dark",)})]


def test_what_is_not_understood_is_said_with_near_words() -> None:
    found = understand("More wet nights, fewer crowds.", STREETS)
    assert [(m.kind, m.attributes) for m in found.wishes] == [
        ("more", {"weather": ("rain",), "light": ("night",)})
    ]
    assert found.unknown == ("crowds",)
    assert STREETS.near(found.unknown) == ["crowded"]


def test_a_value_of_several_attributes_is_asked_back() -> None:
    assert understand("more medium cells", ELPV).unknown == ("medium",)
    assert ELPV.meanings("medium") == ["brightness=medium", "contrast=medium"]
    assert ELPV.meanings("dark") == []


def test_values_without_a_verb_are_no_wish() -> None:
    found = understand("dark poly", ELPV)
    assert not found.wishes
    assert found.bare == {"brightness": ("dark",), "wafer": ("poly",)}


def test_any_text_is_survived() -> None:
    rng = random.Random(0)
    alphabet = (
        "ab more no only . , ; = | x [] <b> \x00\x1b \u202e \U0001f600 dark poly ( ) * \\ + ?"
    )
    for _ in range(300):
        text = "".join(rng.choice(alphabet.split(" ")) + " " for _ in range(rng.randrange(30)))
        understand(text, ELPV)
