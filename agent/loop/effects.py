"""What leaves the graph of a round: everything that is slow, drawn at random, looked up, or asked.

The loop itself decides and writes; it reaches the world through `Effects` alone. `LiveEffects` does
the work, `agent.replay.recorded.RecordedEffects` takes its outcomes from a journal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from langchain_core.messages import AnyMessage
from langgraph.types import interrupt

from agent.loop import eyes
from agent.loop.approval import ApprovalDecision, ApprovalRequest, journal_answer
from agent.loop.context import prompt_files, say_prompt
from agent.loop.drafts import PolicyDraft, policy_draft
from agent.loop.expectations import Expectation, expect
from agent.loop.eyes import Look, Subject
from agent.loop.levers import training_changes
from agent.loop.observations import rounds_before
from agent.loop.observer import Observer
from agent.loop.state import E, TargetView
from agent.planners import Observation
from agent.steering.preferences import STEERING, synthetic_share
from memory.events import Event
from memory.items import Hit, MemoryItem, items_from_events
from memory.records import Batch, Failure, Plan, Report, Selection, Training

if TYPE_CHECKING:
    from agent.loop.components import Components
    from tools.evaluate_real import Judge
    from tools.generators import Feature
    from tools.settings import DstmSettings

# Lessons and prompts that are recalled at the start of a round, and hits for a prompt of a plan.
N_RECALLED = 6
# Characters that a request for approval quotes of an earlier prompt.
NEAREST_CHARS = 70


class Effects(Protocol):
    """What the loop needs of the world."""

    @property
    def target(self) -> TargetView:
        """Name, classes and vocabulary of the target."""

    @property
    def observer(self) -> Observer:
        """Who is shown what goes on."""

    @property
    def templates(self) -> Mapping[str, str]:
        """Texts of the `prompt_files` that a brain is shown."""

    def word(self, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return tools, in OpenAI's function format, in the words that a brain is shown."""

    def opening(self, round_number: int) -> list[AnyMessage] | None:
        """Return a round's first messages as an earlier version wrote them, None: to be written."""

    # -- the generator, as far as prompts are checked against it -------------------------------

    @property
    def max_tokens(self) -> int:
        """How many tokens of a prompt the generator reads."""

    def supports(self, feature: Feature, round_number: int) -> bool:
        """Return whether the generator has a feature, see `tools.generators.supports`."""

    def count_tokens(self, text: str) -> int:
        """Return the tokens of a prompt."""

    def undrawn(self, text: str) -> Sequence[str]:
        """Return the words of a prompt that have no effect on what is drawn."""

    # -- the memory ----------------------------------------------------------------------------

    def recall(self, round_number: int, query: str) -> tuple[Sequence[MemoryItem], Sequence[Hit]]:
        """Return lessons, and prompts with what they achieved, for the start of a round."""

    def draft(self, seen: Observation) -> PolicyDraft | None:
        """Return the policy's plan, which a language model may take; None where it decides."""

    def coverage(self, seen: Observation) -> Mapping[str, tuple[float, float]]:
        """Return what the images so far cover, see `agent.loop.likeness.coverage_by_slice`."""

    def search(self, key: str, query: str, n: int) -> str:
        """Return what the memory knows, in words; key: of the tool call that asks."""

    def expect(self, plan: Plan) -> Expectation:
        """Return what the memory lets a plan expect, but for the time."""

    def nearest(self, plan: Plan) -> dict[str, str]:
        """Return the nearest earlier prompt in words, by the id of the plan's prompt."""

    def remember(self, events: Sequence[Event]) -> None:
        """Add what a round has shown."""

    # -- the work ------------------------------------------------------------------------------

    @property
    def begins_with_baseline(self) -> bool:
        """Whether the session begins with round 0, see `agent.loop.stages`."""

    def worked_s(self) -> float:
        """Return the seconds that the session has worked, pauses apart."""

    def stage(self, name: str, round_number: int) -> AbstractContextManager[None]:
        """Bracket a stage; raises Stopped when the session has to end."""

    def load_generator(self) -> str:
        """Load what drawing needs, and return the identity of the generator."""

    def draw(self, plan: Plan) -> Batch:
        """Draw the images of a plan and let the judge weigh their labels."""

    def train(self, number: int) -> Training:
        """Choose from the images of round `number`, and train the DSTM on those of all so far.

        Photographs are added as `dstm.train_on` says; round 0 has no others.
        """

    def evaluate(self, training: Training) -> Report:
        """Measure a trained DSTM on the real photographs of the feedback split."""

    def inspect(self, number: int) -> tuple[Failure, ...]:
        """Find where the DSTM of round `number`, which was measured, fails."""

    def analyse(
        self, key: str, round_number: int, by: Sequence[str], where: Mapping[str, str]
    ) -> str:
        """Return figures of the last report's photographs, in words; key: of the tool call."""

    def look(self, key: str, round_number: int, subject: Subject) -> Look:
        """Return a picture for a model that sees; key: of the event that will hold it."""

    def picture(self, sha256: str) -> bytes | None:
        """Return a picture that was shown, a PNG file; None where it is not stored."""

    # -- people --------------------------------------------------------------------------------

    def ask(self, request: ApprovalRequest, kind: type[E]) -> E:
        """Return the journaled answer to a question; ends this run of the graph without one."""


class LiveEffects:
    """Effects of a running session, by its components."""

    def __init__(self, components: Components) -> None:
        self._parts = components
        self._session = components.session
        self._shards: dict[int, list[Path]] = {}
        self.target: TargetView = components.target
        self.observer, self.templates = components.observer, prompt_files()

    def word(self, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the tools as they are."""
        return tools

    def opening(self, round_number: int) -> list[AnyMessage] | None:
        """Return nothing: it is written now."""
        return None

    @property
    def max_tokens(self) -> int:
        """How many tokens of a prompt the generator reads."""
        return self._parts.generator.max_tokens

    def supports(self, feature: Feature, round_number: int) -> bool:
        """Ask the generator."""
        from tools.generators import supports

        return supports(self._parts.generator, feature)

    def count_tokens(self, text: str) -> int:
        """Return the tokens of a prompt."""
        return self._parts.generator.count_tokens(text)

    def undrawn(self, text: str) -> Sequence[str]:
        """Return the words that the generator is known not to draw."""
        from tools.generators import undrawn

        return undrawn(self._parts.generator, text)

    def recall(self, round_number: int, query: str) -> tuple[Sequence[MemoryItem], Sequence[Hit]]:
        """Search the memory of all sessions."""
        memory, target = self._parts.memory, self.target.name
        lessons = memory.search(query, n=N_RECALLED, kind="lesson", target=target)
        similar = memory.search(query, n=N_RECALLED, kind="prompt", target=target)
        return [hit.item for hit in lessons], similar

    def draft(self, seen: Observation) -> PolicyDraft | None:
        """Return the plan of `llm.fallback`."""
        parts = self._parts
        return policy_draft(self._session, seen, parts.distribution, self.target.vocabulary)

    def coverage(self, seen: Observation) -> Mapping[str, tuple[float, float]]:
        """Compare the images so far with the feedback photographs."""
        from agent.loop.likeness import coverage_by_slice

        session, target = self._session, self._parts.target
        return coverage_by_slice(session.folder, session.settings, target, seen.rounds)

    def search(self, key: str, query: str, n: int) -> str:
        """Search the memory of all sessions."""
        hits = self._parts.memory.search(query, n=n, target=self.target.name)
        lines = [
            f"- {hit.item.kind} ({hit.similarity:.2f}): {hit.item.describe()[:400]}" for hit in hits
        ]
        return "\n".join(lines) or "The memory has nothing on that yet."

    def expect(self, plan: Plan) -> Expectation:
        """Return what similar prompts of the memory let a plan expect."""
        return expect(plan, self._similar(plan), None, self.target.vocabulary)

    def nearest(self, plan: Plan) -> dict[str, str]:
        """Return the most similar prompt of the memory for each of a plan."""
        similar = self._similar(plan).items()
        return {name: say_prompt(hits[0], NEAREST_CHARS) for name, hits in similar if hits}

    def _similar(self, plan: Plan) -> dict[str, list[Hit]]:
        texts = [prompt.text for prompt in plan.prompts]
        hits = self._parts.memory.search_all(
            texts, n=N_RECALLED, kind="prompt", target=self.target.name
        )
        return {prompt.id: near for prompt, near in zip(plan.prompts, hits, strict=True)}

    def remember(self, events: Sequence[Event]) -> None:
        """Add prompts, failures and lessons to the memory."""
        self._parts.memory.add(items_from_events(events))

    @property
    def begins_with_baseline(self) -> bool:
        """Whether there are photographs to train on, and the settings say to do so."""
        return self._parts.begins_with_baseline

    def worked_s(self) -> float:
        """Return the seconds worked by all runs of the session."""
        return self._parts.control.worked()

    def stage(self, name: str, round_number: int) -> AbstractContextManager[None]:
        """Show the stage, and keep the session's limits where it begins."""
        return self._parts.stage(name, round_number)

    def load_generator(self) -> str:
        """Load generator and judge."""
        _ = self._parts.judge
        return self._parts.generator.identity

    def draw(self, plan: Plan) -> Batch:
        """Draw the images of a plan and let the audit weigh their labels."""
        from agent.loop.photographs import critic_for
        from tools.generate_batch import Workshop, generate_batch

        parts, settings = self._parts, self._session.settings
        return generate_batch(
            plan,
            self._session.folder,
            settings.session.seed,
            Workshop(
                parts.generator,
                parts.judge,
                parts.target.class_names,
                critic_for(plan, parts),
                parts.executor,
            ),
            settings.session.shard_size,
            parts.progress("generate", "images"),
        )

    def train(self, number: int) -> Training:
        """Choose from the images of round `number`, and train the DSTM on those of all so far."""
        from agent.loop.photographs import share_of
        from tools.selection.select import select_images

        parts, settings = self._parts, self._session.settings
        if number == 0 and parts.given_model:
            from tools.given_model import adopt

            return adopt(self._session.folder, *parts.given_model)
        selection = None
        if number:
            selection = select_images(
                number,
                self._session.folder,
                rounds_before(self._session.journal, number + 1),
                settings.selection,
                settings.session.seed,
                settings.home / "selection" / parts.target.name,
                parts.device,
            )
        shards, real = parts.learnt_from(self._all_shards(number))
        changes, chosen = self._changes(number), dict[str, Any]()
        dstm = parts.dstm.model_copy(update={"seed": settings.session.seed, **changes})
        if dstm.synthetic_share == "auto" and shards and real:
            chosen = share_of(parts, number, dstm, shards, real)
            dstm = dstm.model_copy(update={"synthetic_share": chosen["synthetic_share"]})
        training = self._learn(number, dstm, shards, real, selection)
        n_folds = len(self._judges(number, dstm, shards))
        chosen |= {"changes": changes, "folds": n_folds or None}
        return training.model_copy(update=chosen)

    def _learn(
        self,
        number: int,
        dstm: DstmSettings,
        shards: Sequence[Path],
        real: Sequence[Path],
        selection: Selection | None = None,
        part: str = "",
    ) -> Training:
        """Train on generated images and on photographs, once."""
        from tools.train_dstm import Callbacks, train_dstm

        parts = self._parts
        return train_dstm(
            number,
            self._session.folder,
            shards,
            parts.label_names,
            dstm,
            parts.trainer,
            selection,
            Callbacks(parts.progress("train", "steps"), parts.fault),
            real,
            part,
        )

    def _changes(self, number: int) -> dict[str, Any]:
        """Return the settings of the DSTM that a person or the plans up to a round change."""
        journal = self._session.journal
        current, before = journal.round(number), journal.round(number - 1)
        levers = current.plan.levers if current and current.plan else None
        earlier = journal.rounds() if levers and levers.earlier else ()
        past = [r for r in earlier if r.number < number]
        changed = before.training.changes if before and before.training else {}
        changes = training_changes(levers, changed, past)
        wanted = synthetic_share(journal.events(*STEERING), number)
        return changes if wanted is None else {**changes, "synthetic_share": wanted}

    def _judges(self, number: int, dstm: DstmSettings, shards: Sequence[Path]) -> list[Judge]:
        """Return a model for each fold of the feedback photographs, trained once without it."""
        from agent.loop.photographs import folds_of

        judges: list[Judge] = []
        for fold in folds_of(self._parts):
            training = self._learn(number, dstm, shards, fold.real, part=fold.name)
            judges.append((self._session.folder / training.model, fold.judged))
        return judges

    def evaluate(self, training: Training) -> Report:
        """Measure a trained DSTM on the real photographs of the feedback split."""
        from tools.evaluate_real import evaluate_real
        from tools.tasks import Slicing

        feedback, seed = self._session.settings.feedback, self._session.settings.session.seed
        judges: list[Judge] = []
        if training.folds:
            shards, _ = self._parts.learnt_from(self._all_shards(training.round))
            dstm = self._parts.dstm_of(training, seed)
            judges = self._judges(training.round, dstm, shards)
        return evaluate_real(
            training.round,
            self._session.folder,
            training,
            self._parts.target,
            Slicing(feedback.slices, feedback.n_min),
            self._parts.device,
            self._parts.predict,
            judges,
        )

    def inspect(self, number: int) -> tuple[Failure, ...]:
        """Find where the DSTM of round `number`, which was measured, fails."""
        from eval.slices import share_of_alpha
        from memory import minilm
        from tools.inspect_failures import Discovery, inspect
        from tools.tasks import Slicing

        feedback = self._session.settings.feedback
        alpha = feedback.alpha * share_of_alpha(number)
        discovery = None
        if feedback.discovery != "off":
            embed_with = self._parts.embedding if feedback.discovery == "clusters" else None
            discovery = Discovery(embed_with, lambda texts: minilm.load().embed(texts))
        return inspect(
            number,
            self._session.folder,
            self._parts.target,
            Slicing(feedback.slices, feedback.n_min, alpha),
            rounds_before(self._session.journal, number + 1),
            discovery,
            self._parts.device,
        )

    def analyse(
        self, key: str, round_number: int, by: Sequence[str], where: Mapping[str, str]
    ) -> str:
        """Group the photographs of the last report."""
        from tools.analyse import analyse

        past = rounds_before(self._session.journal, round_number)
        number = next(r.number for r in reversed(past) if r.report)
        return analyse(number, self._session.folder, self._parts.target, by, where)

    def look(self, key: str, round_number: int, subject: Subject) -> Look:
        """Draw a picture by the last report, and store it with the round."""
        past = rounds_before(self._session.journal, round_number)
        return eyes.look(self._session.folder, self._parts.target, past, round_number, subject)

    def picture(self, sha256: str) -> bytes | None:
        """Return a picture that was shown, a PNG file; None where it is not stored."""
        return eyes.read_picture(self._session.folder, sha256)

    def _all_shards(self, number: int) -> list[Path]:
        """Return the shards of all rounds up to one; a round's are looked up once."""
        for earlier in range(1, number + 1):
            if earlier not in self._shards:
                past = self._session.journal.round(earlier)
                batch = past.batch if past else None
                self._shards[earlier] = [Path(s.file) for s in batch.shards] if batch else []
        return [path for earlier in sorted(self._shards) for path in self._shards[earlier]]

    def ask(self, request: ApprovalRequest, kind: type[E]) -> E:
        """Interrupt the graph until the journal holds the answer.

        It is journaled before the graph is resumed, or comes as `Command(resume=DECISION)`.
        """
        journal = self._session.journal
        while (answer := journal.get(request.key, kind)) is None:
            decision = ApprovalDecision.model_validate(interrupt(request.to_json()))
            journal_answer(journal, request, decision)
        return answer
