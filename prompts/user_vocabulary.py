"""The vocabulary of a user's data set: its classes and attributes in generic phrases.

Names from the data set (folder names, cells of a table) are reduced to their words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from prompts.render import quote
from prompts.vocabulary import LETTER, Phrases, Vocabulary, load_vocabulary

CLASS = "class"
MAX_CHARACTERS = 40

_WORD = re.compile(rf"{LETTER}+(?:['.-]{LETTER}+)*")
_OTHERS = re.compile(LETTER.replace("[", "[^", 1) + "+")
YES = ("yes", "true", "ja", "oui")
NO = ("no", "false", "none", "nein", "non")
PLURALS = {
    "men": "man", "women": "woman", "people": "person", "children": "child", "mice": "mouse",
    "geese": "goose", "feet": "foot", "teeth": "tooth",
}  # fmt: skip
_ALWAYS_PLURAL = ("cattle",)
_SINGULAR_IN_S = ("lens", "canvas", "atlas", "christmas", "chaos", "bias")
# Pairs of values that stand for no and yes where a column has no other value.
_FLAGS: tuple[dict[str, str], ...] = (
    {"0": "no", "1": "yes"}, {"n": "no", "y": "yes"}, {"n": "no", "j": "yes"},
    {"f": "no", "t": "yes"},
)  # fmt: skip
# Missing values as spreadsheets and pandas write them.
_BLANKS = (
    "", "na", "n/a", "n.a.", "#n/a", "#na", "<na>", "nan", "-nan", "null", "unknown", "-", "?",
)  # fmt: skip
_AROUND = " \"'()[]{},:;"
# Shorter names on their own could be confused with other words of a sentence.
_MIN_LETTERS = 3


def plain(text: str) -> str:
    """Return the words of a text, separated by spaces and cut to 40 characters; "" without words.

    Underscores count as spaces. The text is normalised (NFC), so that equal names from different
    file systems are equal.
    """
    composed = unicodedata.normalize("NFC", text).replace("_", " ")
    return " ".join(_WORD.findall(composed))[:MAX_CHARACTERS].strip()


def value_of(text: str) -> str:
    """Return a text as an attribute value: words in lower case, joined by hyphens."""
    return "-".join(plain(text).lower().split())


def is_blank(text: str) -> bool:
    """Return whether a cell denotes a missing value, such as "NA"."""
    return text.strip().lower() in _BLANKS


def first_alike(texts: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two texts with the same value that differ in more than spelling.

    Case, spaces, underscores, hyphens and quotes count as spelling: "A+" and "A-" are returned,
    "Red_Kite" and "red kite" are not. None without such texts.
    """
    spelled: dict[str, tuple[str, str]] = {}
    for text in dict.fromkeys(texts):
        bare = unicodedata.normalize("NFKC", text).casefold().lstrip(_AROUND).rstrip(f"{_AROUND}.")
        bare = re.sub(r"(?<=\w)[-–](?=\w)|[\s_]", "", bare)  # noqa: RUF001
        other, spelling = spelled.setdefault(value_of(text), (text, bare))
        if spelling != bare:
            return other, text
    return None


def key_of(text: str) -> str:
    """Return a text as an attribute name: words in lower case, joined by underscores."""
    return _OTHERS.sub("_", plain(text).lower()).strip("_")


def user_vocabulary(
    name: str, classes: Sequence[str], attributes: Mapping[str, Sequence[str]]
) -> Vocabulary:
    """Build the vocabulary of a user's data set.

    Args:
        name: Name of the target.
        classes: Class names as `plain` returns them; empty where only pixels have classes.
        attributes: Values by attribute, as `key_of` and `value_of` return them. Attributes of the
            vocabulary `photographs` use its phrases.

    Raises:
        ValueError: A value cannot be recovered from its caption.
    """
    base = load_vocabulary("photographs")
    words: dict[str, dict[str, Phrases]] = {}
    if classes:
        words[CLASS] = {value_of(c): _class_phrases(c, base.subjects) for c in classes}
    for key, values in attributes.items():
        phrases = base.attributes.get(key, {})
        flag = next((flag for flag in _FLAGS if set(values) == set(flag)), {})
        if not set(values) <= set(phrases):
            phrases = {value: _phrases(key, flag.get(value, value)) for value in values}
        words[key] = {value: phrases[value] for value in values}
    vocabulary = Vocabulary(
        name=name,
        subjects=base.subjects,
        class_attribute=CLASS if classes else None,
        classes=tuple(classes) or ("scene",),
        class_of={value_of(c): c for c in classes},
        attributes=words,
    )
    _check(vocabulary)
    return vocabulary


def _class_phrases(name: str, subjects: Sequence[str]) -> Phrases:
    """Return the phrases of a class: "photograph of a NAME", and NAME alone if unambiguous.

    A plural alone is an adjective, which is parsed but never written: captions begin with "a".
    """
    word = name.lower()
    article = "an" if unicodedata.normalize("NFD", word)[0] in "aeiou" else "a"
    several = is_plural(word)
    nouns = [f"{subject} of {word if several else f'{article} {word}'}" for subject in subjects]
    reserved = {
        phrase
        for values in load_vocabulary("photographs").attributes.values()
        for phrases in values.values()
        for phrase in phrases.adjective
    }
    is_unambiguous = len(word) >= _MIN_LETTERS and not (
        {word, *word.split()} & {*reserved, *subjects}
    )
    alone = (word,) if is_unambiguous else ()
    return Phrases(noun=(*nouns, *(() if several else alone)), adjective=alone if several else ())


def is_plural(name: str) -> bool:
    """Return whether the last word of a name looks like an English plural."""
    word = name.lower().split()[-1]
    return word in (*PLURALS, *_ALWAYS_PLURAL) or (
        len(word) > _MIN_LETTERS
        and word.endswith("s")
        and not word.endswith(("ss", "us", "is"))
        and word not in _SINGULAR_IN_S
    )


def _phrases(key: str, value: str) -> Phrases:
    thing, value = key.replace("_", " "), value.replace("-", " ")
    if value in YES:
        return Phrases(clause=(f"with {thing}", f"that has {thing}"))
    if value in NO:
        return Phrases(clause=(f"without {thing}", f"that has no {thing}"))
    if value == "some":
        return Phrases(clause=(f"with some {thing}", f"that has some {thing}"))
    if value == "much":
        return Phrases(clause=(f"with much {thing}", f"with a lot of {thing}"))
    return Phrases(clause=(f"with {value} {thing}", f"whose {thing} is {value}"))


def _check(vocabulary: Vocabulary) -> None:
    """Raise ValueError unless every value, with the first class, is parsed from its caption."""
    first = {CLASS: next(iter(vocabulary.attributes[CLASS]))} if vocabulary.class_attribute else {}
    for key, values in vocabulary.attributes.items():
        for value in values:
            attributes = first | {key: value}
            caption = vocabulary.caption(attributes)
            if (parsed := vocabulary.parse(caption)) != attributes:
                raise ValueError(
                    f"The words of {key}={quote(value, MAX_CHARACTERS)} are ambiguous: "
                    f"{quote(caption, 200)} reads as "
                    f"{', '.join(f'{k}={v}' for k, v in parsed.items())}. Rename this value, or "
                    "the class or column with the same words."
                )
