"""Language model of the chat, for lines that the grammar does not fully parse.

The model gets the facts of the session and replies, states preferences, or calls a command. A reply
with a figure that is not in the facts is rejected; statements that the records do not support are
replaced by lines of the records. Calls are journaled as `chat_call` and count against the budgets.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage
from pydantic import ValidationError

from agent.brains import planner_of
from agent.brains.actions import without_thoughts
from agent.brains.spending import spent
from agent.chat.answers import data_lines, trend_lines
from agent.chat.claims import Claim, unsupported_claims
from agent.chat.commands import COMMANDS
from agent.chat.figures import unsupported
from agent.chat.live import LiveSession
from agent.chat.queries import Queries
from agent.session.limits import best_round
from agent.steering.preferences import MAX_FACTOR, Preference
from eval.report.blocks import Block, Line, plain_text, verdict_text
from memory.errors import BrainError
from memory.events import ChatCallEvent, Tokens
from prompts.printable import one_line
from prompts.render import quote, render

_COMMANDS = [name for name, command in COMMANDS.items() if command.by_model]
_N_REMEMBERED = 6
# Characters of facts per token of the context, about half of it; most characters of a reply.
_CHARS_PER_TOKEN, _MAX_REPLY = 1.5, 1500
# Maximum number of preferences in one call.
_MAX_PREFERENCES = 8


class AssistantReply(NamedTuple):
    """Reply of the model to a line: a text, a command, or preferences.

    Attributes:
        text: The answer, without unsupported statements.
        instead: Lines of the records in place of unsupported statements.
        command: A slash command with its arguments, without the slash.
        preferences: Preferences that the model states for the user.
    """

    text: str = ""
    instead: tuple[str, ...] = ()
    command: str = ""
    preferences: tuple[Preference, ...] = ()

    def blocks(self) -> list[Block]:
        """Return the text and the lines of the records as blocks."""
        blocks: list[Block] = [Line(self.text)] if self.text else []
        text = "Not taken from the model, as the records do not say so. They say:"
        blocks += [Line(text, "warning")] if self.instead else []
        return [*blocks, *map(Line, self.instead)]


class ChatAssistant:
    """The language model of the session as a chat partner, with its last messages as context."""

    def __init__(self, live: LiveSession, queries: Queries) -> None:
        self._live = live
        self._queries = queries
        self._history: list[AnyMessage] = []
        self._model: BaseChatModel | None = None

    @property
    def available(self) -> bool:
        """Whether the brain is a language model."""
        brain = self._live.session.settings.brain
        return planner_of(brain) is None and not brain.startswith("scripted:")

    def ask(self, text: str) -> AssistantReply:
        """Send a line to the model and return its validated reply.

        Raises:
            BrainError: The model cannot be reached, its budget is spent, or its reply is invalid.
        """
        facts = self._queries.facts()
        call, content = self._call(text, facts)
        name, arguments = (call["name"], call["args"]) if call else ("reply", {"text": content})
        if name == "prefer":
            return AssistantReply(preferences=self._preferences(arguments))
        if name == "command":
            words = str(arguments.get("line") or "").lstrip("/").split()
            if not words or words[0] not in _COMMANDS:
                raise BrainError(f"it called an unknown command: {' '.join(words)[:80]}")
            return AssistantReply(command=" ".join(words)[:200])
        reply = arguments.get("text")
        answer = one_line(without_thoughts(reply) if isinstance(reply, str) else "", _MAX_REPLY)
        if not answer:
            raise BrainError("its answer is empty")
        past = self._queries.rounds()
        last = max((r.number for r in past if r.report), default=0)
        best = best_round(past)
        lexicon = self._queries.with_pixel_classes()
        wrong = unsupported(answer, facts, text, lexicon, last, best.round if best else last)
        if wrong:
            raise BrainError(f"its answer has figures that the facts do not have: {wrong[0]}")
        claims = unsupported_claims(answer, text, past, lexicon)
        for claim in claims:
            answer = answer.replace(claim.sentence, "")
        lines = [line for claim in claims for line in self._records(claim)]
        return AssistantReply(text=one_line(answer), instead=tuple(dict.fromkeys(lines)))

    def _records(self, claim: Claim) -> list[str]:
        """Return the lines of the records on the topic of an unsupported claim."""
        past = self._queries.rounds()
        if claim.topic == "verdict":
            verdicts = [r.verdict for r in past if r.verdict]
            return [verdict_text(v) for v in verdicts[-1:]] or ["No hypothesis is settled yet."]
        if claim.topic == "worth":
            return [b.text for b in self._queries.worth() if isinstance(b, Line) if b.style]
        if claim.topic == "audit":
            lines = data_lines(past, self._live.session.settings, None)
            return plain_text(lines).splitlines()[:1]
        blocks: list[Block] = []
        for key in claim.keys:
            pairs = [pair.partition("=") for pair in key]
            named: dict[str, tuple[str, ...]] = {name: (value,) for name, _, value in pairs}
            blocks += self._queries.about(named) if named else trend_lines(past)
        return plain_text(blocks).splitlines()

    def _preferences(self, arguments: dict[str, Any]) -> tuple[Preference, ...]:
        """Parse the arguments of `prefer` into preferences, validated like those of the grammar."""
        allowed = {"attributes", "min_share", "max_share", "factor", "text"}
        preferences = []
        stated = arguments.get("preferences")
        for given in (stated or [{}])[:_MAX_PREFERENCES] if isinstance(stated, list) else [stated]:
            try:
                if not given or given.keys() - allowed:
                    raise BrainError(f"a preference has the fields {', '.join(sorted(allowed))}")
                attributes = {
                    key: (names,) if isinstance(names, str) else tuple(names)
                    for key, names in given.get("attributes", {}).items()
                }
                fields = {**given, "attributes": attributes}
                preferences.append(Preference.model_validate(fields))
            except (ValidationError, AttributeError, TypeError) as error:
                raise BrainError(f"it stated a preference that cannot be read: {given}") from error
            for key, names in attributes.items():
                for name in names:
                    if problems := self._queries.vocabulary.problems({key: name}):
                        raise BrainError(
                            "it used attribute values the target does not define: "
                            f"{'; '.join(problems)}"
                        )
        return tuple(preferences)

    def _call(self, text: str, facts: Sequence[str]) -> tuple[Any, str]:
        """Call the model and journal it; return its first tool call, or None, and its text."""
        session = self._live.session
        settings = session.settings
        spending = spent(session.journal, settings.brain, settings.llm)
        question = HumanMessage(quote(text, 1000))
        messages = [SystemMessage(self._system_prompt(facts)), *self._history, question]
        tools = self._tools()
        if reason := spending.reason_against(messages, tools):
            raise BrainError(reason)
        started = time.monotonic()
        answer = self._chat_model().bind_tools(tools).invoke(messages)
        usage = spending.usage(answer)
        call = answer.tool_calls[0] if answer.tool_calls else None
        content = json.dumps(call["args"]) if call else without_thoughts(str(answer.text))
        session.journal.append(
            ChatCallEvent(
                author=settings.brain,
                question=text,
                tool=call["name"] if call else None,
                answer=content[:2000],
                tokens=Tokens(prompt=usage.prompt, answer=usage.answer),
                usd=usage.usd,
                seconds=round(time.monotonic() - started, 3),
            )
        )
        self._history = [*self._history, question, AIMessage(content[:500])][-_N_REMEMBERED:]
        return call, content

    def _chat_model(self) -> BaseChatModel:
        if self._model is None:
            from agent import brains
            from agent.brains.probe import build_probed

            session, components = self._live.session, self._live.components
            name, llm = session.settings.brain, session.settings.llm
            context = brains.BrainContext(
                components.distribution, components.target.vocabulary, llm
            )
            brain = build_probed(name, context, session.journal)
            if not isinstance(brain, brains.ChatBrain):
                raise BrainError(f"the brain {name} is not a chat model")
            self._model = brain.model
        return self._model

    def _system_prompt(self, facts: Sequence[str]) -> str:
        settings = self._live.session.settings
        n_chars = int(settings.llm.context_tokens * _CHARS_PER_TOKEN)
        words = self._queries.vocabulary.attributes.items()
        return render(
            "chat",
            target=settings.target.name,
            commands="\n".join(
                f"- {f'{name} {COMMANDS[name].arguments}'.strip()}: {COMMANDS[name].help}"
                for name in _COMMANDS
            ),
            words="\n".join(f"- {key}: {', '.join(names)}" for key, names in words),
            facts="\n".join(facts)[:n_chars],
        )

    def _tools(self) -> list[dict[str, Any]]:
        share = {"type": "number", "minimum": 0, "maximum": 1}
        values = {
            key: {"type": "array", "items": {"enum": list(names)}}
            for key, names in self._queries.vocabulary.attributes.items()
        }
        preference = {
            "attributes": {"type": "object", "properties": values, "additionalProperties": False},
            "min_share": {**share, "description": "least share of the images; 1: only these"},
            "max_share": {**share, "description": "greatest share of the images; 0: none"},
            "factor": {
                "type": "number",
                "minimum": 1 / MAX_FACTOR,
                "maximum": MAX_FACTOR,
                "description": "more (2) or fewer (0.5) than now; not beside a share",
            },
            "text": {"type": "string", "maxLength": 300, "description": "for what no value says"},
        }
        item = {"type": "object", "properties": preference, "additionalProperties": False}
        preferences = {"type": "array", "items": item, "minItems": 1, "maxItems": _MAX_PREFERENCES}
        reply = {"type": "string", "maxLength": 600}
        line = {"type": "string", "pattern": rf"^({'|'.join(_COMMANDS)})( .*)?$", "maxLength": 200}
        return [
            _tool("reply", "Answer the person.", "text", reply),
            _tool("prefer", "State what the person wants of plans.", "preferences", preferences),
            _tool("command", "Run a command with its arguments.", "line", line),
        ]


def _tool(name: str, description: str, argument: str, schema: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {argument: schema}, "required": [argument]}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}
