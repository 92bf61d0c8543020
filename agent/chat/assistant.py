"""Plain words that go to a language model: it answers, takes a wish down, or calls a command.

The call runs beside the session, is journaled as `chat_call` and counts against its budgets. When
the model cannot be reached, or makes no sense, the small parser of `agent.steering.grammar` steps
in.
"""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage
from pydantic import Field, ValidationError

from agent.brains import planner_of
from agent.brains.spending import Usage, spent
from agent.chat.live import LiveSession
from agent.chat.overview import say_progress
from agent.planners import distribution_of
from agent.steering.preferences import (
    STEERING,
    Preference,
    active_preferences,
    bounds,
    effects,
    say_effects,
)
from eval.report.blocks import Line, failure_lines, plain, report_lines
from memory.errors import BrainError, ShapingError
from memory.records import Record
from prompts.printable import one_line
from prompts.render import quote, render

if TYPE_CHECKING:
    from agent.chat.conversation import Conversation

# Commands that a model may call for a person: none that decides on a plan or takes work back.
COMMANDS = ("status", "failures", "show", "plan", "pause", "continue", "stop", "why", "budget")
_N_REMEMBERED = 6
_MAX_FACTS = 4000


class _Wish(Record):
    kind: Literal["more", "fewer", "only", "avoid", "focus", "note"]
    attributes: dict[str, str] = Field(default_factory=dict)
    text: str = Field("", max_length=300)


class Talk:
    """A person's talk with the session's language model, where it has one."""

    def __init__(self, live: LiveSession) -> None:
        self._live = live
        self._said: list[AnyMessage] = []
        self._brain: Any = None

    @property
    def possible(self) -> bool:
        """Tell whether the brain is a language model."""
        brain = self._live.session.settings.brain
        return planner_of(brain) is None and not brain.startswith("scripted:")

    def ask(self, text: str, conversation: Conversation) -> threading.Thread:
        """Ask the model beside the session; the answer is told as an event `blocks`."""

        def answer() -> None:
            try:
                blocks = self._answer(text, conversation)
            except ShapingError as error:
                self._live.tell("warning", f"The model gave no answer: {error}")
                blocks = conversation.follow(text)
            self._live.tell("blocks", record=blocks)

        thread = threading.Thread(target=answer, name="talk", daemon=True)
        thread.start()
        return thread

    def _answer(self, text: str, conversation: Conversation) -> list[Any]:
        call, said = self._call(text, conversation)
        name, arguments = (call["name"], call["args"]) if call else ("reply", {"text": said})
        if name == "wish":
            try:
                wish = _Wish.model_validate(arguments)
            except ValidationError as error:
                raise BrainError("it made a wish that cannot be read") from error
            vocabulary = conversation.vocabulary
            if vocabulary.problems(wish.attributes):
                raise BrainError("it made a wish with words that the target has not")
            attributes: dict[str, tuple[str, ...]] = {k: (v,) for k, v in wish.attributes.items()}
            demand = bounds(wish.kind) if attributes else {}
            return conversation.wish(Preference(attributes=attributes, **demand), wish.text or text)
        if name == "command":
            return conversation.say("/" + str(arguments.get("line", "status")).lstrip("/")[:200])
        answer = str(arguments.get("text", "")).strip()
        if not answer:
            raise BrainError("its answer is empty")
        return [Line(one_line(answer, 1500))]

    def _call(self, text: str, conversation: Conversation) -> tuple[Any, str]:
        """Return the model's tool call, if it made one, and its text; journal and count them."""
        session = self._live.session
        spending = spent(session.journal, session.settings.brain, session.settings.llm)
        question = HumanMessage(quote(text, 1000))
        messages = [SystemMessage(self._briefing(conversation)), *self._said, question]
        tools = _tools(conversation)
        if reason := spending.reason_against(messages, tools):
            raise BrainError(reason)
        started = time.monotonic()
        answer = self._model().bind_tools(tools).invoke(messages)
        usage: Usage = spending.usage(answer)
        call = answer.tool_calls[0] if answer.tool_calls else None
        said = json.dumps(call["args"]) if call else str(answer.content)
        session.journal.append(
            "chat_call",
            author=session.settings.brain,
            question=text,
            tool=call["name"] if call else None,
            answer=said[:2000],
            tokens={"prompt": usage.prompt, "answer": usage.answer},
            usd=usage.usd,
            seconds=round(time.monotonic() - started, 3),
        )
        self._said = [*self._said, question, AIMessage(said[:500])][-_N_REMEMBERED:]
        return call, str(answer.content)

    def _model(self) -> Any:
        if self._brain is None:
            from agent import brains
            from agent.brains import BrainContext, ChatBrain
            from agent.brains.probe import with_mode

            session, target = self._live.session, self._live.bench.target
            context = BrainContext(distribution_of(target), target.vocabulary, session.settings.llm)
            settings = session.settings
            brain = with_mode(brains.build(settings.brain, context), settings.llm, session.journal)
            if not isinstance(brain, ChatBrain):
                raise BrainError(f"the brain {settings.brain} is no chat model")
            self._brain = brain.model
        return self._brain

    def _briefing(self, conversation: Conversation) -> str:
        session = self._live.session
        past, events = session.rounds(), session.journal.events(*STEERING)
        reports = [r.report for r in past if r.report]
        plan = next((r.plan for r in reversed(past) if r.plan), None)
        facts = [f"The session: {say_progress(self._live)}."]
        if reports:
            facts.append(
                plain(report_lines(reports[-1], reports[-2] if len(reports) > 1 else None))
            )
            facts.append(
                plain(failure_lines(next((r.failures for r in reversed(past) if r.failures), ())))
            )
        if plan:
            facts.append(f"The last plan, of round {plan.round}: {quote(plan.why, 300)}")
        held = active_preferences(events)
        facts += [f"Wish {wish.id}: {wish.say()}" for wish in held]
        facts += [f"Effect of {line}" for line in say_effects(effects(held, events, past))]
        words = [f"- {k}: {', '.join(v)}" for k, v in conversation.vocabulary.attributes.items()]
        return render(
            "chat",
            target=session.settings.target.name,
            commands=", ".join(COMMANDS),
            words="\n".join(words),
            facts="\n".join(facts)[:_MAX_FACTS],
        )


def _tools(conversation: Conversation) -> list[dict[str, Any]]:
    text = {"type": "string", "maxLength": 600}
    values = {
        key: {"enum": list(known)} for key, known in conversation.vocabulary.attributes.items()
    }
    attributes = {"type": "object", "properties": values, "additionalProperties": False}
    kinds = {"enum": ["more", "fewer", "only", "avoid", "focus", "note"]}
    return [
        _tool("reply", "Answer the person.", {"text": text}),
        _tool(
            "wish",
            "Take down what the person wants of the next plans.",
            {"kind": kinds, "attributes": attributes, "text": {"type": "string", "maxLength": 300}},
        ),
        _tool("command", "Do a command, e.g. 'failures'.", {"line": {"enum": list(COMMANDS)}}),
    ]


def _tool(name: str, told: str, properties: dict[str, Any]) -> dict[str, Any]:
    required = [key for key in properties if name != "wish" or key == "kind"]
    parameters = {"type": "object", "properties": properties, "required": required}
    function = {"name": name, "description": told, "parameters": parameters}
    return {"type": "function", "function": function}
