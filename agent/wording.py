"""Plain words of a person, understood without a language model.

`understand` reads what a policy brain can do something with: wishes (more, fewer, only, avoid,
focus on, with words of the target's vocabulary) and what a slash command does as well. What it did
not understand is returned beside it, so that it can be said.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from agent.steering import STRENGTH, Kind
from prompts.own_words import NO, YES
from prompts.vocabulary import Vocabulary

MAX_CHARS = 2000

_MUCH, _LITTLE = 3.0, 1.5
_WORD = re.compile(r"[\w|=-]+")
# The longer ones first: "no more" is no "more".
_KINDS: tuple[tuple[str, Kind], ...] = (
    (
        r"no more|no longer|never|avoid|exclude|leave out|stop making|stop drawing|do not|don't",
        "avoid",
    ),
    (r"not (?:so|as|that) many|fewer|less|reduce|decrease|cut down on", "fewer"),
    (r"focus on|focus|concentrate on|emphasi[sz]e|work on", "focus"),
    (r"only|just|nothing but|exclusively", "only"),
    (r"more|additional|increase|add|extra", "more"),
    (r"without|not|no", "avoid"),
)
_KEYWORD = re.compile("|".join(rf"(?P<k{i}>\b(?:{p})\b)" for i, (p, _) in enumerate(_KINDS)))
_LEADING = re.compile(r"^(?:with|in|on|at|of)\s+(?:a |an |the )?")
_STRONG = re.compile(r"\b(?:much|a lot|lots of|far|many|way)\s+$")
_WEAK = re.compile(r"\b(?:a bit|a little|slightly|somewhat|a few|some)\s+$")
_BREAK = re.compile(r"[,.;!?\n]+|\bbut\b|\bplease\b|\bthen\b")
_COMMANDS: tuple[tuple[str, str], ...] = (
    (r"(?:stop|end|finish)\b.*\b(?:after|end of)\b.*\bround.*", "stop round"),
    (r"(?:please )?(?:stop|quit|exit|end)(?: now| it| please)?", "stop"),
    (r"(?:please )?(?:pause|wait|hold on)(?: now| it| please)?", "pause"),
    (r"(?:please )?(?:continue|go on|resume|carry on)(?: now| please)?", "continue"),
    (
        r"where (?:does|do|is|are) (?:it|the model|you|we)\b.*(?:fail|wrong|bad|weak|worst).*",
        "failures",
    ),
    (r"(?:what|which|where)\b.*\b(?:fail\w*|worst|weak\w*|wrong)\b.*", "failures"),
    (r"why\b.*", "why"),
    (r"(?:how is it going|how far|status|progress|where are we|what are you doing)\b.*", "status"),
    (r"(?:yes|ok|okay|approved?|go ahead|looks good|fine|do it)", "approve"),
    (r"(?:undo|go back|take (?:it|that) back)\b.*", "undo"),
    (r"(?:the |write (?:the |a )?)?report", "report"),
    (r"(?:the |what is the |show (?:me )?the )?plan", "plan"),
    (r"(?:help|what can (?:you|i) (?:do|say))\b.*", "help"),
)
_SHOW = re.compile(r"(?:please )?(?:show|let me see)(?: me| us)?\b(?P<what>.*)", re.DOTALL)
_PLURALS = {
    "men": "man", "women": "woman", "people": "person", "children": "child", "mice": "mouse",
    "geese": "goose", "feet": "foot", "teeth": "tooth",
}  # fmt: skip
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


Meanings = tuple[tuple[str, str], ...]
"""Pairs of an attribute and its value."""


class Meant(NamedTuple):
    """A wish as it was said: kind, values by attribute, and how strongly."""

    kind: Kind
    attributes: dict[str, tuple[str, ...]]
    strength: float


@dataclass(frozen=True)
class Understood:
    """What a text was taken to mean.

    command: a slash command with its argument, without the slash; wishes; unknown: its words that
    mean nothing here; bare: values that were named without saying what to do about them; half:
    wishes without the unknown words that stand within them, which mean more than was said.
    """

    command: str | None = None
    wishes: tuple[Meant, ...] = ()
    unknown: tuple[str, ...] = ()
    bare: dict[str, tuple[str, ...]] | None = None
    half: tuple[Meant, ...] = ()


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
            if sum(other == value for _, other in values) == 1:
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
        said = f" {_plain(text)} "
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
        known = _FILLERS | self._ordinary
        words = [word for word in _words(text) if _singular(word) in said.split()]
        left = [w for w in dict.fromkeys(words) if not {w, _singular(w)} & known]
        return attributes, left

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
    def _ordinary(self) -> set[str]:
        """Words of the vocabulary that name no value: what is drawn, and the attributes."""
        names = [key.replace("_", " ") for key in self._vocabulary.attributes]
        return {
            w for phrase in (*self._vocabulary.subjects, *names) for w in _plain(phrase).split()
        }


def understand(text: str, lexicon: Lexicon) -> Understood:
    """Return what a text means; see `Understood`."""
    said = " ".join(text.lower().replace("\u2019", "'").split())
    bare = said.strip(" .!?")
    for pattern, command in _COMMANDS:
        if re.fullmatch(pattern, bare):
            return Understood(command=command)
    if match := _SHOW.fullmatch(bare):
        return Understood(command=f"show {match['what'].strip()}".strip())
    wishes: list[Meant] = []
    half: list[Meant] = []
    unknown: list[str] = []
    named: dict[str, tuple[str, ...]] = {}
    for kind, strength, words in _clauses(said):
        attributes, left = lexicon.read(words)
        unknown += left
        if kind is None:
            named |= attributes
        elif attributes:
            # Words beside the wish, as in "more dark ones, thanks", take nothing from it.
            whole = not any(all(lexicon.read(part)) for part in words.split(","))
            (wishes if whole else half).append(Meant(kind, attributes, strength))
    bare_values = named if named and not wishes else None
    said_unknown = tuple(dict.fromkeys(unknown))
    return Understood(None, tuple(wishes), said_unknown, bare_values, tuple(half))


def _clauses(said: str) -> list[tuple[Kind | None, float, str]]:
    """Cut a text before every keyword; a part without one belongs to the part before it."""
    found: list[tuple[Kind | None, float, str]] = []
    for part in _BREAK.split(said):
        matches = [m for m in _KEYWORD.finditer(part) if not _within_phrase(part, m)]
        ends = [m.start() for m in matches[1:]] + [len(part)]
        head = part[: matches[0].start()] if matches else part
        if head.strip() and found:
            kind, strength, words = found[-1]
            found[-1] = (kind, strength, f"{words} , {head}")
        elif head.strip():
            found.append((None, STRENGTH, head))
        for match, end in zip(matches, ends, strict=False):
            found.append(
                (_kind_of(match), _strength(part[: match.start()]), part[match.end() : end])
            )
    return found


def _strength(before: str) -> float:
    return _MUCH if _STRONG.search(before) else _LITTLE if _WEAK.search(before) else STRENGTH


def _within_phrase(part: str, match: re.Match[str]) -> bool:
    """Tell whether "without" or "no" belongs to words such as "cells without dark areas"."""
    before = part[: match.start()].strip()
    return match[0] in ("without", "no", "not") and bool(before) and not before.endswith("and")


def _kind_of(match: re.Match[str]) -> Kind:
    index = next(int(name[1:]) for name, value in match.groupdict().items() if value)
    return _KINDS[index][1]


def _plain(text: str) -> str:
    return " ".join(_singular(word) for word in _words(text))


def _spaced(value: str) -> str:
    """Return a value as people write it: "traffic-cone" as "traffic cone"."""
    return value.replace("-", " ").replace("_", " ")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _singular(word: str) -> str:
    """Return what a word and its English plural have in common: "leaf" and "leaves" are "leav"."""
    if word in _PLURALS:
        return _PLURALS[word]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us")):
        word = word[:-1]
    if len(word) > 3 and word.endswith("ie"):
        return f"{word[:-2]}y"
    if len(word) > 3 and word.endswith(("oe", "se", "xe", "ze", "che", "she")):
        return word[:-1]
    return re.sub(r"(?<=..)(?:fe?|ve)$", "v", word)
