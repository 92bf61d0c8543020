from __future__ import annotations

import itertools
import random

import pytest
from pydantic import ValidationError

from prompts.user_vocabulary import plain, value_of
from prompts.vocabulary import Vocabulary, load_vocabulary

ELPV = load_vocabulary("elpv")


def legal_combinations() -> list[dict[str, str]]:
    """Return every legal way to give or leave out each attribute."""
    choices = [[None, *values] for values in ELPV.attributes.values()]
    every = (
        {key: value for key, value in zip(ELPV.attributes, values, strict=True) if value}
        for values in itertools.product(*choices)
    )
    return [attributes for attributes in every if not ELPV.problems(attributes)]


def small(**changes: object) -> Vocabulary:
    plain: dict[str, object] = {
        "name": "streets",
        "subjects": ["street"],
        "class_attribute": "sky",
        "classes": ["day", "night"],
        "class_of": {"sun": "day", "moon": "night"},
        "attributes": {
            "sky": {"sun": {"adjective": ["sunny"]}, "moon": {"clause": ["by moonlight"]}},
            "age": {"old": {"adjective": ["old", "very old"]}},
        },
    }
    return Vocabulary.model_validate(plain | changes)


def test_every_canonical_caption_says_what_it_was_made_from() -> None:
    combinations = legal_combinations()
    assert len(combinations) > 5000
    captions = [ELPV.caption(attributes) for attributes in combinations]
    assert len(set(captions)) == len(captions)
    for index in random.Random(0).sample(range(len(captions)), 1000):
        assert ELPV.parse(captions[index]) == combinations[index]


def test_the_order_of_attributes_does_not_change_a_caption() -> None:
    attributes = {"where": "left", "dark_area": "large", "wafer": "poly"}
    assert ELPV.caption(attributes) == ELPV.caption(dict(sorted(attributes.items())))


def test_every_paraphrase_says_the_same() -> None:
    rng = random.Random(0)
    combinations = legal_combinations()
    for attributes in rng.sample(combinations, 1000):
        assert ELPV.parse(ELPV.caption(attributes, rng)) == attributes


def test_paraphrases_vary_and_are_seeded() -> None:
    attributes = {"wafer": "poly", "severity": "defective", "dark_area": "large", "where": "left"}
    said = [ELPV.caption(attributes, random.Random(seed)) for seed in range(50)]
    assert len(set(said)) > 30
    assert said[7] == ELPV.caption(attributes, random.Random(7))


def test_captions_read_well() -> None:
    attributes = {"wafer": "poly", "brightness": "dark", "dark_area": "large", "where": "left"}
    assert ELPV.caption(attributes) == (
        "a polycrystalline dark solar cell, with a large dark area on the left"
    )
    assert ELPV.caption({}) == "a solar cell"
    assert small(subjects=["avenue"]).caption({}) == "an avenue"
    assert small().caption({"age": "old", "sky": "moon"}) == "an old street, by moonlight"


@pytest.mark.parametrize(
    ("text", "attributes"),
    [
        ("Dark  POLY\ncell", {"wafer": "poly", "brightness": "dark"}),
        ("a probably functional cell", {"severity": "suspect"}),
        ("a cell with a large dark area", {"dark_area": "large"}),
        ("a bright cell, not dark", {"brightness": "bright"}),
        ("a polyester darkroom", {}),
        ("a cell without dark areas on the left", {"dark_area": "none"}),
        ("", {}),
    ],
)
def test_free_text_is_understood_as_far_as_it_goes(text: str, attributes: dict[str, str]) -> None:
    assert ELPV.parse(text) == attributes


def test_the_longest_phrase_wins() -> None:
    values = {"old": {"adjective": ["old"]}, "ancient": {"adjective": ["very old"]}}
    attributes = {"sky": {"sun": {"adjective": ["sunny"]}}, "age": values}
    vocabulary = small(attributes=attributes, class_of={"sun": "day"})
    assert vocabulary.parse("a very old street") == {"age": "ancient"}
    assert vocabulary.parse("an old street") == {"age": "old"}


def test_foreign_words_are_those_of_no_phrase() -> None:
    text = "An old, DARK poly cell with snow; snow and rust-red busbars, medium-bright, not intact"
    assert ELPV.foreign_words(text) == ["old", "snow", "rust-red", "not"]
    assert ELPV.foreign_words("") == []
    assert ELPV.foreign_words("a dark area") == []


def test_the_grammar_uses_no_foreign_words() -> None:
    rng = random.Random(0)
    for attributes in rng.sample(legal_combinations(), 200):
        assert ELPV.foreign_words(ELPV.caption(attributes, rng)) == []


def test_problems_name_the_fault_and_what_is_known() -> None:
    assert ELPV.problems({"wafer": "poly", "dark_area": "small", "where": "top"}) == []
    (unknown_key,) = ELPV.problems({"colour": "red"})
    assert "unknown attribute 'colour'" in unknown_key and "wafer" in unknown_key
    (unknown_value,) = ELPV.problems({"wafer": "glass"})
    assert "'glass'" in unknown_value and "mono, poly" in unknown_value
    needs = "'where' needs 'dark_area' to be small or large"
    assert ELPV.problems({"where": "top"}) == [needs]
    assert ELPV.problems({"where": "top", "dark_area": "none"}) == [needs]


def test_attributes_imply_a_class() -> None:
    assert ELPV.class_name({"severity": "suspect"}) == "functional"
    assert ELPV.class_name({"severity": "probable", "wafer": "mono"}) == "defective"
    assert ELPV.class_name({"wafer": "mono"}) is None
    assert set(ELPV.class_of.values()) == set(ELPV.classes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"class_of": {"sun": "day"}}, "exactly the values of 'sky'"),
        ({"class_of": {"sun": "day", "moon": "dusk"}}, "not in classes"),
        ({"attributes": {"sky": {"sun": {}, "moon": {}}}}, "at least one"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_inconsistent_vocabularies_are_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        small(**changes)


def test_a_noun_takes_the_place_of_the_subject() -> None:
    vocabulary = Vocabulary.model_validate(
        {
            "name": "pets",
            "subjects": ["photograph"],
            "class_attribute": "kind",
            "classes": ["Cat", "Dog"],
            "class_of": {"cat": "Cat", "dog": "Dog"},
            "attributes": {
                "kind": {k: {"noun": [f"photograph of a {k}", k]} for k in ("cat", "dog")},
                "light": {"dark": {"adjective": ["dark"]}, "even": {"clause": ["in even light"]}},
            },
        }
    )
    assert vocabulary.caption({"kind": "cat", "light": "dark"}) == "a dark photograph of a cat"
    assert vocabulary.caption({"light": "even"}) == "a photograph, in even light"
    assert vocabulary.parse("a dark dog") == {"kind": "dog", "light": "dark"}


@pytest.mark.parametrize(
    "names", [("कुत्ता", "बिल्ली", "बिल्ला"), ("பல்", "பால்"), ("แมว", "หมา"), ("naïve", "naive")]
)
def test_names_in_scripts_with_marks_stay_whole(names: tuple[str, ...]) -> None:
    assert [plain(name) for name in names] == list(names)
    assert len({value_of(name) for name in names}) == len(names)
