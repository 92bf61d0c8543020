"""A session whose outside is its journal: nothing is drawn, trained, searched or asked.

Everything else is the program itself: the graph, the decider, the tools' checks and words, credit
and verdicts. What they would write into the journal is compared with what it holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import AIMessage

from agent.brains import Mode, Turn
from agent.brains.recorded import answer_of
from agent.config.settings import Settings
from agent.loop.expectations import Expectation
from agent.loop.observations import LOOK_BACK, seconds_per_image
from agent.loop.observer import Observer
from agent.loop.proposals import Proposals
from agent.loop.stages import Stages
from agent.loop.toolbox import Toolbox
from agent.replay.recorded_journal import RecordedJournal
from memory.errors import BrainError
from memory.journal import Event, head_of
from memory.records import Batch, Failure, Plan, Report, Training
from prompts.vocabulary import Vocabulary

if TYPE_CHECKING:
    from agent.loop.components import Components


class RecordedSession:
    """The settings and the journal of a recorded session, as they were at the place reached."""

    def __init__(self, everything: Sequence[Event]) -> None:
        self.head = head_of(everything)
        self.journal = RecordedJournal(everything)
        events = self.journal.recorded
        self.folder = Path()
        self._starts = [
            (i, e) for i, e in enumerate(events) if "settings" in e and "interactive" in e
        ]
        self._settings: dict[int, Settings] = {}

    def _start(self) -> tuple[int, Event]:
        """Return the start or resumption that the next event belongs to."""
        return [start for start in self._starts if start[0] <= self.journal.next][-1]

    @property
    def settings(self) -> Settings:
        """The settings of the start or resumption that the next event belongs to."""
        place, event = self._start()
        if place not in self._settings:
            self._settings[place] = Settings.model_validate(event["settings"])
        return self._settings[place]

    @property
    def interactive(self) -> bool:
        """Whether a person could be asked."""
        return bool(self._start()[1]["interactive"])

    @property
    def name(self) -> str:
        """The name of the session that wrote the next event: before a fork, that of its source."""
        forks = self.journal.events("forked")
        return str((forks[-1] if forks else self.head)["session"])


@dataclass(frozen=True)
class RecordedTarget:
    """What of the target the brain was told."""

    name: str
    class_names: Sequence[str]
    vocabulary: Vocabulary


class RecordedGenerator:
    """Counts tokens, and names the words it cannot draw, as the generator did; it draws nothing."""

    def __init__(self, events: Sequence[Event]) -> None:
        plans = [e for e in events if e["kind"] == "plan"]
        self._n_tokens = {text: n for e in plans for text, n in e["n_tokens"].items()}
        self._undrawn: dict[str, list[str]] = {
            text: words for e in plans for text, words in e.get("undrawn", {}).items()
        }
        self.max_tokens = int(plans[0]["max_tokens"]) if plans else 0
        # As the tools were offered; "pull" is left out of them where it is not possible.
        self.can_be_pulled = any(
            '"pull"' in json.dumps(e["tools"]) for e in events if e["kind"] == "tools"
        ) or any(prompt.get("pull") for e in plans for prompt in e["plan"]["prompts"])

    def count_tokens(self, text: str) -> int:
        """Return the tokens of a text that was planned; others were refused, and 0 stands."""
        return int(self._n_tokens.get(text, 0))

    def undrawn(self, text: str) -> Sequence[str]:
        """Return the words of a text that was planned, see `tools.generators.undrawn`."""
        return self._undrawn.get(text, ())


class _NoMemory:
    def add(self, items: Sequence[object]) -> None:
        """Leave the memory as it is."""


class _Silent(Observer):
    def __init__(self, session: RecordedSession) -> None:
        self._session = session

    @property
    def interactive(self) -> bool:  # type: ignore[override]
        """Whether a person could be asked."""
        return self._session.interactive


class RecordedBench:
    """Stands in for `agent.loop.components.Components`."""

    def __init__(self, session: RecordedSession) -> None:
        self.session = session
        self.observer = _Silent(session)
        self.target = RecordedTarget(
            name=session.head["target"],
            class_names=session.head["class_names"],
            vocabulary=Vocabulary.model_validate(session.head["vocabulary"]),
        )
        self.generator = RecordedGenerator(session.journal.recorded)
        self.memory = _NoMemory()


class RecordedStages(Stages):
    """The stages of a round, their results taken from the journal."""

    def __init__(self, bench: RecordedBench) -> None:
        super().__init__(cast("Components", bench))
        self._record = bench.session.journal

    @contextmanager
    def timed(self, name: str, number: int) -> Iterator[None]:
        """Take no time."""
        yield
        self._record.append(
            "stage", key=f"stage/{number}/{name}", round=number, stage=name, seconds=0.0
        )

    def load_generator(self) -> str:
        """Return the identity of the generator that drew."""
        return str(self._record.outcome("generator")["identity"])

    def draw(self, plan: Plan) -> Batch:
        """Return what was drawn."""
        return Batch.model_validate(self._record.outcome(f"batch/{plan.round}")["batch"])

    def train(self, number: int) -> Training:
        """Return what was trained."""
        return Training.model_validate(self._record.outcome(f"training/{number}")["training"])

    def evaluate(self, training: Training) -> Report:
        """Return what was measured."""
        return Report.model_validate(self._record.outcome(f"report/{training.round}")["report"])

    def inspect(self, number: int) -> tuple[Failure, ...]:
        """Return the failures that were found."""
        event = self._record.outcome(f"failures/{number}")
        return tuple(Failure.model_validate(f) for f in event["failures"])


class RecordedProposals(Proposals):
    """Plans of drafts, what they may expect taken from the journal."""

    def __init__(self, bench: RecordedBench) -> None:
        super().__init__(cast("Components", bench))
        self._record = bench.session.journal

    def expect(self, plan: Plan) -> Expectation:
        """Return what was expected, the time from the rounds so far."""
        known = self._record.outcome(f"plan/{plan.round}")["expectation"]
        speed = seconds_per_image(self._record.rounds(LOOK_BACK))
        seconds = None if speed is None else speed * plan.n_images
        return Expectation.model_validate({**known, "seconds": seconds})


class RecordedToolbox(Toolbox):
    """The tools, what comes from outside of the graph taken from the journal."""

    def __init__(self, session: RecordedSession) -> None:
        bench = RecordedBench(session)
        super().__init__(cast("Components", bench), RecordedStages(bench), RecordedProposals(bench))
        self._record = session.journal

    def opening(
        self, round_number: int, tokens_left: int | None, usd_left: float | None
    ) -> list[Any]:
        """Make the first messages of a round again from what it began with."""
        told = self._record.recorded[self._record.next :][:1]
        if told and told[0]["kind"] == "told":
            self._record.append("told", round=round_number, wishes=told[0]["wishes"])
        known = self._record.outcome(f"opening/{round_number}")
        self._record.append("opening", key=known["key"], round=round_number, facts=known["facts"])
        return super().opening(round_number, tokens_left, usd_left)

    def _recall(self, query: str, n: int) -> str:
        return str(self._record.outcome(f"tool_call/{self._round}/{self._call_id}")["result"])


class RecordedBrain:
    """Gives the journal's answers, in the form of that time.

    stands_in: whether it is who answers after a fallback; else it fails where the brain did.
    """

    def __init__(self, journal: RecordedJournal, stands_in: bool = False) -> None:
        self._journal, self._stands_in = journal, stands_in

    @property
    def mode(self) -> Mode:
        """How the tools of the next question were offered."""
        call = self._journal.upcoming("model_call")
        offered = self._journal.outcome(f"tools/{call['offer']}") if call else None
        return "json" if offered and offered["mode"] == "json" else "native"

    def decide(self, turn: Turn) -> AIMessage:
        """Return the recorded answer; raises Divergence when another question was asked."""
        if not self._stands_in:
            fallback = self._journal.find(f"fallback/{turn.round}/{turn.number}")
            if fallback:
                raise BrainError(fallback["reason"])
        return answer_of(self._journal.outcome(f"model_call/{turn.round}/{turn.number}"))
