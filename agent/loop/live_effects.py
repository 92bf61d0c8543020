"""Effects of a live session: drawing, training, evaluation and memory, done by its components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from langchain_core.messages import AnyMessage
from langgraph.types import interrupt

from agent.loop import eyes
from agent.loop.approval import ApprovalDecision, ApprovalRequest, journal_answer
from agent.loop.components import Components
from agent.loop.context import prompt_files, say_prompt
from agent.loop.drafts import PolicyDraft, policy_draft
from agent.loop.expectations import Expectation, expect
from agent.loop.eyes import Look, Subject
from agent.loop.levers import training_changes
from agent.loop.likeness import coverage_by_slice
from agent.loop.observations import rounds_before
from agent.loop.photographs import critic_for, folds_of
from agent.loop.state import E, TargetView
from agent.loop.synthetic_share import chosen_share
from agent.planners import Observation
from agent.steering.preferences import STEERING, synthetic_share
from eval.slices import share_of_alpha
from memory import minilm
from memory.events import Event
from memory.items import MemoryItem, SearchHit, items_from_events
from memory.records import Batch, Failure, Plan, Report, Selection, Training
from tools.analyse import analyse
from tools.evaluate_real import Judge, evaluate_real
from tools.generate_batch import Workshop, generate_batch
from tools.generators import Feature, supports, undrawn
from tools.given_model import adopt
from tools.inspect_failures import Discovery, inspect
from tools.selection.select import select_images
from tools.settings import DstmSettings
from tools.tasks import Slicing
from tools.train_dstm import Callbacks, train_dstm

# Number of lessons and of prompts recalled for an opening, and of hits for a prompt of a plan.
N_RECALLED = 6
# Maximum length in characters of an earlier prompt quoted in a request for approval.
NEAREST_CHARS = 70


class LiveEffects:
    """`Effects` of a live session."""

    def __init__(self, components: Components) -> None:
        self._components = components
        self._session = components.session
        self._shards: dict[int, list[Path]] = {}
        self.target: TargetView = components.target
        self.observer, self.templates = components.observer, prompt_files()

    def word(self, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the tools unchanged."""
        return tools

    def opening(self, round_number: int) -> list[AnyMessage] | None:
        """Return None: a live session composes its opening messages itself."""
        return None

    @property
    def max_tokens(self) -> int:
        """Number of tokens of a prompt that the generator reads."""
        return self._components.generator.max_tokens

    def supports(self, feature: Feature, round_number: int) -> bool:
        """Return whether the generator has a feature."""
        return supports(self._components.generator, feature)

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a prompt."""
        return self._components.generator.count_tokens(text)

    def undrawn(self, text: str) -> Sequence[str]:
        """Return the words that are known to have no effect on the generator."""
        return undrawn(self._components.generator, text)

    def recall(
        self, round_number: int, query: str
    ) -> tuple[Sequence[MemoryItem], Sequence[SearchHit]]:
        """Search the memory of all sessions for lessons and prompts."""
        memory, target = self._components.memory, self.target.name
        lessons = memory.search(query, n=N_RECALLED, kind="lesson", target=target)
        similar = memory.search(query, n=N_RECALLED, kind="prompt", target=target)
        return [hit.item for hit in lessons], similar

    def draft(self, seen: Observation) -> PolicyDraft | None:
        """Return the plan of `llm.fallback` if the brain is a language model."""
        parts = self._components
        return policy_draft(self._session, seen, parts.distribution, self.target.vocabulary)

    def coverage(self, seen: Observation) -> Mapping[str, tuple[float, float]]:
        """Compare the images so far with the feedback photographs."""
        session, target = self._session, self._components.target
        return coverage_by_slice(session.folder, session.settings, target, seen.rounds)

    def search(self, key: str, query: str, n: int) -> str:
        """Search the memory of all sessions and format the hits."""
        hits = self._components.memory.search(query, n=n, target=self.target.name)
        lines = [
            f"- {hit.item.kind} ({hit.similarity:.2f}): {hit.item.describe()[:400]}" for hit in hits
        ]
        return "\n".join(lines) or "The memory has nothing on that yet."

    def expect(self, plan: Plan) -> Expectation:
        """Return the outcome predicted from similar prompts; without an audit all are kept."""
        expected = expect(plan, self._similar(plan), None, self.target.vocabulary)
        if self._session.settings.audit.method != "none":
            return expected
        prompts = tuple(p.model_copy(update={"kept_rate": 1.0}) for p in expected.prompts)
        return expected.model_copy(update={"kept_rate": 1.0, "prompts": prompts})

    def nearest(self, plan: Plan) -> dict[str, str]:
        """Return the most similar earlier prompt in words, by the id of the plan's prompt."""
        similar = self._similar(plan).items()
        return {name: say_prompt(hits[0], NEAREST_CHARS) for name, hits in similar if hits}

    def _similar(self, plan: Plan) -> dict[str, list[SearchHit]]:
        texts = [prompt.text for prompt in plan.prompts]
        hits = self._components.memory.search_all(
            texts, n=N_RECALLED, kind="prompt", target=self.target.name
        )
        return {prompt.id: near for prompt, near in zip(plan.prompts, hits, strict=True)}

    def remember(self, events: Sequence[Event]) -> None:
        """Add the prompts, failures and lessons of events to the memory."""
        self._components.memory.add(items_from_events(events))

    @property
    def begins_with_baseline(self) -> bool:
        """Whether the session begins with round 0."""
        return self._components.begins_with_baseline

    def worked_s(self) -> float:
        """Return the working time of all runs of the session in seconds, without pauses."""
        return self._session.control.worked()

    def stage(self, name: str, round_number: int) -> AbstractContextManager[None]:
        """Show the stage, and enforce the session's limits when it begins."""
        return self._components.stage(name, round_number)

    def load_generator(self) -> str:
        """Load the generator and the judge, and return the identity of the generator."""
        _ = self._components.judge
        return self._components.generator.identity

    def draw(self, plan: Plan) -> Batch:
        """Draw the images of a plan and weight them by the judge."""
        parts, settings = self._components, self._session.settings
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
        """Select from the images of round `number`, and train the DSTM on all images so far."""
        parts, settings = self._components, self._session.settings
        if number == 0 and parts.given_model:
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
            chosen = chosen_share(parts, number, dstm, shards, real)
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
        """Train a DSTM on generated images and photographs, unless the session has it already."""
        parts = self._components
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
        """Return the DSTM settings changed by preferences and by the plans up to a round."""
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
        """Return a model for each fold of the feedback photographs, trained without that fold."""
        judges: list[Judge] = []
        for fold in folds_of(self._components):
            training = self._learn(number, dstm, shards, fold.real, part=fold.name)
            judges.append((self._session.folder / training.model, fold.judged))
        return judges

    def evaluate(self, training: Training) -> Report:
        """Evaluate a trained DSTM on the real photographs of the feedback split."""
        feedback, seed = self._session.settings.feedback, self._session.settings.session.seed
        judges: list[Judge] = []
        if training.folds:
            shards, _ = self._components.learnt_from(self._all_shards(training.round))
            dstm = self._components.dstm_of(training, seed)
            judges = self._judges(training.round, dstm, shards)
        return evaluate_real(
            training.round,
            self._session.folder,
            training,
            self._components.target,
            Slicing(feedback.slices, feedback.n_min),
            self._components.device,
            self._components.predict,
            judges,
        )

    def inspect(self, number: int) -> tuple[Failure, ...]:
        """Return the failures of the DSTM of round `number`, which has been evaluated."""
        feedback = self._session.settings.feedback
        alpha = feedback.alpha * share_of_alpha(number)
        discovery = None
        if feedback.discovery != "off":
            embed_with = self._components.embedding if feedback.discovery == "clusters" else None
            discovery = Discovery(embed_with, lambda texts: minilm.load().embed(texts))
        return inspect(
            number,
            self._session.folder,
            self._components.target,
            Slicing(feedback.slices, feedback.n_min, alpha),
            rounds_before(self._session.journal, number + 1),
            discovery,
            self._components.device,
        )

    def analyse(
        self, key: str, round_number: int, by: Sequence[str], where: Mapping[str, str]
    ) -> str:
        """Group the photographs of the last report and format the figures of each group."""
        past = rounds_before(self._session.journal, round_number)
        number = next(r.number for r in reversed(past) if r.report)
        return analyse(number, self._session.folder, self._components.target, by, where)

    def look(self, key: str, round_number: int, subject: Subject) -> Look:
        """Draw a picture from the last report and store it in the round's folder."""
        past = rounds_before(self._session.journal, round_number)
        return eyes.look(self._session.folder, self._components.target, past, round_number, subject)

    def picture(self, sha256: str) -> bytes | None:
        """Return the PNG file of a picture that was shown; None if it is not stored."""
        return eyes.read_picture(self._session.folder, sha256)

    def _all_shards(self, number: int) -> list[Path]:
        """Return the shards of all rounds up to `number`; those of a round are cached."""
        for earlier in range(1, number + 1):
            if earlier not in self._shards:
                past = self._session.journal.round(earlier)
                batch = past.batch if past else None
                self._shards[earlier] = [Path(s.file) for s in batch.shards] if batch else []
        return [path for earlier in range(1, number + 1) for path in self._shards[earlier]]

    def ask(self, request: ApprovalRequest, kind: type[E]) -> E:
        """Interrupt the graph until the journal contains the answer, and return it.

        The answer is journaled before the graph is resumed, or passed by `Command(resume=DECISION)`
        and journaled here.
        """
        journal = self._session.journal
        while (answer := journal.get(request.key, kind)) is None:
            decision = ApprovalDecision.model_validate(interrupt(request.to_json()))
            journal_answer(journal, request, decision)
        return answer
