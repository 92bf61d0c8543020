"""Effects and brain of a replay: outcomes come from the journal, nothing is drawn or trained.

Everything else is the program itself: the graph, the decider, checks and messages of the tools,
credit and verdicts. The events that they write are compared with the journal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage
from pydantic import TypeAdapter

from agent.brains import Mode, Turn, answer_of
from agent.config.settings import Settings
from agent.config.stored import read_stored
from agent.loop.approval import ApprovalRequest
from agent.loop.drafts import PolicyDraft
from agent.loop.expectations import Expectation
from agent.loop.eyes import Look, Subject
from agent.loop.observer import Observer
from agent.loop.state import E
from agent.planners import Observation
from agent.replay.recorded_journal import EndOfRecord, RecordedJournal
from memory.errors import BrainError
from memory.events import (
    BatchEvent,
    Event,
    FailuresEvent,
    FallbackEvent,
    ForkedEvent,
    GeneratorEvent,
    HeadEvent,
    ModelCallEvent,
    OpeningEvent,
    PlanEvent,
    ReportEvent,
    ResumedEvent,
    ToolCallEvent,
    ToolsEvent,
    TrainingEvent,
)
from memory.items import MemoryItem, SearchHit
from memory.journal import RECORD_VERSION, head_of
from memory.records import Batch, Failure, Plan, Report, Training
from prompts.vocabulary import Vocabulary

Json = dict[str, Any]

_ITEMS, _HITS = TypeAdapter(list[MemoryItem]), TypeAdapter(list[SearchHit])
_COVERAGE = TypeAdapter(dict[str, tuple[float, float]])


class RecordedSession:
    """The settings and the journal of a recorded session, as of the next event of the replay."""

    def __init__(self, everything: Sequence[Event]) -> None:
        self.head = head_of(everything)
        self.journal = RecordedJournal(everything)
        self._starts = [
            (place, event)
            for place, event in enumerate(self.journal.recorded)
            if isinstance(event, HeadEvent | ResumedEvent)
        ]
        self._settings: dict[int, Settings] = {}

    def _start(self) -> tuple[int, HeadEvent | ResumedEvent]:
        """Return the start or resumption that the next event belongs to."""
        return [start for start in self._starts if start[0] <= self.journal.next][-1]

    @property
    def settings(self) -> Settings:
        """The settings of the start or resumption that the next event belongs to."""
        place, event = self._start()
        if place not in self._settings:
            self._settings[place] = read_stored(event.settings)
        return self._settings[place]

    @property
    def interactive(self) -> bool:
        """Whether a person could be asked."""
        return self._start()[1].interactive

    @property
    def name(self) -> str:
        """The name of the session that wrote the next event; before a fork, its source's name."""
        forks = self.journal.events(ForkedEvent)
        return forks[-1].session if forks else self.head.session


@dataclass(frozen=True)
class RecordedTarget:
    """Name, classes and vocabulary of the target from the journal."""

    name: str
    class_names: Sequence[str]
    vocabulary: Vocabulary


class RecordedEffects:
    """Effects of a replay, which return recorded outcomes; see `agent.loop.effects.Effects`.

    Attributes:
        reworded: Recorded and current schema, as text, of tools whose wording has changed, by name.
            The loop uses the recorded one.
    """

    def __init__(self, session: RecordedSession) -> None:
        self._session, self._journal = session, session.journal
        self.reworded: dict[str, tuple[str, str]] = {}
        self.target = RecordedTarget(
            name=session.head.target,
            class_names=session.head.class_names,
            vocabulary=Vocabulary.model_validate(session.head.vocabulary),
        )
        self.templates: Mapping[str, str] = session.head.templates
        plans = [e for e in self._journal.recorded if isinstance(e, PlanEvent)]
        offered = [e for e in self._journal.recorded if isinstance(e, ToolsEvent)]
        self._n_tokens = {text: n for e in plans for text, n in e.n_tokens.items()}
        self._undrawn = {text: words for e in plans for text, words in e.undrawn.items()}
        self.max_tokens = plans[0].max_tokens if plans else 0
        # Features of the generator, inferred from the schemas of the offered tools.
        offers = json.dumps([e.tools for e in offered])
        prompts = [prompt for e in plans for prompt in e.plan.prompts]
        self._supports = {
            "accepts_feedback": '"pull"' in offers or any(prompt.pull for prompt in prompts),
            "accepts_guidance": '"guidance"' in offers,
        }

    @property
    def observer(self) -> Observer:
        """An observer without output that says whether a person could be asked."""
        observer = Observer()
        observer.interactive = self._session.interactive
        return observer

    def word(self, tools: list[Json]) -> list[Json]:
        """Return the recorded tools if only their descriptions differ, else the given ones.

        For a record of an earlier version, equal names suffice.
        """
        call = self._journal.upcoming(ModelCallEvent)
        event = self._journal.find(f"tools/{call.offer}", ToolsEvent) if call else None
        if event is None or not self._is_same_offer(event.tools, tools):
            return tools
        recorded = list(event.tools)
        for old, new in zip(recorded, tools, strict=True):
            if old != new:
                name: str = new["function"]["name"]
                self.reworded[name] = (_text(old), _text(new))
        return recorded

    def opening(self, round_number: int) -> list[AnyMessage] | None:
        """Return the recorded opening messages for records of an earlier version, else None."""
        call = self._journal.find(f"model_call/{round_number}/0", ModelCallEvent)
        if call is None or self._session.head.record == RECORD_VERSION:
            return None
        kinds = {"system": SystemMessage, "human": HumanMessage}
        return [kinds[message.role](message.content) for message in call.messages]

    def _is_same_offer(self, recorded: Sequence[Json], now: Sequence[Json]) -> bool:
        if self._session.head.record == RECORD_VERSION:
            return bool(_bare(recorded) == _bare(now))
        return [t["function"]["name"] for t in recorded] == [t["function"]["name"] for t in now]

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a planned text; 0 for others, which were refused."""
        return self._n_tokens.get(text, 0)

    def supports(self, feature: str, round_number: int) -> bool:
        """Return whether the generator had a feature when the round began."""
        if feature in self._supports:
            return self._supports[feature]
        facts = self._journal.outcome(f"opening/{round_number}", OpeningEvent).facts
        return bool(facts.get(feature, False))

    def undrawn(self, text: str) -> Sequence[str]:
        """Return the words of a planned text that the generator could not draw."""
        return self._undrawn.get(text, ())

    def recall(
        self, round_number: int, query: str
    ) -> tuple[Sequence[MemoryItem], Sequence[SearchHit]]:
        """Return the lessons and hits of the memory at the start of the round."""
        facts = self._journal.outcome(f"opening/{round_number}", OpeningEvent).facts
        return _ITEMS.validate_python(facts["lessons"]), _HITS.validate_python(facts["similar"])

    def draft(self, seen: Observation) -> PolicyDraft | None:
        """Return the draft of the round's opening, None without one."""
        facts = self._journal.outcome(f"opening/{seen.round}", OpeningEvent).facts
        return PolicyDraft.model_validate(facts["draft"]) if "draft" in facts else None

    def coverage(self, seen: Observation) -> Mapping[str, tuple[float, float]]:
        """Return the coverage of the round's opening."""
        facts = self._journal.outcome(f"opening/{seen.round}", OpeningEvent).facts
        return _COVERAGE.validate_python(facts.get("coverage", {}))

    def search(self, key: str, query: str, n: int) -> str:
        """Return the recorded result of this search."""
        return self._journal.outcome(key, ToolCallEvent).result

    def expect(self, plan: Plan) -> Expectation:
        """Return the recorded expectation of the plan."""
        event = self._journal.outcome(f"plan/{plan.round}", PlanEvent)
        return Expectation.model_validate({**event.expectation, "seconds": None})

    def nearest(self, plan: Plan) -> dict[str, str]:
        """Return {}: they are shown for approval, which is recorded."""
        return {}

    def remember(self, events: Sequence[Event]) -> None:
        """Do nothing: a replay does not change the memory."""

    @property
    def begins_with_baseline(self) -> bool:
        """Whether round 0 is recorded."""
        return self._journal.find("training/0", TrainingEvent) is not None

    def worked_s(self) -> float:
        """Return 0: a replay has no time limit."""
        return 0.0

    def stage(self, name: str, round_number: int) -> AbstractContextManager[None]:
        """Return a context without effect: a replay has no limits."""
        return nullcontext()

    def load_generator(self) -> str:
        """Return the recorded identity of the generator."""
        return self._journal.outcome("generator", GeneratorEvent).identity

    def draw(self, plan: Plan) -> Batch:
        """Return the recorded batch."""
        return self._journal.outcome(f"batch/{plan.round}", BatchEvent).batch

    def train(self, number: int) -> Training:
        """Return the recorded training."""
        return self._journal.outcome(f"training/{number}", TrainingEvent).training

    def evaluate(self, training: Training) -> Report:
        """Return the recorded report."""
        return self._journal.outcome(f"report/{training.round}", ReportEvent).report

    def inspect(self, number: int) -> tuple[Failure, ...]:
        """Return the recorded failures."""
        return self._journal.outcome(f"failures/{number}", FailuresEvent).failures

    def analyse(
        self, key: str, round_number: int, by: Sequence[str], where: Mapping[str, str]
    ) -> str:
        """Return the recorded result of this call."""
        return self._journal.outcome(key, ToolCallEvent).result

    def look(self, key: str, round_number: int, subject: Subject) -> Look:
        """Return the recorded text and pictures."""
        if key.startswith("opening/"):
            opening = self._journal.outcome(key, OpeningEvent)
            return Look(opening.facts["look"], opening.images)
        call = self._journal.outcome(key, ToolCallEvent)
        return Look(call.result, call.images)

    def picture(self, sha256: str) -> bytes | None:
        """Return None: no model is asked."""
        return None

    def ask(self, request: ApprovalRequest, kind: type[E]) -> E:
        """Return the recorded answer, which was journaled before the loop continued."""
        if answer := self._journal.get(request.key, kind):
            return answer
        if not self._journal.finished:
            self._journal.refuse("a question to the person")
        raise EndOfRecord


class RecordedBrain:
    """A brain that returns the answers of a journal.

    stands_in: whether it is the stand-in that answers after a fallback; else it raises BrainError
    where the recorded brain failed.
    """

    def __init__(self, journal: RecordedJournal, stands_in: bool = False) -> None:
        self._journal, self._stands_in = journal, stands_in

    @property
    def mode(self) -> Mode:
        """How the tools of the next model call were offered."""
        call = self._journal.upcoming(ModelCallEvent)
        event = self._journal.outcome(f"tools/{call.offer}", ToolsEvent) if call else None
        return "json" if event and event.mode == "json" else "native"

    def decide(self, turn: Turn) -> AIMessage:
        """Return the recorded answer; raises Divergence if the journal has another event here."""
        key = f"{turn.round}/{turn.number}"
        fallback = self._journal.find(f"fallback/{key}", FallbackEvent)
        if fallback and not self._stands_in:
            raise BrainError(fallback.reason)
        return answer_of(self._journal.outcome(f"model_call/{key}", ModelCallEvent))


def _bare(schema: Any) -> Any:
    """Return a JSON schema without descriptions and titles."""
    if isinstance(schema, Mapping):
        return {
            key: _bare(value)
            for key, value in schema.items()
            if not (key in ("description", "title") and isinstance(value, str))
        }
    return [_bare(item) for item in schema] if isinstance(schema, list | tuple) else schema


def _text(tool: Json) -> str:
    return json.dumps(tool, indent=1, ensure_ascii=False)
