"""The words of a target as people say them: phrases, plurals, parts of names, "attribute=value"."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import cached_property

from prompts.own_words import NO, PLURALS, YES
from prompts.vocabulary import Vocabulary

_WORD = re.compile(r"[\w|=-]+")
_MANY = re.compile(r"\b(?:a lot|lots|plenty) of\b")
# Words that say nothing about which data is meant.
_FILLERS = frozenset(
    re.findall(
        r"\w+",
        "please image images picture pictures photo photos photograph photographs prompt prompts "
        "cell cells scene scenes make making draw drawing generate i we you want wants would like "
        "need give me us let s it them ones one some any of also and or the a an with in on at for "
        "to from by that which are is be much many lot lots bit little slightly far way few data "
        "so as should can could do does class classes kind kinds type there next plan plans round "
        "thanks thank now really very too again all both each every",
    )
)

# Words of phrases that say nothing of the attribute whose value the phrase is.
_SMALL = frozenset(
    ("after", "along", "clear", "no", "not", "one", "two", "three", "under", "without")
)

Meanings = tuple[tuple[str, str], ...]
"""Pairs of an attribute and its value."""


class Lexicon:
    """The words of a vocabulary as people say them: phrases, values, plurals, "attribute=value"."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    @cached_property
    def _phrases(self) -> list[tuple[str, Meanings]]:
        """All phrases with what they name, the longest first."""
        values = [
            (key, value) for key, known in self._vocabulary.attributes.items() for value in known
        ]
        found: dict[str, tuple[str, str]] = {}
        # The first to claim a phrase keeps it: what a caption says goes before a bare value.
        for key, value in values:
            known = self._vocabulary.attributes[key][value]
            for phrase in (*known.adjective, *known.clause):
                found.setdefault(_plain(phrase), (key, value))
        for key, value in values:
            name = key.replace("_", " ")
            for phrase in (f"{value} {name}", f"{name} {value}", f"{name} is {value}"):
                found.setdefault(_plain(phrase), (key, value))
            found[f"{key}={value}"] = (key, value)
            found.setdefault(_plain(f"{key}={_spaced(value)}"), (key, value))
        for key, value in values:
            known = self._vocabulary.attributes[key][value]
            for phrase in known.clause:
                found.setdefault(
                    _plain(re.sub(r"^(?:with|in|on|at|of)\s+(?:a |an |the )?", "", phrase)),
                    (key, value),
                )
            alone = value not in _FILLERS | {"none"} and value not in self._vocabulary.attributes
            if alone and sum(other == value for _, other in values) == 1:
                found.setdefault(_plain(value), (key, value))
                found.setdefault(_plain(_spaced(value)), (key, value))
            name = _plain(key.replace("_", " "))
            if value in YES:
                found.setdefault(name, (key, value))
            elif value in NO:
                for word in ("not", "no", "non"):
                    found.setdefault(f"{word} {name}", (key, value))
        several: dict[str, Meanings] = {phrase: (meant,) for phrase, meant in found.items()}
        for word, meant in self._parts_of_classes().items():
            several.setdefault(word, meant)
        return sorted(several.items(), key=lambda item: -len(item[0]))

    def _parts_of_classes(self) -> dict[str, Meanings]:
        """Return single words of the names of classes, as "mugs", and all classes that have them.

        The last words go first: "cones" are traffic cones, and no "cone soup".
        """
        key = self._vocabulary.class_attribute
        if key is None:
            return {}
        names = {v: _plain(_spaced(v)).split() for v in self._vocabulary.attributes[key]}
        found: dict[str, list[tuple[str, str]]] = {}
        for last in (True, False):
            heads = set(found)
            for value, words in names.items():
                for word in words[-1:] if last else words[:-1]:
                    usual = word in self._ordinary or word in _FILLERS or not word.isalpha()
                    if len(words) > 1 and len(word) > 1 and not usual and word not in heads:
                        found.setdefault(word, []).append((key, value))
        return {word: tuple(meant) for word, meant in found.items()}

    def read(self, text: str) -> tuple[dict[str, tuple[str, ...]], list[str]]:
        """Return the values that a text names, by attribute, and the words that name nothing."""
        attributes, said = self._values(text)
        known = _FILLERS | self._ordinary
        words = [word for word in _words(text) if _singular(word) in said.split()]
        left = [w for w in dict.fromkeys(words) if not {w, _singular(w)} & known]
        return attributes, left

    def topics(self, text: str) -> dict[str, str]:
        """Return words that are about an attribute and name no value of it: "cars" are traffic.

        Attributes by word; those of which the text names a value are left out.
        """
        named, said = self._values(text)
        found = {}
        for word in dict.fromkeys(_words(text)):
            plain = _singular(word)
            keys = self._topics.get(plain, ()) if plain in said.split() else ()
            if len(keys) == 1 and keys[0] not in named and not self.meanings(word):
                found[word] = keys[0]
        return found

    def _values(self, text: str) -> tuple[dict[str, tuple[str, ...]], str]:
        """Return the values that a text names, by attribute, and the text without them."""
        said = f" {_plain(_MANY.sub('many', text.lower()))} "
        found: list[tuple[int, str, str]] = []
        for phrase, meant in self._phrases:
            pattern = rf"(?<![\w=-]){re.escape(phrase)}(?![\w=-])"
            while match := re.search(pattern, said):
                found += [(match.start(), key, value) for key, value in meant]
                blank = " " * (match.end() - match.start())
                said = said[: match.start()] + blank + said[match.end() :]
        attributes: dict[str, tuple[str, ...]] = {}
        for _, key, value in sorted(found):
            attributes[key] = tuple(dict.fromkeys((*attributes.get(key, ()), value)))
        return attributes, said

    def class_of(self, text: str) -> str | None:
        """Return the class that a text names by a plural, singular or part of its name, or None."""
        named = self.read(text)[0].get(self._vocabulary.class_attribute or "", ())
        return named[0] if len(named) == 1 else None

    def meanings(self, word: str) -> list[str]:
        """Return the "attribute=value" that a word may stand for, if more than one."""
        known = self._vocabulary.attributes.items()
        found = [f"{key}={word}" for key, values in known if word in values]
        return found if len(found) > 1 else []

    def near(self, words: Iterable[str]) -> list[str]:
        """Return up to three words of the vocabulary that look like these."""
        said = [*self._vocabulary.attributes.values()]
        phrases = [p for values in said for v in values.values() for p in (*v.adjective, *v.clause)]
        names = [value for values in said for value in values]
        known = sorted({word for phrase in (*phrases, *names) for word in _words(phrase)})
        found = []
        for word in words:
            found += [other for other in known if len(word) > 4 and other[:4] == word[:4]]
            found += difflib.get_close_matches(word, known, n=2, cutoff=0.7)
        return list(dict.fromkeys(found))[:3]

    @cached_property
    def _topics(self) -> dict[str, tuple[str, ...]]:
        """Attributes by the words of their names or, of other words, of their values' phrases."""
        names: dict[str, dict[str, None]] = {}
        said: dict[str, dict[str, None]] = {}
        for key, known in self._vocabulary.attributes.items():
            for word in _plain(_spaced(key)).split():
                names.setdefault(word, {})[key] = None
            phrases = [p for value in known.values() for p in (*value.adjective, *value.clause)]
            for word in {word for phrase in phrases for word in _plain(phrase).split()}:
                if word not in _FILLERS | self._ordinary | _SMALL and word.isalpha():
                    said.setdefault(word, {})[key] = None
        return {word: tuple(keys) for word, keys in (said | names).items()}

    @cached_property
    def _ordinary(self) -> set[str]:
        """Words of the vocabulary that name no value: what is drawn, and the attributes."""
        names = [key.replace("_", " ") for key in self._vocabulary.attributes]
        return {
            w for phrase in (*self._vocabulary.subjects, *names) for w in _plain(phrase).split()
        }


def _plain(text: str) -> str:
    return " ".join(_singular(word) for word in _words(text))


def _spaced(value: str) -> str:
    """Return a value as people write it: "traffic-cone" as "traffic cone"."""
    return value.replace("-", " ").replace("_", " ")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _singular(word: str) -> str:
    """Return what a word and its English plural have in common: "leaf" and "leaves" are "leav"."""
    if word in PLURALS:
        return PLURALS[word]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us")):
        word = word[:-1]
    if len(word) > 3 and word.endswith("ie"):
        return f"{word[:-2]}y"
    if len(word) > 3 and word.endswith(("oe", "se", "xe", "ze", "che", "she")):
        return word[:-1]
    return re.sub(r"(?<=..)(?:fe?|ve)$", "v", word)
