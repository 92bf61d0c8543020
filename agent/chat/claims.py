"""Check statements without figures in an answer of a language model against the records.

A clause that states a direction ("fog improved"), an order ("dark is the worst", "better than
rain"), a verdict ("the hypothesis held", "another round is worth it") or what the audit kept must
be true under each of its readings: without a named round, since the previous round and since the
first one. Advice ("more fog could help") is not checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from agent.chat.answers import iou_by_class, is_worth
from agent.chat.figures import mentions
from agent.steering.lexicon import Lexicon
from eval.report.text import overlap
from memory.records import Estimate, Round

Topic = Literal["scores", "worth", "verdict", "audit"]
Key = frozenset[str]
"""A slice as "attribute=value" pairs, or "iou=CLASS"; the empty set is the main figure."""

_MAIN: Key = frozenset()
_NO = r"(?:not|never|no|none|nothing|nobody|neither|nor|hardly|without)"
_PATTERNS = {
    "up": r"improv\w*|better|helps?|helped|useful|recover\w*|progress\w*|stronger|outperform\w*"
    r"|beats?|ahead|benefit\w*|easier|surg\w*|soar\w*|climb\w*|doubled|positive|upwards?"
    r"|overtook|surpass\w*|exceeds?",
    "down": r"worse\w*|hurts?|harm\w*|degrad\w*|deteriorat\w*|regress\w*|suffer\w*|weaker|lags?"
    r"|behind|trails?|harder|useless|plung\w*|slump\w*|sank|negative|downwards?|downhill",
    "more": r"rose|risen|rises?|rising|increas\w*|gr[eo]w\w*|gain\w*|higher|up",
    "less": r"fell|falls?|fallen|drop\w*|declin\w*|decreas\w*|lower|lost|loses?|down",
    "same": r"unchanged|on par|equals?|as (?:good|bad|well) as|(?:the|about) same|flat"
    r"|stagnat\w*|plateau\w*|constant|stable",
    "best": r"best|strongest|highest|easiest|peak\w*",
    "worst": r"worst|fails? (?:the )?most|most (?:failures|errors|mistakes)"
    r"|least (?:accurate|reliable)|weakest|lowest|poorest|hardest",
    "well": r"(?<!as )well|good|strong|fixed|solved|fine|excellent\w*",
    "weak": r"struggl\w*|problem\w*|bad(?:ly)?|poor(?:ly)?|weak|fails|difficult",
    "sure": r"significant\w*|clear(?:ly)?|reliabl\w*|beyond chance|beyond doubt",
    "kept": r"kept|accepted|passed",
    "lost": r"rejected|discarded|thrown",
    "held": r"held|confirmed|supported|right|true",
    "failed": r"refuted|wrong|false|failed",
}
_KINDS = {name: re.compile(rf"\b(?:{pattern})\b") for name, pattern in _PATTERNS.items()}
_NEGATED = re.compile(rf"\b{_NO}\b|n't\b")
_IDIOMS = re.compile(r"\b(?:no|without(?: a)?) (?:doubt|question|surprise)\b|\bnot only\b")
# A direction of an amount ("more images") is not a direction of a score.
_AMOUNTS = re.compile(
    r"\b(?:images?|shares?|prompts?|draws?|budgets?|plan\w*|tokens?|left|hours?)\b"
)
_ADVICE = re.compile(
    r"\b(?:could|would|might|may|can|should)\b(?! (?:\w+ )?(?:see|say|tell|conclude|note|confirm))"
    r"|\b(?:if|whether|try|want\w*|hope\w*|aims?|planned)\b|(?<!as )\bexpect\w*\b"
    r"|\bto (?:improve|help|recover|increase|beat|benefit)\b|\?"
)
_FUTURE = re.compile(r"\b(?:will|going to|likely|certain to)\b")
_GO_ON = re.compile(
    r"\b(?:another|1 more|one more|more|further|next) rounds?\b|\b(?:going|carry) on\b"
)
_WORTH = re.compile(
    r"\bworth\w*|\bpays? off\b|\b(?:recommend|advis|sensible)\w*|\bhelps?\b|\bimprove\b"
)
_THAN = re.compile(
    r"than|par|equals?|overtook|surpass\w*|exceeds?|outperforms?|beats?|ahead|behind|lags?"
    r"|trails?|over"
)
_REST = re.compile(r"\bthan (?:the )?(?:rest|others?|average|overall|all others)\b")
_ALL = re.compile(r"\b(?:all|every\w*|each|nothing|none|no (?:slice|class|condition))\b")
_PRONOUN = re.compile(r"\b(?:it|its|they|them|their|these|those)\b")
_OF_ALL = re.compile(
    r"\b(?:overall|accuracy|miou|model|network|rounds?|images|photographs|session)\b"
)
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
_ORDINAL = re.compile(rf"\b({'|'.join(_ORDINALS)}) round\b")
_SINCE = re.compile(
    r"\b(?:since|than|over|above|below|from|against|to|with|before|after) (?:in )?round (\d+)"
)
_FIRST = re.compile(r"\b(?:before|baseline|alone|start|beginning|first|round 0)\b")
_LAST = re.compile(r"\b(?:last|latest|recent|this|current) round\b|\bjust\b")
# The first round is the subject ("the baseline was worse"), so old and new scores change places.
_FIRST_IS = re.compile(r"\b(?:alone|baseline|start|beginning) (?:was|were|is|are|did)\b")
_PARTS = re.compile(
    r"[,;:]+|\b(?:but|while|whereas|although|though|however|then|and|so|because|since(?= the ))\b"
)


class Claim(NamedTuple):
    """A sentence with a statement that the records do not support.

    Attributes:
        sentence: The sentence.
        topic: Topic of its first unsupported statement.
        keys: Slices of all its unsupported statements.
    """

    sentence: str
    topic: Topic
    keys: tuple[Key, ...] = ()


def unsupported_claims(
    answer: str, question: str, past: Sequence[Round], lexicon: Lexicon
) -> list[Claim]:
    """Return the sentences of an answer with a statement that the records do not support.

    Args:
        answer: Answer of a language model.
        question: Question of the user; pronouns of the answer may refer to its slices.
        past: All rounds so far.
        lexicon: Words of the target and its pixel classes.
    """
    return _Reader(past, lexicon, question).wrong(answer)


class _Reader:
    """Checks an answer sentence by sentence; `_carried` holds the slices that pronouns refer to."""

    def __init__(self, past: Sequence[Round], lexicon: Lexicon, question: str) -> None:
        self._past, self._lexicon = past, lexicon
        self._scores: dict[int, dict[Key, Estimate]] = {}
        for one in past:
            if one.report and (main := one.main_figure):
                by_class = iou_by_class(one.report).items()
                self._scores[one.number] = {
                    _MAIN: main,
                    **{frozenset({f"iou={name}"}): value for name, value in by_class},
                    **{
                        frozenset(f"{k}={v}" for k, v in score.attributes.items()): score.accuracy
                        for score in one.report.slices
                    },
                }
        failures = next((r.failures for r in reversed(past) if r.failures), ())
        self._failing = {frozenset(f.slice.split()) for f in failures if f.significant}
        self._carried = tuple(key for _, key in mentions(question.lower(), lexicon)[1])

    def wrong(self, answer: str) -> list[Claim]:
        """Return the sentences with an unsupported statement."""
        wrong = []
        for sentence in re.split(r"(?<=[.!?;])\s+", answer):
            claims = [claim for clause in _clauses(sentence) for claim in self._check(clause)]
            if claims:
                keys = tuple(dict.fromkeys(key for _, keys in claims for key in keys))
                wrong.append(Claim(sentence, claims[0][0], keys))
        return wrong

    def _check(self, clause: str) -> Iterator[tuple[Topic, tuple[Key, ...]]]:
        """Yield the topic and the slices of each unsupported statement of a clause."""
        text = _ORDINAL.sub(lambda match: f"round {_ORDINALS.index(match[1]) + 1}", clause.lower())
        text = _IDIOMS.sub("", text)
        matches = [(m.span(), name) for name, p in _KINDS.items() for m in p.finditer(text)]
        kinds = {name for _, name in matches}
        (first, _), (last, end) = (
            (min(matches)[0], max(matches)[0]) if matches else ((0, 0), (0, len(text)))
        )
        # Only up to the last keyword: "it got worse, with no change in fog" is not negated.
        is_not = bool(_NEGATED.search(text, text.rfind(",", 0, last) + 1, end))
        tokens, places = mentions(text, self._lexicon)
        keys = tuple(dict.fromkeys(key for _, key in places))
        if _GO_ON.search(text) and _WORTH.search(text):
            if is_worth(self._past) is not (not is_not):
                yield "worth", ()
            return
        carried, self._carried = self._carried, keys or self._carried
        # Only after the comma before the first keyword: "if you ask me, it fell" is a claim.
        if _ADVICE.search(text, text.rfind(",", 0, first) + 1):
            return
        if re.search(r"\b(?:hypothesis|prediction|expectation)\b", text):
            verdicts = [r.verdict for r in self._past if r.verdict]
            held = verdicts[-1].held if verdicts else None
            if {"held", "failed"} & kinds and held is not (("held" in kinds) != is_not):
                yield "verdict", ()
            return
        if {"kept", "lost"} & kinds and _ALL.search(text.replace("no images", "none")):
            batches = [r.batch for r in self._past if r.batch]
            n_kept, n_made = (sum(getattr(b, n) for b in batches) for n in ("n_kept", "n_made"))
            not_all = "not all" in text or "not every" in text
            stated = n_made if ("kept" in kinds) != (is_not and not not_all) else 0
            if (n_kept == stated) == not_all:
                yield "audit", ()
            return
        if _AMOUNTS.search(text):
            kinds -= {"more", "less"}
        if "more" in kinds or "less" in kinds:
            kinds |= {"up"} if "more" in kinds else {"down"}
        is_carried = bool(_PRONOUN.search(text)) or not _OF_ALL.search(text)
        subjects = keys or (carried if is_carried else ()) or (_MAIN,)
        if _ALL.search(text) and not keys:
            single = [key for key in self._now(text) if len(key) == 1]
            by_class = [key for key in single if min(key).startswith("iou=")]
            others = [key for key in single if key not in by_class]
            subjects = tuple((by_class if "class" in text else others) or single)
        if not self._holds(text, kinds, is_not, subjects, tokens, places):
            yield "scores", subjects

    def _holds(
        self,
        text: str,
        kinds: set[str],
        is_not: bool,
        subjects: Sequence[Key],
        tokens: Sequence[str],
        places: Sequence[tuple[int, Key]],
    ) -> bool:
        """Return whether the records support the order or direction of a clause; True for none."""
        extremes, directions = kinds & {"best", "worst"}, kinds & {"up", "down", "same"}
        levels = kinds & {"well", "weak"} if _MAIN not in subjects else set()
        if not (extremes or directions or levels or "significan" in text):
            return True
        if _FUTURE.search(text) or len(directions or extremes or levels) > 1:
            return False
        if _REST.search(text) and "sure" in kinds:
            return all((key in self._failing) != is_not for key in subjects)
        if extremes and not directions:
            (kind,) = extremes
            return self._is_extreme(text, kind, is_not, subjects)
        way, now = next(iter(directions), ""), self._now(text)
        pairs = self._compared(text, tokens, places, subjects)
        if levels and not directions:
            way = "up" if "well" in levels else "down"
            pairs = [(now[key], now[_MAIN]) for key in subjects if key in now]
        if pairs or (levels and not directions):
            return bool(pairs) and all(
                _agrees(way, is_not, "sure" in kinds, *pair) for pair in pairs
            )
        readings = [list(self._changes(text, key)) for key in subjects]
        # Figures, checked by `unsupported`, settle which rounds are compared: one reading suffices.
        enough = any if re.search(r"\d\.\d|%", text) else all
        return bool(readings) and all(
            changes and enough(_agrees(way, is_not, "sure" in kinds, *pair) for pair in changes)
            for changes in readings
        )

    def _now(self, text: str) -> dict[Key, Estimate]:
        """Return the scores of the round named in a clause, by default of the last one."""
        named = [int(n) for n in re.findall(r"\bround (\d+)", text)]
        known = [n for n in named if n in self._scores] or list(self._scores)
        return self._scores[known[-1]] if known else {}

    def _is_extreme(self, text: str, kind: str, is_not: bool, subjects: Sequence[Key]) -> bool:
        since = _SINCE.findall(text)
        rounds = [int(n) for n in re.findall(r"\bround (\d+)", text) if n not in since]
        is_last = _LAST.search(text) or re.search(r"\b(?:peak|now|so far|ever)\b", text)
        rounds += [max(self._scores, default=0)] if is_last and not rounds else []
        if _MAIN in subjects:
            # The main figure ranks rounds; without a round, "best" refers to something else.
            values = {n: scores[_MAIN].value for n, scores in self._scores.items()}
            return not rounds or (
                all(n in values for n in rounds)
                and _are_ends([values[n] for n in rounds], list(values.values()), kind, is_not)
            )
        now = self._now(text)
        (first, *_) = subjects
        names = {pair.partition("=")[0] for pair in first}
        by_class = "iou" in names
        key = self._lexicon.vocabulary.class_attribute
        is_apart = (
            by_class or any(name in text for name in names) or ("class" in text and names == {key})
        )
        among = [
            value.value
            for other, value in now.items()
            if other
            and len(other) == len(first)
            and (not is_apart or {pair.partition("=")[0] for pair in other} == names)
            and (by_class or not any(pair.startswith("iou=") for pair in other))
        ]
        if not all(subject in now for subject in subjects):
            return False
        return _are_ends([now[subject].value for subject in subjects], among, kind, is_not)

    def _compared(
        self,
        text: str,
        tokens: Sequence[str],
        places: Sequence[tuple[int, Key]],
        subjects: Sequence[Key],
    ) -> list[tuple[Estimate, Estimate]]:
        """Return the pairs of scores compared by "A is better than B"; [] for rounds."""
        now = self._now(text)
        at = next((n for n, token in enumerate(tokens) if _THAN.fullmatch(token)), None)
        right = [key for place, key in places if at is not None and place > at]
        left = [key for place, key in places if at is not None and place < at] or list(subjects)
        right = [_MAIN] if _REST.search(text) else right
        pairs = [(one, other) for one in left for other in right if one != other]
        return [(now[one], now[other]) for one, other in pairs if one in now and other in now]

    def _changes(self, text: str, key: Key) -> Iterator[tuple[Estimate, Estimate]]:
        """Yield the pairs (new, old) of scores of a slice that a clause may compare."""
        known = {number: scores[key] for number, scores in self._scores.items() if key in scores}
        numbers = sorted(known)
        since = [int(n) for n in _SINCE.findall(text)]
        named = [int(n) for n in re.findall(r"\bround (\d+)", text) if int(n) not in since]
        if len(numbers) < 2 or not {*since, *named} <= {*numbers}:
            return
        first, before, last = numbers[0], numbers[-2], numbers[-1]
        if since or named:
            new = max(named, default=last)
            old = [*since, *(n for n in named if n < new)] or [n for n in numbers if n < new][-1:]
            pairs = [(new, n) for n in old if n != new]
        elif _LAST.search(text):
            pairs = [(last, before)]
        else:
            pairs = [(last, first)] if _FIRST.search(text) else [(last, before), (last, first)]
        ends = (min, max) if _FIRST_IS.search(text) else (max, min)
        yield from ((known[ends[0](pair)], known[ends[1](pair)]) for pair in pairs)


def _clauses(sentence: str) -> Iterator[str]:
    """Split a sentence at commas and conjunctions into clauses with one statement each."""
    group = ""
    ends = [match.end() for match in _PARTS.finditer(sentence)]
    for start, end in zip([0, *ends], [*ends, len(sentence)], strict=True):
        part = sentence[start:end]
        states = [any(p.search(text.lower()) for p in _KINDS.values()) for text in (group, part)]
        if all(states):
            yield group
            group = ""
        group += part
    yield group


def _agrees(way: str, is_not: bool, is_sure: bool, new: Estimate, old: Estimate) -> bool:
    """Return whether a direction, or its negation, holds for a new and an old score."""
    change = round(new.value - old.value, 9)
    holds = {"up": change > 0, "down": change < 0, "same": abs(change) < 0.01, "": True}[way]
    holds &= not (is_sure and overlap(new, old))
    return holds != is_not


def _are_ends(values: Sequence[float], among: Sequence[float], kind: str, is_not: bool) -> bool:
    """Return whether values are, or are not, the highest ("best") or lowest of a population."""
    ends = sorted(among, reverse=kind == "best")[: len(values)]
    return bool(values) and (sorted(values, reverse=kind == "best") == ends) != is_not
