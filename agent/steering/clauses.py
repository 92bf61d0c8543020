"""Texts with several clauses: commands together with preferences, or several questions.

"5 rounds and more fog" is a command and a preference. Each clause that can be fully parsed as a
command is one; the remaining clauses are parsed together as preferences.
"""

from __future__ import annotations

import re
from dataclasses import replace

from agent.steering.grammar import ParseResult, plain_words, read_sentence, request_of
from agent.steering.lexicon import Lexicon
from agent.steering.questions import ASKS

_JOINS = re.compile(
    r"((?:\s*[,;!]+|\s*[.?]+(?!\d)|\s+(?:and|but|then|plus|also|with|while|after that)\b)+\s*)"
)
_MAX_CLAUSES = 8
# Commands that take all following words as arguments.
_TAKE_ALL = ("forget", "show")
# Commands that run before the preferences of the same text are added.
_FIRST = ("forget", "back")
# Commands after which the plan is shown again or replaced, so that it cannot be approved yet.
_BEFORE_APPROVAL = ("edit", "undo", "budget images")
# Groups of commands of which a text may contain only one.
_EXCLUSIVE = (
    ("approve", "reject"), ("pause", "stop", "continue"), ("continue", "budget rounds"),
    ("budget images",), ("budget total",), ("budget hours",), ("budget score",),
    ("synthetic", "synthetic less", "synthetic more"),
)  # fmt: skip


def parse(text: str, lexicon: Lexicon) -> ParseResult:
    """Parse a text for a target whose phrases the lexicon contains."""
    line = lexicon.without_comparatives(plain_words(text))
    whole = read_sentence(line, lexicon)
    is_question = bool(ASKS.match(line)) or line.endswith("?")
    takes_all = (whole.command or "").startswith(_TAKE_ALL)
    if whole.is_exact and not (is_question or takes_all):
        return whole
    request = request_of(line)
    if request["asks"]:
        line = line[request.end() :].rstrip("?")
    return _in_clauses(line, whole, lexicon) or whole


def _in_clauses(line: str, whole: ParseResult, lexicon: Lexicon) -> ParseResult | None:
    """Parse the clauses of a line; None if none of them is a command."""
    parts = [*_JOINS.split(line), ""]
    clauses = [pair for pair in zip(parts[::2], parts[1::2], strict=True) if pair[0]]
    if not 1 < len(clauses) <= _MAX_CLAUSES:
        return None
    asks = bool(ASKS.match(line))
    commands: list[str] = []
    rest = ""
    for text, join in clauses:
        mark = "?" if "?" in join else ""
        if not ASKS.match(text) and (asks or mark):
            return None  # a question changes nothing
        read = read_sentence(text + mark, lexicon)
        if read.command and read.is_exact:
            commands.append(read.command)
            rest += ";" if rest else ""
        else:
            rest += text + join
    if not commands or (asks and rest):
        return None
    result = read_sentence(rest, lexicon) if rest else ParseResult()
    is_read = not rest or result.is_exact
    if not is_read and (whole.is_exact or whole.command or whole.question):
        return None
    # Row numbers refer to the plan as shown, so the last row is edited first.
    commands.sort(key=lambda c: -int(c.split()[1]) if c.startswith("edit") else 0)
    is_changed = any(command.startswith(_BEFORE_APPROVAL) for command in commands)
    if not is_read or result.preferences or is_changed:
        # "yes" may not be an answer here, and the waiting plan does not follow the preferences yet.
        commands = [c for c in commands if c != "approve" and (is_read or c != "reject")]
    if any(re.match(r"(?:continue|budget rounds) \d", command) for command in commands):
        # "2 rounds, then stop"
        commands = [c for c in commands if c not in ("stop", "stop round", "continue")]
    if any(command.startswith("forget") for command in commands):
        # "never mind, forget the bright ones"
        commands = [c for c in commands if c != "back"]
    commands = list(dict.fromkeys(commands))
    kinds = [re.sub(r" [\d.]+%?$", "", command) for command in commands]
    for group in _EXCLUSIVE:
        among = [f"/{c}" for c, kind in zip(commands, kinds, strict=True) if kind in group]
        if len(among) > 1:
            return replace(result, preferences=(), unclear=((" and ".join(among), ""),))
    first = [c for c in commands if is_read and c.startswith(_FIRST)]
    first = first or commands[: is_read and not result.preferences]
    beside = tuple(command for command in commands if command not in first[:1])
    return replace(result, command=first[0] if first else None, beside=beside)
