"""Replies to plain words that the grammar cannot parse, or not unambiguously.

Nothing is guessed: a reply names the words, the reason, and a wording that can be parsed.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.chat.answers import iou_by_class
from agent.chat.commands import near_command
from agent.chat.overview import Overview
from agent.chat.preferences import SCHEDULE
from agent.steering.grammar import LIMITS, ParseResult
from agent.steering.preferences import Preference, slice_name
from eval.report.blocks import Block, Line
from eval.report.text import estimate_text
from prompts.printable import one_line

_MAX_WORDS, _MAX_CHARS = 8, 400


def not_taken(
    result: ParseResult, overview: Overview, taken: Sequence[Preference] = ()
) -> list[Block]:
    """Explain which parts of a text had no effect, why, and how to word them.

    Args:
        result: The parsed text.
        overview: Records and words of the session.
        taken: Preferences adopted from the same text, which may be broader than meant.
    """
    reasons = [_unclear(text, name) for text, name in result.unclear]
    if result.named and not result.unclear:
        name = slice_name(result.named)
        reasons.append(f"What about {name}? Say more, fewer, only, avoid, focus on, 20%, or show.")
    reasons += [_which_value(word, key, overview) for word, key in result.topics.items()]
    if result.unknown or not (result.preferences or result.partial or reasons):
        reasons.append(_unknown(result.unknown, overview))
    for preference in result.partial:
        reasons.append(
            f"Ignored: {preference.kind} {preference.name}. Without the unknown words the request "
            "would be broader."
        )
    if result.beside:
        commands = ", ".join(f"/{command}" for command in result.beside)
        reasons.append(f"Not run, since the text is not fully understood: {commands}.")
    if taken and result.unknown:
        commands = ", ".join(f"/forget {preference.id}" for preference in taken)
        reasons.append(f"To take back what was understood: {commands}")
    return [Line(" ".join(reasons), "warning")] if reasons else []


def which_data(overview: Overview) -> str:
    """Return a reply to a request for better or harder data: the worst slices by name."""
    report = overview.last_report()
    if report is None or not report.slices:
        return (
            "The first report shows what is hard, and later plans follow its failures. "
            '"where does it fail?" lists them.'
        )
    worst = sorted(report.slices, key=lambda score: score.accuracy.value)[:3]
    names = "; ".join(f"{s.key} {estimate_text(s.accuracy)}" for s in worst)
    return (
        f"Name the data in words of the target. The worst slices now: {names}. For more of one, "
        f'say "more {worst[0].key}".'
    )


def _unclear(text: str, name: str) -> str:
    if limit := LIMITS.search(text):
        return (
            f"{limit[0]!r}: a preference holds for all plans from the next one on, without a time, "
            f"condition or choice, so {one_line(text, 80)!r} is not taken."
        )
    reason = f"{one_line(text, 80)!r} can mean several things, so it is not taken."
    if not name:
        size = f" Of rounds: /budget images 60, or {SCHEDULE}." if "images" in text else ""
        return reason + size
    if any(word.isdecimal() for word in text.split()):
        return f'{reason} Say "20% {name}" (of every plan), or /add "PROMPT" x8 (once).'
    return f'{reason} Say "more {name}", "fewer {name}", "avoid {name}", or /forget a preference.'


def _which_value(word: str, key: str, overview: Overview) -> str:
    values = list(overview.vocabulary.attributes[key])
    about = "" if word.startswith(key[:4]) else f"{one_line(word, 30)!r} is about {key}. "
    choice = f"{', '.join(values[:-1])} or {values[-1]}"
    return f'{about}Which {key}: {choice}? Say e.g. "more {key}={values[-1]}".'


def _unknown(words: Sequence[str], overview: Overview) -> str:
    text = "Not understood."
    if words:
        text = f"Not understood: {', '.join(one_line(word, 30) for word in words[:_MAX_WORDS])}."
    report = overview.last_report()
    by_class = iou_by_class(report) if report else {}
    if named := [name for word in words if (name := word.rstrip("s")) in by_class]:
        return (
            f"{text} {named[0]!r} is a class of pixels (IoU {by_class[named[0]].value:.3f}), which "
            "prompts have no word for."
        )
    for word in words:
        if meanings := overview.lexicon.meanings(word):
            which = " which:" if meanings[1:] else ""
            return f"{text} Say{which} {' or '.join(meanings)}."
    if near := overview.lexicon.near(words):
        return f"{text} Near words: {', '.join(near)}."
    if command := near_command(words):
        return f"{text} Is it {command}? /help lists commands."
    attributes = overview.vocabulary.attributes.items()
    values = "; ".join(f"{key}: {', '.join(names)}" for key, names in attributes)
    if len(values) > _MAX_CHARS:
        values = values[:_MAX_CHARS].rpartition(",")[0] + ", ..."
    return (
        f'{text} Plain English works, e.g. "more", "fewer", "20%", "only", "avoid" or "focus on" '
        f"with the target's words: {values}. /help lists commands."
    )
