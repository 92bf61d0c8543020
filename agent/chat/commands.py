"""The slash commands: their names, arguments and help, for the parser, completion and /help."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from agent.chat.plan_edits import ADD, EDIT


class Command(NamedTuple):
    """A slash command.

    Attributes:
        arguments: Usage of its arguments.
        help: Its line in /help.
        by_model: Whether a language model in chat may call it; commands that decide on a plan or
            undo work are excluded.
        changes: Whether it changes the session: never, always, or only with arguments.
    """

    arguments: str
    help: str
    by_model: bool = False
    changes: Literal["never", "always", "arguments"] = "never"


COMMANDS: dict[str, Command] = {
    "status": Command("", "where the session stands, its preferences and their effect", True),
    "failures": Command("[SLICE|round N]", "where the model fails on real photographs", True),
    "show": Command("[ID|SLICE|WORDS]", "pictures: generated images or real photographs", True),
    "plan": Command(
        "[all|SLICE|round N]", "the plan that waits, or the last one; all: every prompt", True
    ),
    "approve": Command("", "accept the plan"),
    "edit": Command(EDIT, "change a row of the plan"),
    "reject": Command("[WHY]", "have it planned again; preferences in WHY count at once"),
    "add": Command(ADD, "add a prompt to this plan or the next"),
    "focus": Command('"SLICE"', "at least half of the images of every plan"),
    "avoid": Command('"WORDS"', "none of these in any plan"),
    "forget": Command("ID|WORDS|all", "take preferences or additions back", True, "always"),
    "back": Command("", "take the last preference back that no plan has followed yet"),
    "budget": Command(
        "[rounds N|images N|schedule N, N|total N|hours N|score N]",
        "what is spent and left, or another budget", True, "arguments",
    ),
    "baseline": Command("", "whether images help: round 0 and the latest round", True),
    "worth": Command("", "whether another round is worth it: trend and cost", True),
    "prompts": Command(
        "[best]", "what was kept of each prompt and its credit, the worst or best first", True
    ),
    "files": Command("", "where report, model and images are, and how to export them", True),
    "classes": Command("", "figures of each class, the worst first", True),
    "data": Command("", "photographs and images: how many, how many were kept", True),
    "synthetic": Command(
        "[SHARE|less|more]", "share of generated images in trainings, or another one",
        True, "arguments",
    ),
    "changes": Command("[ROUND [ROUND]]", "changes since a round: score, slices, images", True),
    "last": Command("", "what your last words changed", True),
    "pause": Command("", "hold at the next safe point", True, "always"),
    "continue": Command("[N]", "go on, for N more rounds", True, "always"),
    "stop": Command("[round]", "stop now, or after this round; nothing is lost", True, "always"),
    "undo": Command("", "take the latest plan back, with all that came of it"),
    "fork": Command("NAME", "a new session that shares the rounds done so far"),
    "memory": Command('["QUERY"]', "what all sessions have learnt about something", True),
    "why": Command("[N|SLICE|round N]", "the reasons for the plan, a prompt or a slice", True),
    "report": Command("", "write the HTML report"),
    "help": Command("", "this list"),
}  # fmt: skip


def near_command(words: Iterable[str]) -> str | None:
    """Return the usage of the command that is most similar to one of the words; None: no match."""
    for word in words:
        similar = difflib.get_close_matches(word, COMMANDS, n=1, cutoff=0.75)
        about = [
            name
            for name, command in COMMANDS.items()
            if len(word) > 3 and word in re.findall(r"[a-z]+", command.arguments.lower())
        ]
        for name in (*similar, *about):
            return f"/{name} {COMMANDS[name].arguments}".strip()
    return None
