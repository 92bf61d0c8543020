"""A session whose outside is its journal: nothing is drawn, trained, searched or asked.

Everything else is the program itself: the graph, the decider, the tools' checks and words, credit
and verdicts. What they would write into the journal is compared with what it holds.
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
    """The settings and the journal of a recorded session, as they were at the place reached."""

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
        """The name of the session that wrote the next event: before a fork, that of its source."""
        forks = self.journal.events(ForkedEvent)
        return forks[-1].session if forks else self.head.session


@dataclass(frozen=True)
class RecordedTarget:
    """Name, classes and vocabulary of the target, as journaled."""

    name: str
    class_names: Sequence[str]
    vocabulary: Vocabulary


class RecordedEffects:
    """The outcomes that a journal holds, in place of the work; see `agent.loop.effects.Effects`.

    `reworded` has the texts of tools that the program words otherwise by now, by the tool's name:
    as recorded, and as they are. The loop is shown the recorded ones.
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
        # As the tools were offered; "pull" is left out of them where it is not possible.
        offers = json.dumps([e.tools for e in offered])
        prompts = [prompt for e in plans for prompt in e.plan.prompts]
        self._supports = {
            "accepts_feedback": '"pull"' in offers or any(prompt.pull for prompt in prompts),
            "accepts_guidance": '"guidance"' in offers,
        }

    @property
    def observer(self) -> Observer:
        """Nobody watches; tells whether a person could be asked."""
        observer = Observer()
        observer.interactive = self._session.interactive
        return observer

    def word(self, tools: list[Json]) -> list[Json]:
        """Return the tools that were offered, where they differ in their texts alone.

        Those of an earlier version of the record are returned as they were.
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
        """Return what a record of an earlier version began the round with."""
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
        """Return the tokens of a text that was planned; others were refused, and 0 stands."""
        return self._n_tokens.get(text, 0)

    def supports(self, feature: str, round_number: int) -> bool:
        """Return whether the generator had a feature when the round began."""
        if feature in self._supports:
            return self._supports[feature]
        facts = self._journal.outcome(f"opening/{round_number}", OpeningEvent).facts
        return bool(facts.get(feature, False))

    def undrawn(self, text: str) -> Sequence[str]:
        """Return the words of a text that was planned which the generator could not draw."""
        return self._undrawn.get(text, ())

    def recall(
        self, round_number: int, query: str
    ) -> tuple[Sequence[MemoryItem], Sequence[SearchHit]]:
        """Return what the memory gave at the start of the round."""
        facts = self._journal.outcome(f"opening/{round_number}", OpeningEvent).facts
        return _ITEMS.validate_python(facts["lessons"]), _HITS.validate_python(facts["similar"])

    def draft(self, seen: Observation) -> PolicyDraft | None:
        """Return the draft that the round began with."""
        facts = self._journal.outcome(f"opening/{seen.round}", OpeningEvent).facts
        return PolicyDraft.model_validate(facts["draft"]) if "draft" in facts else None

    def coverage(self, seen: Observation) -> Mapping[str, tuple[float, float]]:
        """Return the coverage that the round began with."""
        facts = self._journal.outcome(f"opening/{seen.round}", OpeningEvent).facts
        return _COVERAGE.validate_python(facts.get("coverage", {}))

    def search(self, key: str, query: str, n: int) -> str:
        """Return what the memory gave for this call."""
        return self._journal.outcome(key, ToolCallEvent).result

    def expect(self, plan: Plan) -> Expectation:
        """Return what was expected of the plan."""
        event = self._journal.outcome(f"plan/{plan.round}", PlanEvent)
        return Expectation.model_validate({**event.expectation, "seconds": None})

    def nearest(self, plan: Plan) -> dict[str, str]:
        """Return nothing: who was asked about the plan has answered."""
        return {}

    def remember(self, events: Sequence[Event]) -> None:
        """Leave the memory as it is."""

    @property
    def begins_with_baseline(self) -> bool:
        """Whether round 0 is recorded."""
        return self._journal.find("training/0", TrainingEvent) is not None

    def worked_s(self) -> float:
        """Take no time."""
        return 0.0

    def stage(self, name: str, round_number: int) -> AbstractContextManager[None]:
        """Keep no limits."""
        return nullcontext()

    def load_generator(self) -> str:
        """Return the identity of the generator that drew."""
        return self._journal.outcome("generator", GeneratorEvent).identity

    def draw(self, plan: Plan) -> Batch:
        """Return what was drawn."""
        return self._journal.outcome(f"batch/{plan.round}", BatchEvent).batch

    def train(self, number: int) -> Training:
        """Return what was trained."""
        return self._journal.outcome(f"training/{number}", TrainingEvent).training

    def evaluate(self, training: Training) -> Report:
        """Return what was measured."""
        return self._journal.outcome(f"report/{training.round}", ReportEvent).report

    def inspect(self, number: int) -> tuple[Failure, ...]:
        """Return the failures that were found."""
        return self._journal.outcome(f"failures/{number}", FailuresEvent).failures

    def analyse(
        self, key: str, round_number: int, by: Sequence[str], where: Mapping[str, str]
    ) -> str:
        """Return the figures of this call."""
        return self._journal.outcome(key, ToolCallEvent).result

    def look(self, key: str, round_number: int, subject: Subject) -> Look:
        """Return what was shown."""
        if key.startswith("opening/"):
            opening = self._journal.outcome(key, OpeningEvent)
            return Look(opening.facts["look"], opening.images)
        call = self._journal.outcome(key, ToolCallEvent)
        return Look(call.result, call.images)

    def picture(self, sha256: str) -> bytes | None:
        """Return nothing: no model is asked."""
        return None

    def ask(self, request: ApprovalRequest, kind: type[E]) -> E:
        """Return the recorded answer: it was journaled before the loop went on."""
        if answer := self._journal.get(request.key, kind):
            return answer
        if not self._journal.finished:
            self._journal.refuse("a question to the person")
        raise EndOfRecord


class RecordedBrain:
    """Gives the journal's answers, in the form of that time.

    stands_in: whether it is who answers after a fallback; else it fails where the brain did.
    """

    def __init__(self, journal: RecordedJournal, stands_in: bool = False) -> None:
        self._journal, self._stands_in = journal, stands_in

    @property
    def mode(self) -> Mode:
        """How the tools of the next question were offered."""
        call = self._journal.upcoming(ModelCallEvent)
        event = self._journal.outcome(f"tools/{call.offer}", ToolsEvent) if call else None
        return "json" if event and event.mode == "json" else "native"

    def decide(self, turn: Turn) -> AIMessage:
        """Return the recorded answer; raises Divergence when another question was asked."""
        key = f"{turn.round}/{turn.number}"
        fallback = self._journal.find(f"fallback/{key}", FallbackEvent)
        if fallback and not self._stands_in:
            raise BrainError(fallback.reason)
        return answer_of(self._journal.outcome(f"model_call/{key}", ModelCallEvent))


def _bare(schema: Any) -> Any:
    """Return a JSON schema without the texts that only explain it."""
    if isinstance(schema, Mapping):
        return {
            key: _bare(value)
            for key, value in schema.items()
            if not (key in ("description", "title") and isinstance(value, str))
        }
    return [_bare(item) for item in schema] if isinstance(schema, list | tuple) else schema


def _text(tool: Json) -> str:
    return json.dumps(tool, indent=1, ensure_ascii=False)
