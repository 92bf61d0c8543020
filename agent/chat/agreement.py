"""Check that changes proposed by a language model agree with the words of the user.

The opposite direction, another number or another value of the same attribute is a contradiction and
raises BrainError. Changes that the words do not clearly state are confirmed by the user first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lark import Token

from agent.steering.arguments import number_of_text
from agent.steering.grammar import plain_words, tokens_of
from agent.steering.lexicon import Lexicon
from agent.steering.preferences import FOCUS, Preference
from memory.errors import BrainError

_UP = ("MORE", "ONLY", "FOCUS", "AT_LEAST")
_DOWN = ("FEWER", "NOT", "EXCEPT", "AT_MOST")
_NUMBERS = ("SHARE", "TIMES", "RANGE", "NUMBER", "DECIMAL")
# Default strengths of words without a number.
_USUAL = (2.0, 1.5, 3.0)
_WAYS = {
    "continue": r"continue|go on|carry on|resume|another|1 round|more|(?<!the )run|keep|start",
    "stop": r"stop|end|finish|quit|halt|enough|abort|cancel",
    "pause": r"pause|wait|hold|break",
}


def says_preference(words: str, preference: Preference, lexicon: Lexicon) -> bool:
    """Return whether words state a preference; False: the user has to confirm it.

    Raises:
        BrainError: The words contradict the preference.
    """
    groups = []
    named: dict[str, set[str]] = {}
    for demands, meanings in _groups(words, lexicon):
        for key, value in meanings:
            named.setdefault(key, set()).add(value)
        groups.append((demands, meanings))
    for key, values in preference.attributes.items():
        if key in named and not {*values} <= named[key]:
            wrong = ", ".join({*values} - named[key])
            raise BrainError(f"you said {', '.join(sorted(named[key]))}, it meant {wrong}")
    pairs = {(key, value) for key, values in preference.attributes.items() for value in values}
    about = [demands for demands, meanings in groups if pairs & {*meanings}]
    is_named = pairs <= {pair for _, meanings in groups for pair in meanings}
    demands = [d for group in (about or [d for d, _ in groups]) for d in group]
    kinds = {_direction(token) for token in demands} - {0}
    types = {token.type for token in demands if token.type not in _NUMBERS}
    if "ENOUGH" in types or ("NOT" in types and len(types) > 1):  # "I don't want less of it"
        kinds = {-1, 1}
    wanted = {"share": 0, "between": 0, "note": 0}.get(preference.kind)
    if wanted is None:
        wanted = 1 if preference.kind in ("more", "only", "focus", "at_least") else -1
    if wanted and kinds == {-wanted}:
        raise BrainError(f"it meant the opposite of what you said: {preference.say()}")
    _check_numbers(preference, demands)
    return is_named and bool(about) and kinds == ({wanted} if wanted else set())


def says_command(words: str, command: str) -> bool:
    """Return whether words state a command; False: the user has to confirm it.

    Raises:
        BrainError: The words contradict the command.
    """
    name, _, arguments = command.partition(" ")
    words = plain_words(words)
    stated, given = (set(re.findall(r"\d+(?:\.\d+)?", text)) for text in (words, arguments))
    if given - stated:
        raise BrainError(f"it meant /{command}, with a number that you did not state")
    ways = {way for way, pattern in _WAYS.items() if re.search(rf"\b(?:{pattern})\b", words)}
    is_negated = bool(re.search(r"\b(?:not|never|no)\b", words))
    if name in _WAYS and ways and name not in ways and not is_negated:
        raise BrainError(f"it meant the opposite of what you said: /{command}")
    return ways == {name} and given == stated and not is_negated


def _groups(words: str, lexicon: Lexicon) -> list[tuple[list[Token], list[tuple[str, str]]]]:
    """Split words into groups of demand tokens, each with the values that it applies to."""
    tokens, phrases = tokens_of(words, lexicon)
    groups: list[tuple[list[Token], list[tuple[str, str]]]] = [([], [])]
    for token in tokens:
        demands, meanings = groups[-1]
        if token.type == "_SEP":
            groups.append(([], []))
        elif token.type == "VALUE":
            meanings += phrases[int(token[1:])][1]
        elif token.type in (*_UP, *_DOWN, *_NUMBERS, "ENOUGH"):
            if meanings and demands and token.type not in _NUMBERS:
                groups.append(([token], []))
            else:
                demands.append(token)
    return groups


def _direction(token: Token) -> int:
    if token.type == "TIMES":
        return 1 if number_of_text(token) > 1 else -1
    return (token.type in _UP) - (token.type in _DOWN)


def _check_numbers(preference: Preference, demands: Sequence[Token]) -> None:
    """Raise BrainError if a preference has a number that the words do not state."""
    texts = [part for token in demands if token.type in _NUMBERS for part in token.split("-")]
    stated = [number_of_text(text) for text in texts]
    stated += [number / 100 for number in stated if number > 1]
    given = [n for n in (preference.min_share, preference.max_share) if n is not None]
    given = [n for n in given if n not in (0, 1, FOCUS) or texts]
    if preference.factor is not None and (texts or preference.strength not in _USUAL):
        given.append(preference.factor)
    if preference.factor is not None:
        stated += [f for n in stated for f in (1 + n, 1 - n, 1 / (n or 1))]
    for number in given:
        if not any(abs(number - other) < 1e-6 for other in stated):
            raise BrainError(f"it meant {number:.3g}, a number that you did not state")
