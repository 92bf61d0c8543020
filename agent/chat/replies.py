"""What is said in return to plain words that were not, or not clearly, understood.

Nothing is guessed: each reply names the words, why nothing was done, and what would be understood.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.chat.overview import Overview
from agent.steering.grammar import Understood
from agent.steering.preferences import Preference, slice_name
from eval.report.blocks import Block, Line
from eval.report.text import estimate_text
from prompts.printable import one_line

_MAX_WORDS, _MAX_CHARS = 8, 400


def not_understood(
    meant: Understood, seen: Overview, made: Sequence[Preference] = ()
) -> list[Block]:
    """Say what of a text was not taken up, and how it could be said.

    made: the wishes that the same text has made, which may now mean too much.
    """
    said: list[str] = []
    for text, values in meant.unclear:
        said.append(_unclear(text, values))
    if meant.bare and not meant.unclear:
        name = slice_name(meant.bare)
        said.append(f"What about {name}? Say more, fewer, only, avoid, focus on, 20%, or show me.")
    said += [_topic(word, key, seen) for word, key in (meant.topics or {}).items()]
    nothing = not (meant.wishes or meant.half or said)
    if meant.unknown or nothing:
        said.append(_unknown(meant.unknown, seen))
    for wish in meant.half:
        said.append(
            "Not taken, as without that it means more than you said: "
            f"{wish.kind} {slice_name(wish.attributes)}."
        )
    if not said:
        return []
    if made and meant.unknown:
        said.append(f"Too much is meant now? {', '.join(f'/forget {w.id}' for w in made)}")
    return [Line(" ".join(said), "warning")]


def say_vague(seen: Overview) -> str:
    """Say that better or harder data need a name, and which slices are the worst now."""
    report = seen.last_report()
    if report is None:
        return (
            'What is hard shows in the first report. From then on plans go to what fails; "where '
            'does it fail?" shows it.'
        )
    worst = sorted(report.slices, key=lambda score: score.accuracy.value)[:3]
    names = "; ".join(f"{s.key} {estimate_text(s.accuracy)}" for s in worst)
    said = f"Say which data: plans follow words of the target. The worst slices now: {names}."
    return f'{said} To get more of one: "more {worst[0].key}".' if worst else said


def _labels(words: Sequence[str], seen: Overview) -> str:
    """Say of a word that is a class of labelled pixels that no prompt can ask for it."""
    report = seen.last_report()
    metrics = report.metrics if report else {}
    for word in words:
        for name, value in metrics.items():
            if name.startswith("iou_") and word.rstrip("s") == name.removeprefix("iou_"):
                return (
                    f"{name.removeprefix('iou_')!r} is a class of pixels (IoU {value.value:.3f}), "
                    "for which prompts have no word of their own."
                )
    return ""


def _unclear(text: str, values: dict[str, tuple[str, ...]]) -> str:
    name = slice_name(values) if values else ""
    if not name:
        return f"{one_line(text, 80)!r} can mean several things."
    told = f"{one_line(text, 80)!r} can mean several things, so nothing is changed. "
    if text[:1].isdigit():
        percent = f'"20% {name}" (of every plan)'
        return f'{told}Say {percent}, or /add "PROMPT" x8 (once).'
    return f'{told}Say "more {name}", "fewer {name}", "avoid {name}", or take a wish back: /forget.'


def _topic(word: str, key: str, seen: Overview) -> str:
    values = list(seen.vocabulary.attributes[key])
    about = "" if word.startswith(key[:4]) else f"{one_line(word, 30)!r} is about {key}. "
    either = f"{', '.join(values[:-1])} or {values[-1]}"
    return f'{about}Which {key}: {either}? Say e.g. "more {key}={values[-1]}".'


def _unknown(words: Sequence[str], seen: Overview) -> str:
    said = "I did not understand that."
    if words:
        shown = ", ".join(one_line(word, 30) for word in words[:_MAX_WORDS])
        said = f"Not understood: {shown}."
    if labels := _labels(words, seen):
        return f"{said} {labels}"
    near = seen.lexicon.near(words)
    several = [found for word in words if (found := seen.lexicon.meanings(word))]
    if several:
        return f"{said} Say which: {' or '.join(several[0])}."
    if near:
        return f"{said} Near words: {', '.join(near)}."
    known = "; ".join(f"{k}: {', '.join(v)}" for k, v in seen.vocabulary.attributes.items())
    if len(known) > _MAX_CHARS:
        known = known[:_MAX_CHARS].rpartition(",")[0] + ", ..."
    return (
        f'{said} I read English, e.g. "more", "fewer", "20%", "only", "avoid" or "focus on" with '
        f"the target's words: {known}. /help lists commands."
    )
