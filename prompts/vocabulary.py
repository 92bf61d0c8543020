"""The vocabulary of a target: attribute values, their phrases, and a small caption grammar."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Self
from unicodedata import category

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

Attributes = Mapping[str, str]

# Combining marks, such as the vowel signs and viramas of Indic scripts, belong to words; `\w` does
# not match them.
_MARKS = "".join(c for c in map(chr, range(0x300, 0x12000)) if category(c) in ("Mn", "Mc"))
LETTER = rf"[\w{_MARKS}]"
_WORD = re.compile(rf"{LETTER}+(?:-{LETTER}+)*")
_IN_WORD = re.compile(rf"-|{LETTER}")
# Function words, part of every vocabulary.
_FUNCTION_WORDS = frozenset(
    ["a", "an", "the", "and", "or", "of", "with", "without", "in", "on", "at", "by", "to", "from"]
)


class Phrases(BaseModel):
    """Phrases for one attribute value.

    Attributes:
        adjective: Phrases placed before the noun.
        clause: Phrases placed after the noun.
        noun: Phrases that replace the noun.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    adjective: tuple[str, ...] = ()
    clause: tuple[str, ...] = ()
    noun: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not (self.adjective or self.clause or self.noun):
            raise ValueError("a value needs at least one adjective, clause or noun")
        return self


class Vocabulary(BaseModel):
    """Attributes of a target, the phrases for their values, and the class that a value implies.

    Attributes:
        name: Name of the vocabulary.
        intros: Beginnings of captions, such as "a photo of".
        subjects: Nouns for captions without an attribute that provides one.
        class_attribute: The attribute that determines the class. None, as for pixel labels: all
            images are of the single class, by default `scene`.
        classes: Names of the classes.
        class_of: Class by value of the class attribute.
        requires: By attribute, the values of other attributes that it requires.
        attributes: Phrases by attribute and value, in the order of captions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    intros: tuple[str, ...] = ("",)
    subjects: tuple[str, ...]
    class_attribute: str | None = None
    classes: tuple[str, ...] = ("scene",)
    class_of: dict[str, str] = {}
    requires: dict[str, dict[str, tuple[str, ...]]] = {}
    attributes: dict[str, dict[str, Phrases]]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        values = set(self.attributes.get(self.class_attribute or "", {}))
        if self.class_attribute is None and len(self.classes) > 1:
            raise ValueError("several classes need a class_attribute that distinguishes them")
        if set(self.class_of) != values:
            raise ValueError(f"class_of must name exactly the values of {self.class_attribute!r}")
        if not set(self.class_of.values()) <= set(self.classes):
            raise ValueError("class_of names a class that is not in classes")
        return self

    def problems(self, attributes: Attributes) -> list[str]:
        """Return the problems of a set of attribute values; [] if they are legal."""
        problems = []
        for key, value in attributes.items():
            if key not in self.attributes:
                names = ", ".join(self.attributes)
                problems.append(f"unknown attribute {key!r} (known: {names})")
            elif value not in self.attributes[key]:
                values = ", ".join(self.attributes[key])
                problems.append(f"unknown value {value!r} of {key!r} (known: {values})")
        for key, needs in self.requires.items():
            if key in attributes:
                for other, allowed in needs.items():
                    if attributes.get(other) not in allowed:
                        problems.append(f"{key!r} needs {other!r} to be {' or '.join(allowed)}")
        return problems

    def class_name(self, attributes: Attributes) -> str | None:
        """Return the class that the attributes imply; None if they lack the class attribute."""
        if self.class_attribute is None:
            return self.classes[0]
        value = attributes.get(self.class_attribute)
        return None if value is None else self.class_of[value]

    def caption(self, attributes: Attributes, rng: random.Random | None = None) -> str:
        """Return a caption that names all attributes.

        Args:
            attributes: Values by attribute.
            rng: Draws intro, noun, phrases and their order. None: the first phrase of every value,
                so that equal attributes give equal captions.
        """

        def pick(options: tuple[str, ...]) -> str:
            return rng.choice(options) if rng else options[0]

        before: list[str] = []
        after: list[str] = []
        nouns = self.subjects
        for key, values in self.attributes.items():
            if key not in attributes:
                continue
            phrases = values[attributes[key]]
            if phrases.noun:
                nouns = phrases.noun
                continue
            adjective_first = bool(phrases.adjective) and (
                not phrases.clause or rng is None or rng.random() < 0.6
            )
            if adjective_first:
                before.append(pick(phrases.adjective))
            elif key in self.requires and after:
                after[-1] += " " + pick(phrases.clause)
            else:
                after.append(pick(phrases.clause))
        if rng:
            rng.shuffle(before)
            rng.shuffle(after)
        noun = " ".join([*before, pick(nouns)])
        article = "an" if noun[0] in "aeiou" else "a"
        intro = pick(self.intros)
        text = f"{intro} {article} {noun}".strip()
        return ", ".join([text, *after]) if after else text

    def parse(self, text: str) -> dict[str, str]:
        """Return the attribute values that a text names.

        Of overlapping phrases the longest is used, of several values of an attribute the first in
        the text. Unknown words are ignored.
        """
        lowered = " ".join(text.lower().split())
        taken = [False] * len(lowered)
        first: dict[str, tuple[int, str]] = {}
        for phrase, key, value in self._phrases():
            if phrase not in lowered:  # faster than the search, with thousands of phrases
                continue
            for match in re.finditer(re.escape(phrase), lowered):
                start, end = match.span()
                around = lowered[max(0, start - 1) : start] + lowered[end : end + 1]
                if _IN_WORD.search(around) or any(taken[start:end]):
                    continue
                taken[start:end] = [True] * (end - start)
                if key not in first or start < first[key][0]:
                    first[key] = (start, value)
        named = {key: first[key][1] for key in self.attributes if key in first}
        for key, needs in self.requires.items():
            if key in named and any(named.get(k) not in allowed for k, allowed in needs.items()):
                del named[key]
        return named

    def foreign_words(self, text: str) -> list[str]:
        """Return the distinct words of a text, in lower case, that the vocabulary does not contain.

        They are in the order of the text. Function words belong to every vocabulary.
        """
        own_words = self._own_words()
        return [word for word in dict.fromkeys(_words(text)) if word not in own_words]

    def _own_words(self) -> frozenset[str]:
        phrases = [phrase for phrase, _, _ in self._phrases()]
        values = [value for values in self.attributes.values() for value in values]
        names = [key.replace("_", " ") for key in self.attributes]
        texts = [*phrases, *values, *names, *self.classes, *self.subjects, *self.intros]
        return _FUNCTION_WORDS.union(*(_words(text) for text in texts))

    def _phrases(self) -> list[tuple[str, str, str]]:
        every = [
            (phrase.lower(), key, value)
            for key, values in self.attributes.items()
            for value, phrases in values.items()
            for phrase in (*phrases.adjective, *phrases.clause, *phrases.noun)
        ]
        return sorted(every, key=lambda item: -len(item[0]))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def vocabulary_names() -> list[str]:
    """Return the names of the vocabularies in `prompts/vocabularies`, sorted."""
    files = resources.files("prompts").joinpath("vocabularies").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


@cache
def load_vocabulary(name: str) -> Vocabulary:
    """Load `prompts/vocabularies/NAME.yaml`."""
    text = resources.files("prompts").joinpath(f"vocabularies/{name}.yaml").read_text("utf-8")
    return Vocabulary.model_validate(yaml.safe_load(text))
