"""Phrases by which people name attribute values: plurals, parts of names, "attribute=value"."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property

from prompts.user_vocabulary import NO, PLURALS, YES
from prompts.vocabulary import Vocabulary

_WORD = re.compile(r"[\w=-]+")
# Words, numbers with a unit, and punctuation.
_TOKEN = re.compile(r"\d+-\d+%|\d+(?:\.\d+)?%|\d+\.\d+\w*|\d+/\d+|[\w=-]+|[^\w\s|]")
# Words without a meaning for the choice of data.
FILLERS = frozenset(
    _WORD.findall(
        "please image images picture pictures photo photos photograph photographs prompt prompts "
        "cell cells scene scenes make making draw drawing generate i we you want wants would like "
        "need give me us let s it them ones one some any of also and or the a an with in on at for "
        "to from by that which are is be much many lot lots bit little slightly far way few data "
        "so as should can could do does class classes kind kinds type there next plan plans round "
        "thanks thank now really very too again all both each every have see get keep put my our "
        "its this these session about around exactly last use kindly think "
        "entirely completely possible maybe perhaps probably guess "
        "look looks seem seems set"
    )
)
# Words of preferences; a value with such a name must be written as "class=more".
DEMANDS = frozenset({"more", "less", "fewer", "only", "avoid", "without", "not", "except"})
# Words of phrases that do not identify the attribute.
_SMALL = frozenset(
    ("after", "along", "clear", "no", "not", "one", "two", "three", "under", "without")
)

Meanings = tuple[tuple[str, str], ...]
"""Pairs of an attribute and its value."""


class Lexicon:
    """Finds the values of a vocabulary in plain text.

    pixel_classes: Names that are read as values of "iou", unless a value has the same name.
    """

    def __init__(self, vocabulary: Vocabulary, pixel_classes: Sequence[str] = ()) -> None:
        self.vocabulary = vocabulary
        self._pixel_classes = pixel_classes

    def mark(self, text: str) -> tuple[str, list[tuple[str, Meanings]]]:
        """Replace each phrase that names values by #0, #1, ..., longest matches first.

        Returns:
            The text in lower case with its tokens separated by blanks, and each phrase with the
            values that it names.
        """
        tokens = _TOKEN.findall(text.lower())
        words = [_singular(token) for token in tokens]
        marked: list[str] = []
        values: list[tuple[str, Meanings]] = []
        at = 0
        while at < len(tokens):
            # "no" is a demand at the start of a clause, but can be part of a phrase elsewhere.
            opens = not at or tokens[at - 1] in ",;.!?" or tokens[at - 1] in ("and", "but", "then")
            for n in range(min(self._longest, len(tokens) - at), 0, -1):
                phrase = " ".join(words[at : at + n])
                meanings = self._phrases.get(phrase) or self._unaccented.get(phrase)
                if meanings and not (words[at] == "no" and opens):
                    marked.append(f"#{len(values)}")
                    values.append((" ".join(tokens[at : at + n]), meanings))
                    break
            else:
                n = 1
                marked.append(tokens[at])
            at += n
        return " ".join(marked), values

    def read(self, text: str) -> tuple[dict[str, tuple[str, ...]], list[str]]:
        """Return the values that a text names, by attribute, and its unknown words."""
        marked, values = self.mark(text)
        words = dict.fromkeys(_WORD.findall(re.sub(r"#\d+", " ", marked)))
        unknown = [word for word in words if not self.is_filler(word)]
        return by_attribute(meanings for _, meanings in values), unknown

    def without_comparatives(self, text: str) -> str:
        """Replace comparatives of the target's words, e.g. "darker" by "more dark"."""

        def positive(match: re.Match[str]) -> str:
            stem = match[1]
            forms = stem, f"{stem}e", re.sub(r"i$", "y", stem), re.sub(r"(.)\1$", r"\1", stem)
            words = [form for form in forms if form in self._phrases]
            return f"more {words[0]}" if words and match[0] not in self._phrases else match[0]

        return re.sub(r"\b(?!lower\b|fewer\b)([a-z]{3,})er\b", positive, text)

    def is_filler(self, word: str) -> bool:
        """Return whether a word has no meaning for the choice of data."""
        return not {word, _singular(word)}.isdisjoint(FILLERS | self._ordinary)

    def topic(self, word: str) -> str | None:
        """Return the attribute that a word refers to without naming a value: "cars" is traffic."""
        keys = self._topics.get(_singular(word), ())
        return keys[0] if len(keys) == 1 and not self.meanings(word)[1:] else None

    def class_of(self, text: str) -> str | None:
        """Return the one class that a text names, also by a plural or part of its name, or None."""
        named = self.read(text)[0].get(self.vocabulary.class_attribute or "", ())
        return named[0] if len(named) == 1 else None

    def meanings(self, word: str) -> list[str]:
        """Return the "attribute=value" readings of an ambiguous word; [] if it names one value."""
        attributes = self.vocabulary.attributes.items()
        if _plain(word) in self._phrases:
            return []
        return [f"{key}={word}" for key, values in attributes if word in values]

    def near(self, words: Iterable[str]) -> list[str]:
        """Return up to three words of the vocabulary that are similar to the given ones."""
        texts = [
            text
            for values in self.vocabulary.attributes.values()
            for name, value in values.items()
            for text in (name, *value.adjective, *value.clause)
        ]
        candidates = sorted({word for text in texts for word in _WORD.findall(text.lower())})
        similar: list[str] = []
        for word in words:
            similar += [other for other in candidates if len(word) > 4 and other[:4] == word[:4]]
            similar += difflib.get_close_matches(word, candidates, n=2, cutoff=0.7)
        return list(dict.fromkeys(similar))[:3]

    @cached_property
    def _phrases(self) -> dict[str, Meanings]:
        """Values by phrase; of equal phrases the first counts, captions before bare values."""
        attributes = self.vocabulary.attributes
        pairs = [(key, value) for key, values in attributes.items() for value in values]
        phrases: dict[str, Meanings] = {}

        def claim(text: str, pair: tuple[str, str]) -> None:
            phrases.setdefault(_plain(text), (pair,))

        for key, value in pairs:
            for text in (*attributes[key][value].adjective, *attributes[key][value].clause):
                claim(text, (key, value))
        for key, value in pairs:
            name = _spaced(key)
            phrases[f"{key}={value}"] = ((key, value),)
            texts = f"{value} {name}", f"{name} {value}", f"{name} is {value}"
            for text in (*texts, f"{key}={_spaced(value)}"):
                claim(text, (key, value))
        values = [value for _, value in pairs]
        for key, value in pairs:
            for text in attributes[key][value].clause:
                claim(re.sub(r"^(?:with|in|on|at|of)\s+(?:a |an |the )?", "", text), (key, value))
            if (
                value not in {*FILLERS, *DEMANDS, *YES, *NO, "none", *attributes}
                and values.count(value) == 1
            ):
                claim(value, (key, value))
                claim(_spaced(value), (key, value))
            if value in YES:
                claim(_spaced(key), (key, value))
            elif value in NO:
                for word in ("not", "no", "non"):
                    claim(f"{word} {_spaced(key)}", (key, value))
        for word, meanings in self._parts_of_classes().items():
            phrases.setdefault(word, meanings)
        for name in self._pixel_classes:
            claim(_spaced(name), ("iou", name))
        return phrases

    @cached_property
    def _unaccented(self) -> dict[str, Meanings]:
        """Meanings by phrase without its accents; ambiguous ones are omitted."""
        named: dict[str, set[Meanings]] = {}
        for phrase, meanings in self._phrases.items():
            typed = re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", phrase))
            if typed not in FILLERS | DEMANDS:
                named.setdefault(typed, set()).add(meanings)
        return {typed: min(several) for typed, several in named.items() if len(several) == 1}

    @cached_property
    def _longest(self) -> int:
        return max(len(phrase.split()) for phrase in self._phrases)

    def _parts_of_classes(self) -> dict[str, Meanings]:
        """Return single words of class names, and all classes whose names contain them.

        Last words take precedence: "cone" is "traffic cone", not "cone soup".
        """
        key = self.vocabulary.class_attribute
        if key is None:
            return {}
        names = {value: _plain(_spaced(value)).split() for value in self.vocabulary.attributes[key]}
        parts: dict[str, Meanings] = {}
        for last in (True, False):
            heads = set(parts)
            for value, words in names.items():
                for word in words[-1:] if last else words[:-1]:
                    usual = self.is_filler(word) or not word.isalpha() or len(word) == 1
                    if len(words) > 1 and not usual and word not in heads:
                        parts[word] = (*parts.get(word, ()), (key, value))
        return parts

    @cached_property
    def _topics(self) -> dict[str, tuple[str, ...]]:
        """Attributes by the words of their names and, for other words, of their values' phrases."""
        by_name: dict[str, dict[str, None]] = {}
        by_phrase: dict[str, dict[str, None]] = {}
        for key, values in self.vocabulary.attributes.items():
            for word in _plain(_spaced(key)).split():
                by_name.setdefault(word, {})[key] = None
            texts = [t for value in values.values() for t in (*value.adjective, *value.clause)]
            for word in {word for text in texts for word in _plain(text).split()}:
                if word not in FILLERS | self._ordinary | _SMALL and word.isalpha():
                    by_phrase.setdefault(word, {})[key] = None
        return {word: tuple(keys) for word, keys in (by_phrase | by_name).items()}

    @cached_property
    def _ordinary(self) -> set[str]:
        """Words of the vocabulary that do not name a value: its subjects and attribute names."""
        names = [_spaced(key) for key in self.vocabulary.attributes]
        return {w for text in (*self.vocabulary.subjects, *names) for w in _plain(text).split()}


def by_attribute(meanings: Iterable[Meanings]) -> dict[str, tuple[str, ...]]:
    """Group the values of several phrases by attribute, without duplicates."""
    attributes: dict[str, tuple[str, ...]] = {}
    for key, value in (pair for pairs in meanings for pair in sorted(pairs)):
        attributes[key] = tuple(dict.fromkeys((*attributes.get(key, ()), value)))
    return attributes


def _plain(text: str) -> str:
    return " ".join(_singular(word) for word in _WORD.findall(text.lower()))


def _spaced(value: str) -> str:
    """Replace hyphens and underscores by blanks: "traffic-cone" is "traffic cone"."""
    return value.replace("-", " ").replace("_", " ")


def _singular(word: str) -> str:
    """Return the common stem of a word and its English plural: "leav" for "leaf" and "leaves"."""
    if word in PLURALS:
        return PLURALS[word]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us")):
        word = word[:-1]
    if len(word) > 3 and word.endswith("ie"):
        return f"{word[:-2]}y"
    if len(word) > 3 and word.endswith(("oe", "se", "xe", "ze", "che", "she")):
        return word[:-1]
    return re.sub(r"(?<=..)(?:fe?|ve)$", "v", word)
