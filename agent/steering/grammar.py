"""Plain words of a person, understood without a language model.

`understand` reads what a policy brain can do something with: wishes (more, fewer, shares, only,
avoid, focus on, with words of the target's vocabulary) and what a slash command does as well. What
it did not understand, or could be meant in several ways, is returned beside it, so that it can be
said. `agent.steering.sentences` knows the sentences that stand for commands.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from agent.steering.lexicon import Lexicon
from agent.steering.preferences import FACTOR, Kind, Preference, bounds, slice_name
from agent.steering.sentences import ASKED, command_of, is_question, is_vague

MAX_CHARS = 2000

_MUCH, _LITTLE, _MOST_TIMES = 3.0, 1.5, 10.0
_STRONG = re.compile(r"\b(?:much|a lot|lots of|far|many|way)\s+$")
_WEAK = re.compile(r"\b(?:a bit|a little|slightly|somewhat|a few|some)\s+$")
_BREAK = re.compile(r"[,;!?\n]+|\.(?!\d)|\bbut\b|\bplease\b|\bthen\b")
_CONTRACTIONS = (
    (r"\bcan(?:no|')t\b", "can not"),
    (r"\bwon't\b", "will not"),
    (r"n't\b", " not"),
    (r"\b(i|you|we|they|he|she|it|that|there)'(?:d|ll|ve|re|m|s)\b", r"\1"),
    (r"\blet's\b", "let us"),
    (r"\bany ?more\b", "any"),
    (r"\bat all\b", ""),
    (r"\b(?:all|everything|anything)((?: of them)?) but\b", r"everything\1 except"),
)
_FRACTIONS = {
    "half": 1 / 2, "third": 1 / 3, "two thirds": 2 / 3, "quarter": 1 / 4, "three quarters": 3 / 4,
    "fifth": 1 / 5, "tenth": 1 / 10,
}  # fmt: skip
_TIMES = {"twice": 2, "double": 2, "two": 2, "thrice": 3, "triple": 3, "three": 3, "four": 4}
_FRACTION = r"half|(?:(?:a|one) )?(?:third|quarter|fifth|tenth)|two thirds|three quarters"
_PERCENT = r"\d+(?:\.\d+)? ?(?:%|percent\b|per cent\b)"
_OF_ALL = (
    r"(?: of(?= )|(?: of)? "
    r"(?:them|all|everything|it|the (?:images|pictures|data|plan)|images|pictures))*"
    r"(?: (?:should|must|shall|has to|have to) be\b)?"
)


@dataclass(frozen=True)
class Understood:
    """What a text was taken to mean.

    command: a slash command with its argument, without the slash; wishes; unknown: its words that
    mean nothing here; bare: values that were named without saying what to do about them; half:
    wishes without the unknown words that stand within them, which mean more than was said; unclear:
    what could be wished in several ways, "not only rain", with its values; topics: attributes by
    words that name none of their values; question: it asks for something, so nothing is wished;
    vague: it asks for a model or data that are better or harder.
    """

    command: str | None = None
    wishes: tuple[Preference, ...] = ()
    unknown: tuple[str, ...] = ()
    bare: dict[str, tuple[str, ...]] | None = None
    half: tuple[Preference, ...] = ()
    unclear: tuple[tuple[str, dict[str, tuple[str, ...]]], ...] = ()
    topics: dict[str, str] | None = None
    question: bool = False
    vague: bool = False


class _Verb(NamedTuple):
    """What a text says to do with what it names; kind None: nothing, or nothing clear."""

    kind: Kind | None
    strength: float = FACTOR
    share: float | None = None
    said: str = ""


class _Clause(NamedTuple):
    verb: _Verb
    words: str


_Make = Callable[[re.Match[str]], _Verb]


def _as(kind: Kind) -> _Make:
    return lambda match: _Verb(kind, said=match[0])


def _times(match: re.Match[str]) -> _Verb:
    said = match["times"]
    number = float(_TIMES[said]) if said in _TIMES else float(said)
    if number < 1:
        return _Verb("fewer", min(_MOST_TIMES, 1 / max(number, 0.01)))
    return _Verb("more", min(_MOST_TIMES, number), said=match[0])


def _part(match: re.Match[str]) -> _Verb:
    return _Verb("fewer", min(_MOST_TIMES, 1 / _number(match["part"])), said=match[0])


def _percent_more(match: re.Match[str]) -> _Verb:
    change = _number(match["change"])
    if match["way"] == "more":
        return _Verb("more", min(_MOST_TIMES, 1 + change), said=match[0])
    return _Verb("fewer", min(_MOST_TIMES, 1 / max(1 - change, 0.1)), said=match[0])


def _share(match: re.Match[str]) -> _Verb:
    share, bound = _number(match["share"]), match["bound"] or ""
    if share > 1:
        return _Verb(None, said=match[0])
    kind: Kind = "share"
    if re.match(r"at least|min|more than|over|above", bound):
        kind = "at_least"
    elif re.match(r"at most|max|no more|not more|up to|less|fewer|under|below", bound):
        kind = "at_most"
    if share == 0 and kind != "at_least":
        return _Verb("avoid", said=match[0])
    if share == 1 and kind != "at_most":
        return _Verb("only", said=match[0])
    return _Verb(kind, share=share, said=match[0])


def _unclear(match: re.Match[str]) -> _Verb:
    return _Verb(None, said=match[0])


_NOT = (
    r"(?:(?:do|does|did|should|must|may|can|could|would|will) not|not)"
    r"(?: (?:want|need|like|have|use|make|draw|show|generate|include|add|to|see|be|any))*"
)
# Sorted: of those that match at the same place, the first counts.
_VERBS: tuple[tuple[re.Pattern[str], _Make], ...] = tuple(
    (re.compile(pattern if pattern[0] == "^" else rf"\b(?:{pattern})(?!\w)"), make)
    for pattern, make in (
        (
            rf"(?:(?P<bound>at least|at most|no more than|not more than|more than|less than|"
            rf"fewer than|over|under|above|below|up to|max(?:imum)?(?: of)?|min(?:imum)?(?: of)?|"
            rf"to|about|around|exactly|only|just) )?(?P<share>{_PERCENT})"
            rf"(?! (?:more|fewer|less)\b){_OF_ALL}",
            _share,
        ),
        (rf"(?P<change>{_PERCENT}) (?P<way>more|fewer|less)\b", _percent_more),
        (
            r"(?P<times>twice|double|thrice|triple|(?:\d+(?:\.\d+)?|two|three|four)"
            r"(?=(?: ?x\b| times)))(?: ?x\b| times)?"
            r"(?: the (?:number|amount|share) of| the| as (?:many|much)| more)?\b",
            _times,
        ),
        (rf"(?P<part>{_FRACTION}) (?:as (?:many|much)|the (?:number|amount|share) of)\b", _part),
        (r"(?P<part>hal)ve(?: the)?\b", _part),
        (
            rf"(?:(?P<bound>at least|at most|up to|about|around|exactly|only|just) )?"
            rf"(?P<share>{_FRACTION})\b{_OF_ALL}",
            _share,
        ),
        (
            r"(?:(?:all|everything|anything)(?: of (?:them|it))? )?"
            r"(?:except(?: for)?|besides|other than)\b",
            _as("avoid"),
        ),
        (
            r"\d+ (?:(?:more|additional|extra)\b|(?:images|pictures|photos|scenes|examples)"
            r"(?= (?:of|with|at|in)\b))(?: (?:images|pictures|photos|scenes|examples))?",
            _unclear,
        ),
        (
            r"^\s*(?:(?:all|everything|every image|each image)"
            r"(?: of (?:them|it)| (?:the )?(?:images|pictures|scenes))?)"
            r"(?! (?:except|besides|other))(?: (?:should|must|shall|has to|have to) be)?\b",
            _as("only"),
        ),
        (r"nothing but\b", _as("only")),
        (r"(?:not (?:so|as|that|too)|too) (?:many|much)\b", _as("fewer")),
        (r"(?:not enough|too (?:few|little))\b", _as("more")),
        (r"enough\b", _unclear),
        (r"no (?:more|longer)\b", _as("avoid")),
        (
            rf"(?:{_NOT}|no|never|no need (?:for|of|to have)) (?:only|just|avoid|exclude|focus on|"
            r"concentrate on|focus|fewer|less|reduce|more|increase|add)\b",
            _unclear,
        ),
        (r"(?:no|without any) need (?:for|of)\b|(?:do|does) not need\b", _unclear),
        (
            rf"{_NOT}|never|nothing|neither|nor|avoid|exclude|leave out|get rid of|remove|drop|"
            r"skip|stop (?:making|drawing|with|using|generating|showing)\b",
            _as("avoid"),
        ),
        (
            r"(?:fewer|less (?:often|frequent(?:ly)?|common)|less|rarer|reduce|decrease|lower|"
            r"cut down on)\b",
            _as("fewer"),
        ),
        (r"(?:focus on|focus|concentrate on|emphasi[sz]e|work on)\b", _as("focus")),
        (r"(?:only|just|exclusively)\b", _as("only")),
        (
            r"(?:more (?:often|frequent(?:ly)?|common)|more|additional|increase|add|extra)\b",
            _as("more"),
        ),
        (r"(?:without|no)\b", _as("avoid")),
    )
)
_INSTEAD = (
    (re.compile(r"(?P<more>.+?) (?:instead of|rather than) (?P<other>.+)"), "fewer"),
    (re.compile(r"rather (?P<more>.+?) than (?P<other>.+)"), "fewer"),
    (re.compile(r"(?:replace|swap|exchange) (?P<other>.+?) (?:with|by|for) (?P<more>.+)"), "avoid"),
)


def plain(text: str) -> str:
    """Return a text in lower case, on one line, without contractions."""
    said = " ".join(text.lower().replace("\u2019", "'").split())
    for pattern, instead in _CONTRACTIONS:
        said = re.sub(pattern, instead, said)
    return " ".join(said.split())


def understand(text: str, lexicon: Lexicon) -> Understood:
    """Return what a text means; see `Understood`."""
    said = plain(text)
    named, _ = lexicon.read(said)
    name = slice_name(named) if named else ""
    if command := command_of(said, name):
        return Understood(command=command)
    if is_question(said):
        return Understood(bare=named or None, question=True)
    said = ASKED.sub("", said)
    if swapped := _swapped(said, lexicon):
        return Understood(wishes=swapped)
    found = _wishes(said, lexicon)
    if found.bare and not found.unclear and said.endswith("?"):
        return Understood(bare=found.bare, question=True)
    if is_vague(said) and not (found.wishes or named):
        return Understood(vague=True)
    return found


def _wishes(said: str, lexicon: Lexicon) -> Understood:
    wishes: list[Preference] = []
    half: list[Preference] = []
    unclear: list[tuple[str, dict[str, tuple[str, ...]]]] = []
    unknown: list[str] = []
    topics: dict[str, str] = {}
    named: dict[str, tuple[str, ...]] = {}
    for verb, words in _clauses(said, lexicon):
        attributes, left = lexicon.read(words)
        own = lexicon.topics(words)
        if verb.kind == "avoid":
            # "no cars" is what "without cars" says, where the target has such words.
            absent, left_of_absent = lexicon.read(f"without {words.strip()}")
            if absent and not left_of_absent:
                wishes.append(Preference(attributes=absent, min_share=1))
                continue
        unknown += [word for word in left if word not in own]
        topics |= own
        if verb.kind is None and verb.said:
            unclear.append((f"{verb.said.strip()} {words.strip()}".strip(), attributes))
        elif verb.kind is None:
            named |= attributes
        elif attributes:
            meant = Preference(
                attributes=attributes, **bounds(verb.kind, verb.share, verb.strength)
            )
            # Words beside the wish, as in "more dark ones, thanks", take nothing from it.
            parts = [(*lexicon.read(part), lexicon.topics(part)) for part in words.split(",")]
            whole = not any(values and (left or about) for values, left, about in parts)
            (wishes if whole else half).append(meant)
    return Understood(
        wishes=tuple(wishes),
        unknown=tuple(dict.fromkeys(unknown)),
        bare=named if named and not wishes else None,
        half=tuple(half),
        unclear=tuple(unclear),
        topics=topics or None,
    )


def _swapped(said: str, lexicon: Lexicon) -> tuple[Preference, ...]:
    """Read "fog instead of rain" as two wishes; none where a part has unknown words."""
    for pattern, kind in _INSTEAD:
        if match := pattern.fullmatch(said.strip(" .!")):
            more, left = lexicon.read(re.sub(r"\bmore\b", "", match["more"]))
            other, other_left = lexicon.read(match["other"])
            if more and other and not left and not other_left:
                return (
                    Preference(attributes=more, **bounds("more")),
                    Preference(attributes=other, **bounds(kind)),
                )
    return ()


def _clauses(said: str, lexicon: Lexicon) -> list[_Clause]:
    """Cut a text before every verb; a part without one belongs to the part before it."""
    found: list[_Clause] = []
    for part in _BREAK.split(said):
        verbs = _verbs(part)
        ends = [match.start() for match, _ in verbs[1:]] + [len(part)]
        head = part[: verbs[0][0].start()] if verbs else part
        clauses = [
            _Clause(_stronger(verb, part[: match.start()]), part[match.end() : end])
            for (match, verb), end in zip(verbs, ends, strict=False)
        ]
        if clauses and lexicon.read(head)[0] and not any(lexicon.read(clauses[0].words)):
            # "rain should be rarer", "rain at 20%": what is meant stands before the verb.
            clauses[0], head = clauses[0]._replace(words=f"{head} {clauses[0].words}"), ""
        elif len(clauses) > 1 and clauses[1].verb.share and not lexicon.read(clauses[1].words)[0]:
            # "increase rain to 20%"
            clauses[:2] = [_Clause(clauses[1].verb, clauses[0].words)]
        if head.strip() and found:
            found[-1] = found[-1]._replace(words=f"{found[-1].words} , {head}")
        elif head.strip():
            found.append(_Clause(_Verb(None), head))
        found += clauses
    return found


def _verbs(part: str) -> list[tuple[re.Match[str], _Verb]]:
    found: list[tuple[re.Match[str], _Verb]] = []
    at = 0
    while True:
        matches = [
            (match, make)
            for pattern, make in _VERBS
            for match in pattern.finditer(part, at)
            if not _within_phrase(part, match)
        ]
        if not matches:
            return found
        match, make = min(matches, key=lambda item: item[0].start())
        found.append((match, make(match)))
        at = max(match.end(), at + 1)


def _stronger(verb: _Verb, before: str) -> _Verb:
    if verb.kind is None or verb.strength != FACTOR or verb.share is not None:
        return verb
    strength = _MUCH if _STRONG.search(before) else _LITTLE if _WEAK.search(before) else FACTOR
    return verb._replace(strength=strength)


def _within_phrase(part: str, match: re.Match[str]) -> bool:
    """Tell whether "without" or "no" belongs to words such as "cells without dark areas"."""
    before = part[: match.start()].strip()
    return match[0] in ("without", "no", "not") and bool(before) and not before.endswith("and")


def _number(said: str) -> float:
    """Return the share that "20%", "a third" or "two thirds" says."""
    if said == "hal":
        return 0.5
    if match := re.match(r"\d+(?:\.\d+)?", said):
        return float(match[0]) / 100
    return _FRACTIONS[re.sub(r"^(?:a|one) ", "", said)]
