"""Sessions in milliseconds: the real graph and tools around effects that invent results."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from langchain_core.language_models import BaseChatModel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import interrupt

from agent import brains
from agent.brains import Brain, BrainContext, ChatBrain, Mode, planner_brain
from agent.brains.scripted import ScriptedModel
from agent.brains.sight import require_sight
from agent.config.settings import Settings, load_settings
from agent.loop import eyes
from agent.loop.approval import ApprovalRequest
from agent.loop.context import prompt_files
from agent.loop.drafts import PolicyDraft, policy_draft
from agent.loop.expectations import Expectation, expect
from agent.loop.eyes import Look, Subject
from agent.loop.graph import build_graph
from agent.loop.observations import session_head
from agent.loop.observer import Observer
from agent.loop.state import E, TargetView, new_round
from agent.planners import AttributeCombination, AttributeDistribution, Observation
from agent.session.folder import Session, store_settings
from eval.montage import montage_png
from memory.events import (
    AnswerEvent,
    Event,
    HeadEvent,
    ResumedEvent,
    RoundDoneEvent,
)
from memory.files import write_bytes
from memory.items import MemoryItem, SearchHit
from memory.journal import Journal, read_events, rounds
from memory.records import (
    Batch,
    Failure,
    Plan,
    PromptQuality,
    Report,
    Round,
    Shard,
    Training,
)
from prompts.vocabulary import Vocabulary, load_vocabulary
from tests.factories import estimate, failure, report, slice_score

VOCABULARY = load_vocabulary("elpv")
PALETTE = AttributeDistribution(
    rows=tuple(
        AttributeCombination(
            attributes={"wafer": wafer, "severity": severity, "brightness": brightness},
            class_name=VOCABULARY.class_of[severity],
            n=n,
        )
        for n, (wafer, severity, brightness) in enumerate(
            [
                ("poly", "defective", "dark"),
                ("poly", "functional", "dark"),
                ("mono", "defective", "bright"),
                ("mono", "functional", "medium"),
            ],
            start=20,
        )
    )
)


class Target(NamedTuple):
    """What a brain is told of the target."""

    name: str
    class_names: tuple[str, ...]
    vocabulary: Vocabulary


TARGET = Target("elpv", tuple(VOCABULARY.classes), VOCABULARY)


class Crash(BaseException):
    """The process is gone: nothing catches it."""


class InventedEffects:
    """Effects that take no time; `crash_in` is the round and stage at which the process dies."""

    max_tokens = 12
    begins_with_baseline = False

    def __init__(
        self,
        session: Session,
        observer: Observer,
        crash_in: tuple[int, str] | None,
        undrawn: Collection[str],
    ) -> None:
        self.observer = observer
        self.target: TargetView = TARGET
        self.templates = prompt_files()
        self._session, self._crash_in, self._undrawn = session, crash_in, undrawn
        self._ticks = itertools.count()

    def word(self, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return tools

    def opening(self, round_number: int) -> None:
        return None

    def supports(self, feature: str, round_number: int) -> bool:
        return bool(self._session.settings.generator.options.get(feature))

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def undrawn(self, text: str) -> list[str]:
        return [word for word in text.split() if word in self._undrawn]

    def recall(self, round_number: int, query: str) -> tuple[list[MemoryItem], list[SearchHit]]:
        return [hit("lesson", query).item], [hit("prompt", query)]

    def draft(self, seen: Observation) -> PolicyDraft | None:
        return policy_draft(self._session, seen, PALETTE, VOCABULARY)

    def coverage(self, seen: Observation) -> Mapping[str, tuple[float, float]]:
        return {"wafer=poly": (0.4, 0.7)} if seen.rounds else {}

    def search(self, key: str, query: str, n: int) -> str:
        return f"- prompt (0.75): {hit('prompt', query).item.describe()[:400]}"

    def expect(self, plan: Plan) -> Expectation:
        hits = {prompt.id: [hit("prompt", prompt.text)] for prompt in plan.prompts}
        return expect(plan, hits, None, VOCABULARY)

    def nearest(self, plan: Plan) -> dict[str, str]:
        return {}

    def analyse(
        self, key: str, round_number: int, by: Sequence[str], where: Mapping[str, str]
    ) -> str:
        return f"by {', '.join(by)}: 0.5"

    def look(self, key: str, round_number: int, subject: Subject) -> Look:
        png = montage_png(np.full((1, 1, 8, 8), round_number, np.uint8), [subject.name], 1)
        name = hashlib.sha256(png).hexdigest()
        write_bytes(eyes.picture_path(self._session.folder, round_number, name), png)
        return Look(f"photographs of {subject.name}", (name,))

    def picture(self, sha256: str) -> bytes | None:
        return eyes.read_picture(self._session.folder, sha256)

    def remember(self, events: Sequence[Event]) -> None:
        pass

    def worked_s(self) -> float:
        return 0.25 * next(self._ticks)

    def stage(self, name: str, round_number: int) -> AbstractContextManager[None]:
        return self.observer.stage(name, round_number)

    def load_generator(self) -> str:
        return "invented"

    def ask(self, request: ApprovalRequest, kind: type[E]) -> E:
        while (answer := self._session.journal.get(request.key, kind)) is None:
            interrupt(request.to_json())
        return answer

    def draw(self, plan: Plan) -> Batch:
        self._maybe_crash(plan.round, "generate")
        quality = [
            PromptQuality(prompt_id=p.id, n_made=p.count, n_kept=p.count - 1, mean_weight=0.7)
            for p in plan.prompts
        ]
        shard = Shard(file=f"rounds/{plan.round:03d}/data-0.parquet", n_images=8, sha256="0" * 64)
        return Batch(round=plan.round, job_id="j", shards=(shard,), quality=tuple(quality))

    def train(self, number: int) -> Training:
        self._maybe_crash(number, "train")
        return Training(
            round=number,
            job_id="t",
            model=f"rounds/{number:03d}",
            n_images=8 * number,
            n_steps=10,
            final_loss=1 / number,
            sha256="1" * 64,
        )

    def evaluate(self, training: Training) -> Report:
        self._maybe_crash(training.round, "evaluate")
        rng = random.Random(training.round)
        scores = []
        for row in PALETTE.rows:
            scores.append(slice_score(row.attributes, rng.randrange(10, 40) / 40, n=40, half=0.1))
        return report(
            *scores,
            number=training.round,
            metrics={"balanced_accuracy": estimate(rng.random(), n=160)},
            worst_slice=min(scores, key=lambda s: s.accuracy.value).key,
        )

    def inspect(self, number: int) -> tuple[Failure, ...]:
        current = self._session.round(number)
        assert current is not None and current.report is not None
        score = min(current.report.slices, key=lambda s: s.accuracy.value)
        return (failure(score.attributes, 1 - score.accuracy.value),)

    def _maybe_crash(self, number: int, stage: str) -> None:
        if self._crash_in == (number, stage):
            raise Crash


def hit(kind: Literal["lesson", "prompt"], query: str) -> SearchHit:
    """What the memory finds, the same every time."""
    item = MemoryItem(
        id="old/prompt/1",
        kind=kind,
        text=f"a dark poly cell <|{query}|>",
        target="elpv",
        session="old",
        round=1,
        data={"n_made": 8, "kept_rate": 0.5, "credit wafer=poly": 0.123456789},
    )
    return SearchHit(item=item, similarity=0.75)


class Person(Observer):
    """Answers questions from a list; nobody is there without one."""

    def __init__(self, answers: Sequence[str]) -> None:
        self.interactive = bool(answers)
        self.answers = list(answers)


def record(
    home: Path,
    name: str,
    *overrides: str,
    script: Sequence[dict[str, Any]] | None = None,
    answers: Sequence[str] = (),
    crash_in: tuple[int, str] | None = None,
    watch: Callable[[Journal], object] = lambda journal: None,
    undrawn: Collection[str] = (),
    mode: Mode = "native",
    model: BaseChatModel | None = None,
) -> Path:
    """Record a session and return its folder; with `crash_in` it dies there and is resumed.

    watch: gets the journal after every round; undrawn: words that the generator cannot draw;
    mode: how the scripted model calls tools; model: another one.
    """
    quick = ["session.rounds=2", "session.images_per_round=24", f"session.name={name}"]
    if script is not None:
        model = ScriptedModel(script=list(script), mode=mode)
    brain = ["brain=scripted:script.json"] if model else []
    settings = load_settings("solar", [*quick, *brain, f"home={home}", *overrides], {})
    folder = home / "sessions" / name
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "session.yaml").exists():
        store_settings(folder, settings)
    saver = InMemorySaver()
    brain_ = ChatBrain(model, settings.llm.cool_down_s) if model else None
    try:
        _run(folder, settings, brain_, Person(answers), saver, crash_in, watch, undrawn)
    except Crash:
        _run(folder, settings, brain_, Person(answers), saver, None, watch, undrawn)
    return folder


def _run(
    folder: Path,
    settings: Settings,
    brain: Brain | None,
    person: Person,
    saver: InMemorySaver,
    crash_in: tuple[int, str] | None,
    watch: Callable[[Journal], object],
    undrawn: Collection[str],
) -> None:
    journal = Journal(folder / "journal.jsonl")
    session = Session(folder.name, folder, settings, journal, cast(Any, None))
    told = settings.model_dump(mode="json", exclude={"home"})
    if journal.get("session", HeadEvent):
        journal.append(ResumedEvent(settings=told, interactive=person.interactive))
    else:
        journal.append(
            HeadEvent(
                key="session",
                session=folder.name,
                target="elpv",
                settings=told,
                palette=PALETTE.to_json(),
                **session_head(TARGET, person.interactive),
            )
        )
    context = BrainContext(PALETTE, VOCABULARY, settings.llm)
    fallback = brains.build(planner_brain(settings.llm.fallback), context)
    effects = InventedEffects(session, person, crash_in, undrawn)
    brain = brain or brains.build(settings.brain, context)
    require_sight(brain, settings.llm, journal)
    graph = build_graph(session, effects, brain, fallback, saver)
    done = {e.round for e in read_events(journal.path) if isinstance(e, RoundDoneEvent)}
    for number in range(1, settings.session.rounds + 1):
        if number in done:
            continue
        config: Any = {"configurable": {"thread_id": str(number)}, "recursion_limit": 200}
        step: Any = None if saver.get_tuple(config) else new_round(number)
        while asked := graph.invoke(step, config).get("__interrupt__"):
            question = asked[0].value
            journal.append(
                AnswerEvent(
                    key=question["key"],
                    round=number,
                    question=question["text"],
                    answer=person.answers.pop(0),
                )
            )
            step = None
        watch(journal)


def long_journal(short: Path, path: Path, n_rounds: int) -> None:
    """Write the journal of a session with `n_rounds` rounds, each a copy of the second one."""
    import json

    from memory.chain import seal

    events = read_events(short)
    first = next(i for i, e in enumerate(events) if e.key == "opening/2")
    last = next(i for i, e in enumerate(events) if e.key == "opening/3")
    again = [json.dumps(e.to_json()) for e in events[first:last]]
    lines = [json.dumps(e.to_json()) for e in events[:first]]
    for number in range(2, n_rounds + 1):
        for text in again:
            text = text.replace('"round": 2', f'"round": {number}').replace("/2/", f"/{number}/")
            lines.append(text.replace('/2"', f'/{number}"'))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(seal(line.encode() for line in lines)))


def only_round(folder: Path, number: int) -> Round:
    """Return a round of a recorded session."""
    return next(r for r in rounds(read_events(folder / "journal.jsonl")) if r.number == number)


Recorder = Callable[..., Path]
