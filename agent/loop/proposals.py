"""From a brain's draft to the plan that a person is asked about: trials, wishes, additions, check.

What was made of a draft is journaled as `proposed`, so that it is the same after a crash; what a
person changes of it, as `plan_edit`. The check itself is `agent.loop.validation.validate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from agent.brains import planner_of
from agent.loop.approval import Made, Question, Rejected
from agent.loop.context import say_prompt
from agent.loop.expectations import Expectation, expect
from agent.loop.observations import (
    LOOK_BACK,
    N_RECALLED,
    held_wishes,
    observe,
    rounds_before,
    seconds_per_image,
)
from agent.loop.trials import with_trials
from agent.loop.validation import validate
from agent.planners import AttributeDistribution, PlanDraft
from agent.steering.preferences import (
    STEERING,
    Effect,
    Preference,
    additions,
)
from agent.steering.steer import add, broken, compare, ignored, steer
from memory.errors import ToolError
from memory.events import OpeningEvent
from memory.items import Hit
from memory.records import Plan

if TYPE_CHECKING:
    from agent.loop.components import Components

# Characters that a question quotes of an earlier prompt.
NEAREST_CHARS = 70


class Proposal(NamedTuple):
    """What a draft comes to: the plan, and what to expect of it."""

    made: Made
    plan: Plan
    expectation: Expectation


class Proposals:
    """What becomes of drafts in one session, up to the question whether the plan shall be made."""

    def __init__(self, bench: Components) -> None:
        self._bench = bench
        self._session = bench.session
        self._journal = bench.session.journal

    def make(self, draft: PlanDraft, round_number: int, author: str, key: str) -> Made:
        """Return what trials, wishes and additions make of a draft: once, so that later ones wait.

        key: of the question about it, approval/ROUND/CALL. Raises ToolError for a draft of a
        language model that breaks a constraint, Rejected for one that was made before its author
        knew of a wish.
        """
        name = f"proposed/{key.removeprefix('approval/')}"
        if known := self._journal.get(name):
            return Made.model_validate(known["made"])
        wanted = held_wishes(self._journal)
        extra = (
            additions(self._journal.events(*STEERING)) if self._journal.count("addition") else []
        )
        session, vocabulary = self._session.settings.session, self._bench.target.vocabulary
        shifts: tuple[Effect, ...] = ()
        warnings: list[str] = []
        is_planner = planner_of(author) is not None
        n_trial = self._session.settings.feedback.trial
        if n_trial:
            observation = observe(self._session, round_number)
            draft = with_trials(draft, observation, self._palette(), vocabulary, n_trial, wanted)
        if is_planner and wanted:
            palette = self._palette()
            seed = f"{session.seed} {round_number}"
            draft, shifts = steer(
                draft, wanted, palette, vocabulary, session.images_per_prompt, seed
            )
        elif wanted:
            self._tell_wishes(round_number, wanted)
        draft = add(draft, extra, session.images_per_round, vocabulary)
        if not is_planner and wanted:
            plan = self.check(draft, round_number, author)
            if problems := broken(plan, wanted, vocabulary):
                raise ToolError(f"The plan was not accepted: {'; '.join(problems)}.")
            past = [r.plan for r in rounds_before(self._journal, round_number) if r.plan]
            before = past[-1] if past else None
            shifts = compare(plan, before, wanted, vocabulary)
            warnings = ignored(plan, before, wanted, vocabulary)
        names = tuple(addition.id for addition in extra)
        made = Made(draft=draft, shifts=shifts, additions=names, warnings=tuple(warnings))
        if wanted or extra or draft.trials or self._bench.observer.interactive:
            self._journal.append("proposed", key=name, round=round_number, made=made.to_json())
        return made

    def propose(self, made: Made, round_number: int, author: str, key: str) -> Proposal:
        """Return the plan that comes of a draft, and what may be expected of it.

        What a person has made of it since the question `key` stands in for it. Raises ToolError
        for a draft that cannot be a plan.
        """
        edits = self._journal.events("plan_edit", since=round_number)
        edits = [edit for edit in edits if edit["question"] == key]
        if edits:
            made = Made.model_validate(edits[-1]["made"])
        plan = self.check(made.draft, round_number, author)
        plan = plan.model_copy(update={"warnings": (*plan.warnings, *made.warnings)})
        return Proposal(made, plan, self.expect(plan))

    def check(self, draft: PlanDraft, round_number: int, author: str) -> Plan:
        """Return the plan of a draft; raises ToolError with what is wrong, see `validate`."""
        reports = [r.report for r in rounds_before(self._journal, round_number) if r.report]
        return validate(
            draft,
            round_number,
            self._session.settings.session.images_per_round,
            author,
            self._bench.target.vocabulary,
            self._bench.generator.count_tokens,
            self._bench.generator.max_tokens,
            slices=[score.key for score in reports[-1].slices] if reports else (),
            pull=self._session.settings.generator.pull,
            unpullable=self.unpullable(bool(reports)),
            adapters=self.adapters(),
            undrawn=self.undrawn,
        )

    def question(self, proposal: Proposal, key: str) -> Question:
        """Return the question whether a plan shall be made."""
        return Question(
            key=key,
            kind="plan",
            round=proposal.plan.round,
            plan=proposal.plan,
            expectation=proposal.expectation,
            nearest={
                name: say_prompt(own[0], NEAREST_CHARS)
                for name, own in self._hits(proposal.plan).items()
                if own
            },
            made=proposal.made,
        )

    def expect(self, plan: Plan) -> Expectation:
        """Return what the memory lets a plan expect."""
        speed = seconds_per_image(self._journal.rounds(LOOK_BACK))
        return expect(plan, self._hits(plan), speed, self._bench.target.vocabulary)

    def adapters(self) -> list[str]:
        """Return the names of the generator's LoRA adapters, which prompts may weigh."""
        from tools.data.drawn import adapter_name

        given = self._session.settings.generator.options.get("adapters")
        return sorted(adapter_name(path) for path in given) if isinstance(given, dict) else []

    def undrawn(self, text: str) -> Sequence[str]:
        """Return the words of a text that the generator cannot draw."""
        from tools.generators import undrawn

        return undrawn(self._bench.generator, text)

    def unpullable(self, is_trained: bool) -> str | None:
        """Return why no DSTM can pull the images of a round, or None; was one trained before?"""
        from tools.generators import can_be_pulled

        if not is_trained:
            return "no DSTM has been trained yet"
        if not can_be_pulled(self._bench.generator):
            return f"the generator {self._session.settings.generator.name!r} cannot be pulled"
        return None

    def _palette(self) -> AttributeDistribution:
        (head,) = self._journal.events("session")
        return AttributeDistribution.model_validate(head["palette"])

    def _tell_wishes(self, round_number: int, wanted: Sequence[Preference]) -> None:
        """Refuse a plan, once, whose author could not know of a wish given in this round."""
        opening = self._journal.get(f"opening/{round_number}", OpeningEvent)
        known = set(opening.facts.get("wishes", ())) if opening else set()
        for event in self._journal.events("told", since=round_number):
            known.update(event["wishes"])
        news = [wish for wish in wanted if wish.id not in known]
        if news:
            self._journal.append("told", round=round_number, wishes=[wish.id for wish in news])
            raise Rejected(
                "Since this round began the user has said: "
                f"{'; '.join(wish.say() for wish in news)}. Propose a plan that does so."
            )

    def _hits(self, plan: Plan) -> dict[str, list[Hit]]:
        """Return the prompts of the memory that are near to those of a plan."""
        texts = [prompt.text for prompt in plan.prompts]
        found = self._bench.memory.search_all(
            texts, n=N_RECALLED, kind="prompt", target=self._bench.target.name
        )
        return {prompt.id: own for prompt, own in zip(plan.prompts, found, strict=True)}
