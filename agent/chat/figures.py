"""Check the figures in an answer of a language model against the facts.

Each figure is read with its context: the slice and the round named nearest before it, or else after
it, and whether it counts images made, kept, rejected or left. A figure of an answer must match a
fact of the same context up to rounding, as a percentage or a fraction, or the difference of two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, product
from typing import NamedTuple, TypeVar

from agent.steering.lexicon import Lexicon

T = TypeVar("T")

_COUNTED = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
_WORDS = {word: str(n) for n, word in enumerate(_COUNTED.split(), 2)} | {
    "thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80",
    "ninety": "90", "hundred": "100", "thousand": "1000", "dozen": "12", "half": "50%",
    "quarter": "25%", "halved": "50%", "twice": "200%", "double": "200%", "doubled": "200%",
    "tripled": "300%", "percent": "%",
}  # fmt: skip
_NUMBER = re.compile(r"\d+(?:\.\d+)?%?|\.\d+%?|\d+/\d+")
_ROLES = {
    role: re.compile(pattern)
    for role, pattern in {
        "measured": r"measured|tested|evaluated|feedback|sealed",
        "kept": r"kept|keeps?|passed|accepted",
        "rejected": r"rejected|discarded|dropped|thrown|not$",
        "left": r"left|remain(?:s|ing)?",
        "plan": r"plan(?:ned)?",
        "made": r"made|generated|drawn|created|produced",
        "photographs": r"photographs?|photos?|real",
    }.items()
}
_UP = re.compile(r"(?:better|gain\w*|improv\w*|rose|rises?|higher|increas\w*|up|more|helped)$")
_DOWN = re.compile(
    r"(?:worse|los[st]\w*|fell|falls?|lower|decreas\w*|down|less|dropp?\w*|harm\w*)$"
)
_COMPARES = re.compile(
    r"\b(?:than|since|by|difference|changed?|points|from|gain|compared|ahead|above|below|over)\b"
)
# Metrics besides the main one; a fact about one contains its name.
_METRIC = re.compile(r"\b(?:auroc|auc|iou|recall|precision|f1|rmse|loss|error|worst)\b")
# A whole number that is stated as a score instead of a count.
_IS_SCORE = re.compile(
    r"\b(?:accuracy|score|iou|miou|auroc)\b(?:\W|is|was|of|now)+\d+(?![\d%]|\.\d)"
)
_OF_BASELINE = re.compile(r"\b(?:before|baseline|alone|start|beginning|without|first)\b")
_OF_BEST = re.compile(r"\b(?:best|highest|peak|delivered)\b")


class Figure(NamedTuple):
    """A number in a text with its context.

    Attributes:
        text: The number as written.
        value: Its value; percentages as fractions.
        digits: Decimal places of `value`; 0: a whole number.
        sign: 1 or -1; 0: unsigned.
        slices: Slice that it refers to, as "attribute=value" pairs.
        round: Round that it refers to; None: none is named.
        role: What it counts, a key of `_ROLES`; "": unknown.
        is_bound: Whether it is a bound of an interval.
    """

    text: str
    value: float
    digits: int
    sign: int
    slices: frozenset[str]
    round: int | None
    role: str
    is_bound: bool

    @property
    def is_count(self) -> bool:
        """Whether it is a whole number without a unit."""
        return self.digits == 0


def unsupported(
    answer: str, facts: Iterable[str], question: str, lexicon: Lexicon, last: int, best: int
) -> list[str]:
    """Return the figures of an answer that are not in the facts.

    Args:
        answer: Answer of a language model.
        facts: Lines of text.
        question: Question of the user, whose figures, slices and rounds are accepted as well.
        lexicon: Words of the target.
        last: The last evaluated round, the default round of a figure.
        best: The best round.
    """
    lines = [(figures_in(line, lexicon), *_kinds(line)) for line in facts]
    asked = figures_in(question, lexicon)
    asked_slices = [name for _, name in mentions(question.lower(), lexicon)[1]]
    wrong: list[str] = []
    carried: frozenset[str] = frozenset()
    for sentence in re.split(r"(?<=[.!?;])\s+", answer):
        rounds: set[int | None] = {None, last}
        rounds |= {0} if _OF_BASELINE.search(sentence.lower()) else set()
        rounds |= {best} if _OF_BEST.search(sentence.lower()) else set()
        rounds |= {int(n) for n in re.findall(r"round (\d+)", question.lower())}
        stated = figures_in(sentence, lexicon)
        metrics, compared = _kinds(sentence)
        named = [name for _, name in mentions(sentence.lower(), lexicon)[1]]
        metrics -= {"worst"} if named else set()  # "dark is worst at 0.57"
        known = [line for line, of, _ in lines if metrics <= of]
        changes = [one for line, _, about in lines if compared <= about for one in line if one.sign]
        flat = [one for line in known for one in line if not one.sign or len(compared) < 2]
        flat += changes if len(compared) > 1 else []
        for one in stated:
            slices = {one.slices} if one.slices else {frozenset[str](), carried, *asked_slices}
            about = [
                fact
                for fact in flat
                if fact.slices in slices
                and (fact.round in rounds if one.round is None else fact.round == one.round)
                and (not one.is_count or one.role in ("", fact.role))
            ]
            pairs = [*_over_time(known, slices, compared), *_between(flat, named)]
            if not (
                any(_same(one, fact, sentence) for fact in [*about, *asked])
                or one.text in ("95%", "100%")
                or any(_is_difference(one, new, old, sentence) for new, old in pairs)
            ):
                wrong.append(one.text)
        carried = named[-1] if named else carried
    known_rounds = {fact.round for line, _, _ in lines for fact in line}
    known_rounds |= {fact.round for fact in asked}
    numbers = re.findall(r"\bround (\d+)", answer.lower())
    wrong += [f"round {number}" for number in numbers if int(number) not in known_rounds]
    return list(dict.fromkeys(wrong))


def _over_time(
    known: Iterable[Sequence[Figure]],
    slices: Iterable[frozenset[str]],
    compared: set[int | None],
) -> Iterator[tuple[Figure, Figure]]:
    """Yield the pairs (new, old) of figures of one slice within one fact.

    Args:
        known: Figures of each fact.
        slices: Slices that a pair may refer to.
        compared: Rounds named in the sentence; if there are two, a pair must be of both.
    """
    for line in known:
        for at, old in enumerate(line):
            for new in line[at + 1 :]:
                is_about = new.slices == old.slices and new.slices in slices
                if is_about and (len(compared) < 2 or {new.round, old.round} == compared):
                    yield new, old


def _between(
    figures_: Sequence[Figure], named: Sequence[frozenset[str]]
) -> Iterator[tuple[Figure, Figure]]:
    """Yield the pairs of figures of one round for each two slices named in a sentence."""
    for first, other in combinations(named, 2):
        for new, old in product(figures_, repeat=2):
            if (new.slices, old.slices) == (first, other) and new.round == old.round:
                yield new, old


def _kinds(line: str) -> tuple[set[str], set[int | None]]:
    """Return the metrics and the rounds that a line names."""
    text = line.lower()
    return set(_METRIC.findall(text)), {int(n) for n in re.findall(r"\bround (\d+)", text)}


def figures_in(text: str, lexicon: Lexicon) -> list[Figure]:
    """Return the figures of a text with their contexts."""
    line = text.lower().replace("\N{MINUS SIGN}", "-")
    line = re.sub(r"(?<=\d),(?=\d{3}\b)", "", line)
    line = re.sub(r"\b[a-z]+\b", lambda match: _WORDS.get(match[0], match[0]), line)
    line = re.sub(r"(\d) %", r"\1%", line)
    line = re.sub(r"(?<!\w)([+-])(?=[\d.])", r"\1 ", line)
    tokens, places = mentions(line, lexicon)
    rounds = [
        (at, int(token))
        for at, token in enumerate(tokens)
        if token.isdecimal() and at and tokens[at - 1] in ("round", "rounds")
    ]
    figures = []
    for at, token in enumerate(tokens):
        if not _NUMBER.fullmatch(token) or any(at == place for place, _ in rounds):
            continue
        value, digits = _value(token)
        before, earlier = tokens[at - 1 : at], tokens[max(0, at - 2) : at - 1]
        is_signed = before in (["-"], ["+"]) and not any(map(_NUMBER.fullmatch, earlier))
        sign = {"-": -1, "+": 1}[before[0]] if is_signed else 0
        role = _role(tokens[at + 1 : at + 4], tokens[max(0, at - 4) : at][::-1])
        slices = _nearest(places, at, tokens)
        number = _nearest(rounds, at, tokens)
        is_bound = "to" in (*tokens[at - 1 : at], *tokens[at + 1 : at + 2])
        about = slices or frozenset[str](), number, role
        figures.append(Figure(token, value, digits, sign, *about, is_bound))
    return figures


def _role(*sides: Sequence[str]) -> str:
    """Return the first role named on either side, up to punctuation or another figure, or ""."""
    near: set[str] = set()
    for side in sides:
        for word in side:
            if word in (",", ";", ":") or _NUMBER.fullmatch(word):
                break
            near.add(word)
    return next((role for role, p in _ROLES.items() if any(map(p.fullmatch, near))), "")


def _nearest(places: Sequence[tuple[int, T]], at: int, tokens: Sequence[str]) -> T | None:
    """Return the name nearest to the token `at`.

    In order of precedence: after it and a preposition in its clause, before it in the clause, after
    it in the clause, in an earlier clause.
    """
    ends = [place for place, token in enumerate(tokens) if token in (",", ";", ":")]
    first = max((end for end in ends if end < at), default=-1)
    last = min((end for end in ends if end > at), default=len(tokens))
    after = [(place, name) for place, name in places if at < place < last]
    if after and {"on", "for", "at", "in", "of"} & {*tokens[at + 1 : after[0][0]][:2]}:
        return after[0][1]
    before = [(place, name) for place, name in places if place < at]
    if after and not (before and before[-1][0] > first):
        return after[0][1]
    return before[-1][1] if before else None


def _value(token: str) -> tuple[float, int]:
    """Return the value of a number, percentages as fractions, and its decimal places."""
    text = token.rstrip("%")
    if "/" in text:
        top, bottom = map(float, text.split("/"))
        return (top / bottom if bottom else 0.0), 2
    digits = len(text.partition(".")[2])
    return (float(text) / 100, digits + 2) if token.endswith("%") else (float(text), digits)


def _same(one: Figure, fact: Figure, sentence: str) -> bool:
    if one.is_count or fact.is_count:
        is_score = _IS_SCORE.search(sentence.lower())
        return one.is_count == fact.is_count and one.value == fact.value and not is_score
    if one.sign * fact.sign < 0 or not _direction_fits(one, fact.sign, sentence):
        return False
    return bool(abs(one.value - fact.value) <= 0.5 * 10**-one.digits + 1e-9)


def _is_difference(one: Figure, new: Figure, old: Figure, sentence: str) -> bool:
    if min(one.digits, new.digits) < 2 or new.digits != old.digits:
        return False
    if new.is_bound or old.is_bound or new.sign or old.sign:
        return False
    change = new.value - old.value
    sign = (change > 0) - (change < 0)
    close = 0.5 * 10**-one.digits + 10**-new.digits
    return (
        bool(sign and _COMPARES.search(sentence.lower()))
        and one.sign * sign >= 0
        and _direction_fits(one, sign, sentence)
        and abs(one.value - abs(change)) < close + 1e-9
    )


def _direction_fits(one: Figure, sign: int, sentence: str) -> bool:
    """Return whether the words of a sentence agree with the sign of a change stated without one."""
    if one.sign or not sign:
        return True
    words = re.findall(r"[a-z]+", sentence.lower())
    up, down = any(map(_UP.match, words)), any(map(_DOWN.match, words))
    return up == down or up == (sign > 0)


def mentions(text: str, lexicon: Lexicon) -> tuple[list[str], list[tuple[int, frozenset[str]]]]:
    """Return the tokens of a text, and the slices that it names with their token positions.

    Adjacent values form one slice. A value that is also a role, such as "left", is skipped.
    """
    marked, values = lexicon.mark(text)
    tokens = marked.split()
    places: list[tuple[int, frozenset[str]]] = []
    for at, token in enumerate(tokens):
        if not (token.startswith("#") and token[1:].isdecimal()):
            continue
        phrase, meanings = values[int(token[1:])]
        if any(pattern.fullmatch(phrase) for pattern in _ROLES.values()):
            tokens[at] = phrase
            continue
        pairs = frozenset(f"{key}={value}" for key, value in meanings)
        if places and at - places[-1][0] == 1:
            pairs |= places.pop()[1]
        places.append((at, pairs))
    return tokens, places
