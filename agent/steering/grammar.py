"""Parser for preferences and commands in plain words, without a language model.

`read_sentence` parses preferences, and sentences equivalent to slash commands, by the grammar in
`grammar.lark`; `agent.steering.clauses` splits texts that contain several. Unknown words and
ambiguous phrases are returned as well, so that a reply can name them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedInput

from agent.steering.arguments import number_of_text
from agent.steering.lexicon import FILLERS, Lexicon, Meanings, by_attribute
from agent.steering.preferences import FACTOR, MAX_FACTOR, Preference, bounds, slice_name
from agent.steering.questions import Question, mix_command, question

MAX_CHARS = 2000
# Maximum number of words per sentence, since the parser's time is cubic in it.
_MAX_WORDS, _MAX_COMMAND_WORDS = 40, 16
# "half as much fog as rain", "half of the rain should be at night": shares of a part of all images.
_COMPARES = re.compile(
    r"\bas (?:many|much|often)\b.*#\d+.*\bas #\d+"
    r"|(?:%|/\d) of (?:the |all )?#\d+(?: (?!and\b)\w+){0,2} be\b.*#\d+"
)
# A time, a condition or a choice, which preferences cannot express.
LIMITS = re.compile(
    r"\b(?:if|unless|until|either|first|later|afterwards|eventually|when(?:ever)?|once"
    r"|or (?:more|fewer|less|only)|in round \d+|for \d+ rounds?"
    r"|(?:this|next|1) (?:round|time|plan) only"
    r"|only (?:in|for|this) (?:this |the |next |1 )*round)\b"
)
# Sentence separators; "but" ends the list before it: "not fog but rain".
_SENTENCE = re.compile(r"[;!?]+|\.(?!\d)|(?<!nothing )\bbut\b")
_REWRITES = {
    r"[#\s\"“”„«»(){}\[\]\u2190-\u2bff\ufe0f\U0001f000-\U0001faff]+": " ",
    r"(?<!\w)'|'(?!\w)": " ",
    r"\bcan(?:no|')t\b": "can not",
    r"\bwon't\b": "will not",
    r"n't\b": " not",
    r"\b(do|does|did|is|are|was|were|has|have|could|would|should|must)nt\b": r"\1 not",
    r"\b(what|how|where|who|when|that)s\b": r"\1",
    r"\b(?:pls|plz|thx|rn|lol|btw|tbh)\b": "",
    r"'(?:d|ll|ve|re|m|s)\b|\blet us\b|\bat all\b": "",
    r"\bany ?more\b": "any",
    r"\bright now\b": "now",
    r"\b(?:once|when|as soon as) (?:this|the|the current) round (?:is|has) \w+": "after this round",
    r"\b(?:because|since (?:it|they|that))\b.*?(?=[,;.!?]|\b(?:and|but|then)\b|$)": "",
    r"\b(?:the )?same(?: as before)?(?= but\b)|\bas before\b|\bno wait\b|\bsorry\b": "",
    r"\bmake sure\b|\b(?:would|do) you mind\b": "please",
    r"\b(?:almost|nearly|practically) no\b|\b(?:hardly|barely|scarcely) any\b": "much fewer",
    r"\b(?:mostly|mainly|predominantly|primarily)\b": "focus on",
    r"(\d+%)((?: (?!and\b)[\w=-]+){1,3}) (max|min|at most|at least)\b(?! \d)": r"\3 \1\2",
    r"\banother (?=\d)": "",
    r"\b(?:next time|from now on(?! stop)|in (?:the )?future|for now|right away|as well)\b": "",
    r"\b(?:all|everything|anything)(?: of them)? but\b": "everything except",
    r"\b(?:a )?(?:lot|lots|plenty) of\b": "many",
    r"(\d) ?(?:%|percent\b|per cent\b)": r"\1%",
    r"(\d)(?=(?:h|hours?|m|mins?|minutes)\b)": r"\1 ",
    r"\bfrom \d+%? to (?=\d+%)": "",
    r", ?(?:ok(?:ay)?|alright)\?$": "",
    r"(?:,|\band) some (?!more\b|fewer\b|less\b)": ". ",  # "mostly rain, some fog"
    r"\b(?:smaller|shorter) (?:rounds|batches|plans)\b": "fewer images per round",
    r"\b(?:larger|bigger|longer) (?:rounds|batches|plans)\b": "more images per round",
    r"(?<=%) of (?:all |all of )?(?:the |my )?(?:images|pictures)\b": "",
    r"\b(?:get|bring|raise|increase|push|take|boost) (.+?) up to (?=\d+%)": r"\1 ",
    r"\b(?:between )?(\d+)%? ?(?:to|and|-) ?(\d+%)": r"\1-\2",
    r"\bstop (?:making|drawing|generating|showing|using) (?:so|too|as) many\b": "fewer",
    r"\b(?:increase|raise|reduce|lower|decrease|cut) (?:the )?(?:number|amount) of "
    r"(?:images|pictures)(?: (?:per|(?:in )?each|(?:in )?every|a) round)? to (?=\d+\b(?!%))": (
        "images per round "
    ),
    r"^show (?=.*\b(?:more|less) (?:often|frequent(?:ly)?)\b)": "",
    r"\bhalve\b": "1/2 as many",
    r"\b(?:a )?half\b": "1/2",
    r"\b(?:a|one) third\b": "1/3",
    r"\b(?:a|one) quarter\b": "1/4",
    r"\b(?:a|one) fifth\b": "1/5",
    r"\b(?:a|one) tenth\b": "1/10",
    r"\btwo thirds\b": "2/3",
    r"\bthree quarters\b": "3/4",
    r"\b(?:twice|double)\b": "2x",
    r"\b(?:thrice|triple)\b": "3x",
    r"(\d) ?(?:x|times)\b": r"\1x",
    r"=(?= ?\d)": " ",
    r"\bthe other (?=1/2)": "",
    r"\bprefer (.+?) (?:over|to) ": r"rather \1 than ",
    r"\b(?:another|one|an?)(?= (?:more )?rounds?\b)": "1",
}
_NUMBERS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70,
    "eighty": 80, "ninety": 90,
}  # fmt: skip
_COUNTED = re.compile(
    rf"\b(?:{'|'.join(_NUMBERS)})"
    r"(?= (?:(?:more |further )?(?:rounds?|hours?|images|pictures)|per ?cent|times)\b)"
)
# Tokens of a demand that are not checked for unknown words.
_EMPTY = ("VALUE", "ALL", "IMAGES", "WITH", "AS_MANY")
# Grammar rules whose sentences may name a slice.
_OF_SLICES = ("forget", "show", "vague")
_SHARES = ("share", "at_least", "at_most")
_REQUEST = re.compile(
    r"(?:(?:please|ok|okay|well|so|now|and)[ ,]+)*"
    r"(?P<asks>(?:(?:can|could|would|will|may|might) (?:you|we|i) |(?:what|how) about "
    r"|(?:would|is) it (?:be )?possible to ))?"
)
# Slash commands of grammar rules that are not named after one. n: the first number, rest: the words
# after the verb.
_COMMANDS = {
    "more_rounds": "continue {n}", "rounds": "budget rounds {n}", "stop_round": "stop round",
    "ask_rounds": "budget rounds", "total": "budget total {n}", "images": "budget images {n}",
    "ask_images": "budget images", "ask_time": "budget time", "edit_remove": "edit {n} remove",
    "edit_count": "edit {n} count {count}", "forget_all": "forget all", "forget_id": "forget {id}",
    "forget": "forget {rest}", "show": "show {rest}", "score": "budget score {share:g}",
    "hours": "budget hours {hours:.3g}", "schedule": "budget schedule {sizes}",
    "undo_round": "undo",
}  # fmt: skip


@dataclass(frozen=True)
class ParseResult:
    """The parsed meaning of a text.

    Attributes:
        command: A slash command with its arguments, without the slash.
        preferences: Preferences to add, after the command has run.
        beside: Commands of further clauses, to run last and only if the text is fully understood.
        partial: Preferences that are not added, as unknown words might restrict them.
        unclear: Ambiguous phrases, each with the slice that it names, "" for none.
        unknown: Unknown words.
        topics: Attributes by words that refer to them without naming a value.
        named: Values that are named without a demand, by attribute.
        question: Whether the text is a question.
        vague: Whether the text asks for better or harder data without naming them.
    """

    command: str | None = None
    preferences: tuple[Preference, ...] = ()
    beside: tuple[str, ...] = ()
    partial: tuple[Preference, ...] = ()
    unclear: tuple[tuple[str, str], ...] = ()
    unknown: tuple[str, ...] = ()
    topics: dict[str, str] = field(default_factory=dict)
    named: dict[str, tuple[str, ...]] = field(default_factory=dict)
    question: bool = False
    vague: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether the text is understood completely and without ambiguity."""
        left = (self.partial, self.unclear, self.unknown, self.topics, self.named)
        understood = self.command or self.preferences or self.beside or self.vague
        return bool(understood) and not any(left)


@dataclass
class _Demand:
    """A demand of a sentence.

    Attributes:
        fields: Fields of the `Preference`; None if they are ambiguous.
        words: Tokens of the demand itself, e.g. "more".
        groups: Tokens of the things that it refers to, e.g. of "dark cells".
    """

    fields: dict[str, Any] | None
    words: list[Token]
    groups: list[list[Token]]


def read_sentence(line: str, lexicon: Lexicon) -> ParseResult:
    """Parse a line of `plain_words` as preferences, one command or one question."""
    request = request_of(line)
    named = lexicon.read(line)[0]
    asked = question(line.strip(" .,!"), named, lexicon)
    if asked and (not request["asks"] or asked.command.startswith("worth")):
        return _asked(asked, named)
    line = line[request.end() :]
    command = _command(line.strip(" .,?!"), named, lexicon)
    if not named and (mix := _mix(line, lexicon)):
        return ParseResult(command=mix)
    if command in (None, "vague") or command.startswith("show"):
        asked = question(line.strip(" .,!?"), named, lexicon, is_request=True)
        if asked and (asked.command == "failures" or (asked.command and command != "vague")):
            return _asked(asked, named)
    if command == "vague" and not named:
        return ParseResult(vague=True)
    if command and command != "vague":
        return ParseResult(command=command)
    result = _preferences(lexicon.mark(line), lexicon)
    is_question = line.endswith("?") and bool(result.named)
    is_question &= not (result.preferences or result.unclear)
    return ParseResult(named=named, question=True) if is_question else result


def request_of(line: str) -> re.Match[str]:
    """Match the polite words at the beginning of a line; the group `asks` is e.g. "could you"."""
    match = _REQUEST.match(line)
    assert match is not None  # the pattern matches an empty text
    return match


def _mix(line: str, lexicon: Lexicon) -> str | None:
    try:
        return mix_command(line, tokens_of(line, lexicon)[0])
    except UnexpectedInput:
        return None


def _asked(asked: Question, named: dict[str, tuple[str, ...]]) -> ParseResult:
    if asked.command:
        return ParseResult(command=asked.command, unknown=asked.unknown)
    return ParseResult(named=named, question=True)


def plain_words(text: str) -> str:
    """Normalise a text: lower case, no contractions, numbers as digits, synonyms replaced."""
    line = text.lower().replace("\u2019", "'")
    line = _COUNTED.sub(lambda match: str(_NUMBERS[match[0]]), line)
    for pattern, replacement in _REWRITES.items():
        line = re.sub(pattern, replacement, line)
    return " ".join(line.split())


def tokens_of(text: str, lexicon: Lexicon) -> tuple[list[Token], list[tuple[str, Meanings]]]:
    """Return the tokens of demands in a text, and the phrases that #0, #1, ... stand for."""
    marked, phrases = lexicon.mark(plain_words(text))
    return list(_parser("preferences").lex(marked)), phrases


@cache
def _parser(start: str) -> Lark:
    grammar = Path(__file__).with_name("grammar.lark").read_text(encoding="utf-8")
    fillers = "|".join(sorted(FILLERS, key=len, reverse=True))
    return Lark(grammar.replace("FILLERS", fillers), start=start, lexer="basic")


def _tree(start: str, line: str) -> Tree[Token] | None:
    try:
        return _parser(start).parse(line)
    except UnexpectedInput:
        return None


def _command(line: str, named: Mapping[str, Sequence[str]], lexicon: Lexicon) -> str | None:
    """Return the slash command equivalent to a sentence, "vague" for a vague one, or None."""
    tree = _tree("command", line) if len(line.split()) <= _MAX_COMMAND_WORDS else None
    if tree is None:
        return None
    (rule,) = tree.children
    assert isinstance(rule, Tree)
    tokens = [token for token in rule.children if isinstance(token, Token)]
    first = {token.type: str(token) for token in reversed(tokens)}
    name = str(rule.data)
    words = " ".join(token for token in tokens if token.type == "WORD")
    if name not in _OF_SLICES and lexicon.read(words)[0]:
        return None  # "stop rain at 20%"
    numbers = [str(token) for token in tokens if token.type in ("NUMBER", "DECIMAL")] + ["", ""]
    shares = [str(token) for token in tokens if token.type in ("SHARE", "DECIMAL")]
    minutes = 60 if first.get("UNIT", "").startswith("m") else 1
    values = {
        "n": numbers[0],
        "count": numbers[1],
        "id": first.get("ID", ""),
        "sizes": " ".join(str(t) for part in rule.find_data("sizes") for t in part.children),
        "rest": line[tokens[1].start_pos :] if len(tokens) > 1 else "",
        "share": number_of_text(shares[-1]) if name == "score" else 0,
        "hours": float(numbers[0]) / minutes if name == "hours" else 0,
    }
    return _COMMANDS.get(name, name).format(**values).strip()


def _preferences(
    marked: tuple[str, Sequence[tuple[str, Meanings]]], lexicon: Lexicon
) -> ParseResult:
    line, phrases = marked
    demands: list[_Demand] = []
    preferences: list[Preference] = []
    partial: list[Preference] = []
    unclear: list[tuple[str, str]] = []
    unknown: list[str] = []
    topics: dict[str, str] = {}
    named: dict[str, tuple[str, ...]] = {}

    def raw(tokens: Iterable[str]) -> str:
        return " ".join(phrases[int(t[1:])][0] if t.startswith("#") else str(t) for t in tokens)

    for sentence in filter(str.strip, _SENTENCE.split(line)):
        is_long = len(sentence.split()) > _MAX_WORDS
        compares = _COMPARES.search(sentence)
        is_limited = "#" in sentence and LIMITS.search(sentence)
        tree = None if is_long or compares or is_limited else _tree("preferences", sentence)
        if tree is not None:
            demands += _demands(tree)
        elif is_long or "#" in sentence:
            unclear.append((raw(sentence.split()), ""))
        else:
            unknown += lexicon.read(sentence)[1]
    for demand in demands:
        tokens = [token for group in demand.groups for token in group]
        if demand.fields == bounds("avoid"):
            # "no cars" means "without cars" if this is a phrase of the target.
            attributes, left = lexicon.read(f"without {raw(tokens)}")
            if attributes and not left:
                preferences.append(Preference(attributes=attributes, min_share=1))
                continue
        attributes = by_attribute(phrases[int(t[1:])][1] for t in tokens if t.type == "VALUE")
        is_partial = False
        for group in demand.groups:
            words = [str(t) for t in group if t.type not in _EMPTY]
            about = {w: key for w in words if (key := lexicon.topic(w)) and key not in attributes}
            left = [w for w in words if w not in about and not lexicon.is_filler(w)]
            is_partial |= bool(about or left) and any(token.type == "VALUE" for token in group)
            topics |= about
            unknown += left
        is_bare = not tokens and {"min_share", "max_share"} & {*(demand.fields or ())}
        if (demand.fields is None or is_bare) and demand.words:
            in_order = sorted(demand.words + tokens, key=lambda token: token.start_pos or 0)
            unclear.append((raw(in_order), slice_name(attributes) if attributes else ""))
        elif demand.fields is None:
            named |= attributes
        elif attributes:
            preference = Preference(attributes=attributes, **demand.fields)
            (partial if is_partial else preferences).append(preference)
    if named and demands[0].fields is None:  # "dark but no poly" may mean only dark images
        partial, preferences = partial + preferences, []
    return ParseResult(
        preferences=tuple(preferences),
        partial=tuple(partial),
        unclear=tuple(unclear),
        unknown=tuple(dict.fromkeys(unknown)),
        topics=topics,
        named=named,
    )


def _demands(tree: Tree[Token]) -> list[_Demand]:
    """Return the demands of a sentence, each with the things that it refers to."""
    demands: list[_Demand] = []
    for part in (child for child in tree.children if isinstance(child, Tree)):
        children: list[Any] = part.children
        groups: list[Any] = [c.children for c in children if isinstance(c, Tree)]
        if part.data in ("instead", "replace"):
            # "fog instead of rain", "rather fog than rain", "replace rain with fog"
            (wanted, other), less = (
                (groups, "fewer") if part.data == "instead" else (groups[::-1], "avoid")
            )
            return [_Demand(bounds("more"), [], [wanted]), _Demand(bounds(less), [], [other])]
        if part.data == "everything":
            demands.append(_Demand(bounds("only"), [], groups))
            continue
        head, *rest = children
        if head and rest[-1:] == [None] and all(d.data == "share" for d in rest[::2]):
            # "dark 35% mono 50%": each share follows its attribute value
            head, rest[1::2] = None, [head, *rest[1:-1:2]]
        about, new = _chained(head.children if head else [], rest)
        if about and demands:
            demands[-1].groups.append(about)
            if demands[-1].words[:1] == ["not"]:
                demands[-1].fields = None  # "not rain, fog"
        elif about:
            demands.append(_Demand(None, [], [about]))
        demands += new
    return demands


def _chained(about: list[Token], rest: Sequence[Any]) -> tuple[list[Token], list[_Demand]]:
    """Resolve the order of things and demands in a part of a sentence.

    Args:
        about: Tokens of the things before the first demand.
        rest: Demands, each followed by its things.

    Returns:
        The tokens of `about` that no demand refers to, and the demands.
    """
    new: list[_Demand] = []
    for demand, things in zip(rest[::2], rest[1::2], strict=True):
        fields, words = _fields(demand), demand.children
        group = [t for t in things.children if t.type != "AS_MANY"] if things else []
        is_first = not new and any(token.type == "VALUE" for token in about)
        if is_first:
            # "rain should be rarer"; "rain at 20% and fog", "rain only at night" are unclear.
            fields = None if group else fields
            group, about = about + group, []
        elif new and demand.data == "share" and "by" in new[-1].groups[0] and _factor(new[-1]):
            # "increase rain by 40%", and perhaps "and fog by 10%"
            before = new.pop()
            change = Tree("more_by" if _factor(before) > 1 else "fewer_by", words)
            goes_on = not group or "by" in group
            things = [token for token in before.groups[0] if token != "by"]
            new.append(_Demand(_fields(change) if goes_on else None, words, [things]))
            if group:
                fields = before.fields if goes_on else None
                new.append(_Demand(fields, before.words, [group]))
            continue
        elif new and not group and demand.data in _SHARES and "factor" in (new[0].fields or ()):
            # "increase rain to 40%"; "by 20% or 30%" is unclear
            before = new.pop()
            group = before.groups[0]
            if before.words[0].type == "SHARE":
                fields, words = None, before.words + words
        elif new and (not new[-1].groups[0] or words[0].startswith("without")):
            # "more or less rain", "more rain without fog"
            before = new.pop()
            fields, words = None, before.words + words
            group = before.groups[0] + group
        new.append(_Demand(fields, words, [group]))
    for demand in new:
        if demand.groups[0] and demand.groups[0][-1] == "by":
            demand.fields = None  # "more fog by 5 images"
    return about, new


def _factor(demand: _Demand) -> float:
    """Return the factor by which a demand scales a share, 0 without one."""
    return float((demand.fields or {}).get("factor", 0))


def _fields(demand: Tree[Token]) -> dict[str, Any] | None:
    """Return the fields of a `Preference` for a demand; None if it is ambiguous."""
    name, first, last = str(demand.data), str(demand.children[0]), str(demand.children[-1])
    if name in ("unclear", "amount"):
        return None
    if name in ("more", "fewer"):
        is_strong = re.match(r"(?:much|a lot|many|far|way) ", first)
        is_weak = re.match(r"(?:a bit|a little|slightly|somewhat|a few|some) ", first)
        return bounds(name, strength=3.0 if is_strong else 1.5 if is_weak else FACTOR)
    if name in ("times", "more_by", "fewer_by"):
        change = number_of_text(first)
        factor = {"times": change, "more_by": 1 + change, "fewer_by": 1 - change}[name]
        return {"factor": min(max(factor, 1 / MAX_FACTOR), MAX_FACTOR)}
    if name == "between":
        low, high = (number_of_text(f"{text.strip('%')}%") for text in first.split("-"))
        return {"min_share": low, "max_share": high} if low <= high <= 1 else None
    if name in _SHARES:
        return bounds(name, number_of_text(last)) if number_of_text(last) <= 1 else None
    return bounds(name)
