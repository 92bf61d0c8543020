"""From a brain's draft to the plan that a person approves: preferences, additions, validation.

The resolved draft is journaled as `proposed`, so that it is the same after a crash; a person's
edits are journaled as `plan_edit`. `agent.loop.validation.validate` checks the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from agent.brains import planner_of
from agent.loop.approval import ApprovalRequest, Rejected, ResolvedDraft
from agent.loop.drafts import PlanChoice, PolicyDraft, compose, say_origin, worst_first
from agent.loop.effects import Effects
from agent.loop.expectations import Expectation
from agent.loop.levers import Bounds, lever_bounds, lever_problems
from agent.loop.observations import (
    LOOK_BACK,
    budget_of,
    facts_of,
    held_preferences,
    observe,
    rounds_before,
    seconds_per_image,
)
from agent.loop.schedule import preferences_of
from agent.loop.state import GRAPH_WORKS, NAMES_DRAFT, SessionView, record_version
from agent.loop.validation import PlanRules, least_prompts, refusal, shortfalls, validate
from agent.planners import AttributeDistribution, Observation, PlanDraft
from agent.planners.slices import last_report, supported_slices
from agent.steering.preferences import STEERING, Preference, PreferenceEffect, additions
from agent.steering.steer import add, broken, changes_of_share, ignored, steer
from memory.errors import ToolError
from memory.events import (
    HeadEvent,
    PlanEditEvent,
    PlanEvent,
    ProposedEvent,
    WishesShownEvent,
)
from memory.records import Levers, Plan, Report, slice_key


class Proposals:
    """Resolves and checks the drafts of one session, and creates requests for approval."""

    def __init__(self, session: SessionView, effects: Effects) -> None:
        self._session, self._effects = session, effects
        self._journal = session.journal

    def compose(self, choice: PlanChoice, round_number: int) -> PlanDraft:
        """Return the draft described by a call; raises ToolError, see `drafts.compose`."""
        vocabulary = self._effects.target.vocabulary
        if choice.levers:
            past = rounds_before(self._journal, round_number)
            bounds = self.lever_bounds(round_number)
            size = self.budget(None, round_number)
            if problems := lever_problems(choice.levers, bounds, vocabulary, past, size):
                raise refusal(problems)
        if choice.draft == "replace" and not choice.shares:
            return choice.as_given()
        packed = facts_of(self._journal, round_number).get("draft")
        draft = PolicyDraft.model_validate(packed) if packed else None
        made = compose(
            choice,
            draft,
            self._observe(choice.levers, round_number),
            self._distribution(),
            vocabulary,
            preferences_of(held_preferences(self._journal), (), round_number),
        )
        if draft and choice.draft != "replace" and record_version(self._journal) >= NAMES_DRAFT:
            return made.model_copy(update={"why": say_origin(choice, draft)})
        return made

    def resolve(
        self, choice: PlanChoice, round_number: int, author: str, key: str
    ) -> ResolvedDraft:
        """Apply preferences and additions to a draft.

        The result is journaled; preferences that are added later apply to the next draft.

        Args:
            choice: Arguments of the brain's call.
            round_number: Number of the round.
            author: The brain, e.g. `policy:thompson`.
            key: Key of the request for approval, approval/ROUND/CALL.

        Raises:
            ToolError: A language model's draft breaks a constraint or plans too few images.
            Rejected: A language model made the draft before it was shown a new preference.
        """
        name = f"proposed/{key.removeprefix('approval/')}"
        if event := self._journal.get(name, ProposedEvent):
            return ResolvedDraft.model_validate(event.made)
        settings, vocabulary = self._session.settings, self._effects.target.vocabulary
        session = settings.session
        draft = self.compose(choice, round_number)
        preferences = preferences_of(held_preferences(self._journal), (), round_number)
        extra = additions(self._journal.events(*STEERING))
        if planner_of(author) is None and record_version(self._journal) >= GRAPH_WORKS:
            self._check_amounts(choice, draft, round_number, author, preferences)
        shifts: tuple[PreferenceEffect, ...] = ()
        warnings: list[str] = []
        if preferences and planner_of(author) is not None:
            seed, per_prompt = f"{session.seed} {round_number}", session.images_per_prompt
            draft, shifts = steer(
                draft, preferences, self._distribution(), vocabulary, per_prompt, seed
            )
        elif preferences:
            self._tell_wishes(round_number, preferences)
        draft = add(draft, extra, self.budget(draft.levers, round_number), vocabulary)
        if preferences and planner_of(author) is None:
            plan = self.check(draft, round_number, author)
            if problems := broken(plan, preferences, vocabulary):
                raise ToolError(f"The plan was not accepted: {'; '.join(problems)}.")
            past = [r.plan for r in rounds_before(self._journal, round_number) if r.plan]
            before = past[-1] if past else None
            shifts = changes_of_share(plan, before, preferences, vocabulary)
            warnings = ignored(plan, before, preferences, vocabulary)
        resolved = ResolvedDraft(
            draft=draft,
            shifts=shifts,
            additions=tuple(addition.id for addition in extra),
            warnings=tuple(warnings),
        )
        if preferences or extra or self._effects.observer.interactive:
            made = resolved.to_json()
            self._journal.append(ProposedEvent(key=name, round=round_number, made=made))
        return resolved

    def edited(self, resolved: ResolvedDraft, round_number: int, key: str) -> ResolvedDraft:
        """Return the draft with a person's last edit since the question `key`, if there is one."""
        edits = self._journal.events(PlanEditEvent, since=round_number)
        edits = [edit for edit in edits if edit.question == key]
        return ResolvedDraft.model_validate(edits[-1].made) if edits else resolved

    def plan(self, resolved: ResolvedDraft, round_number: int, author: str) -> Plan:
        """Return the plan of a resolved draft, with its warnings; raises ToolError, see `check`."""
        plan = self.check(resolved.draft, round_number, author)
        return plan.model_copy(update={"warnings": (*plan.warnings, *resolved.warnings)})

    def check(self, draft: PlanDraft, round_number: int, author: str) -> Plan:
        """Validate a draft and return the plan; raises ToolError, see `validate`."""
        return validate(draft, round_number, author, self.rules(round_number, draft.levers))

    def rules(self, round_number: int, levers: Levers | None = None) -> PlanRules:
        """Return the rules for plans of a round; levers: those of the plan to check."""
        report = last_report(rounds_before(self._journal, round_number))
        effects, generator = self._effects, self._session.settings.generator
        return PlanRules(
            effects.target.vocabulary,
            self.budget(levers, round_number),
            effects.count_tokens,
            effects.max_tokens,
            slices=[score.key for score in report.slices] if report else (),
            pull=generator.pull,
            no_guidance=self._no_guidance(report is not None),
            adapters=self._adapters(),
            undrawn=effects.undrawn,
            open_vocabulary=self._open_vocabulary(round_number),
        )

    def _check_amounts(
        self,
        choice: PlanChoice,
        draft: PlanDraft,
        round_number: int,
        author: str,
        preferences: Sequence[Preference],
    ) -> None:
        """Raise ToolError if a language model plans too few images, see `shortfalls`."""
        if choice.draft == "accept":
            return
        session, vocabulary = self._session.settings.session, self._effects.target.vocabulary
        # The number of prompts drawn for shares is not the model's choice.
        n_images = self.budget(choice.levers, round_number)
        n_prompts = least_prompts(n_images, session.images_per_prompt)
        made: Counter[str] = Counter()
        for past in rounds_before(self._journal, round_number):
            for prompt in past.plan.prompts if past.plan else ():
                made[prompt.class_name] += prompt.count
        # Preferences may favour some classes, or values that only some classes have.
        is_free = not any(preference.attributes for preference in preferences)
        problems = shortfalls(
            self.check(draft, round_number, author).prompts,
            n_images,
            1 if choice.shares else n_prompts,
            vocabulary.classes if is_free else (),
            made,
        )
        if problems:
            raise refusal(problems)

    def expect(self, plan: Plan) -> Expectation:
        """Return the expected outcome of a plan, with the duration taken from the last rounds."""
        speed = seconds_per_image(self._journal.rounds(LOOK_BACK))
        seconds = None if speed is None else speed * plan.n_images
        return self._effects.expect(plan).model_copy(update={"seconds": seconds})

    def event(self, plan: Plan, choice: PlanChoice, expectation: Expectation) -> PlanEvent:
        """Return the journal event of an accepted plan."""
        texts, effects = [prompt.text for prompt in plan.prompts], self._effects
        return PlanEvent(
            key=f"plan/{plan.round}",
            plan=plan,
            # Seconds are left out: they differ from run to run, and plans are compared.
            expectation=expectation.model_dump(mode="json", exclude={"seconds"}),
            n_tokens={text: effects.count_tokens(text) for text in texts},
            max_tokens=effects.max_tokens,
            undrawn={text: tuple(words) for text in texts if (words := effects.undrawn(text))},
            draft="" if choice.draft == "replace" else choice.draft,
        )

    def request(self, resolved: ResolvedDraft, plan: Plan, key: str) -> ApprovalRequest:
        """Return the request for approval of a plan."""
        return ApprovalRequest(
            key=key,
            kind="plan",
            round=plan.round,
            plan=plan,
            expectation=self.expect(plan),
            nearest=self._effects.nearest(plan),
            resolved=resolved,
        )

    def drawable(self, report: Report | None) -> list[str]:
        """Return the keys of slices that can be drawn, worst first; single values without a report.

        Single values are sorted by name.
        """
        distribution = self._distribution()
        if slices := supported_slices(report, distribution):
            return worst_first(slices)
        values = {slice_key({k: v}) for row in distribution.rows for k, v in row.attributes.items()}
        return sorted(values)

    def _open_vocabulary(self, round_number: int) -> bool:
        """Return whether prompts may use any words, as recorded when the round began."""
        facts = facts_of(self._journal, round_number)
        if not facts:  # an addition to a later plan
            return self._effects.supports("open_vocabulary", round_number)
        return bool(facts.get("open_vocabulary", False))

    def lever_bounds(self, round_number: int) -> Bounds:
        """Return the bounds of a round's levers, see `agent.loop.levers.lever_bounds`."""
        spare = facts_of(self._journal, round_number).get("spare", 0)
        past = rounds_before(self._journal, round_number)
        follows = self._effects.supports("accepts_guidance", round_number)
        held = held_preferences(self._journal)
        return lever_bounds(self._session.settings, held, past, round_number, spare, follows)

    def budget(self, levers: Levers | None, round_number: int) -> int:
        """Return the number of images of a round, as set by the levers or the schedule."""
        return (levers and levers.n_images) or budget_of(self._session, round_number)

    def _observe(self, levers: Levers | None, round_number: int) -> Observation:
        """Return the observation of a planner, with the number of images that the levers set."""
        seen = observe(self._session, round_number)
        return seen.model_copy(update={"n_images": self.budget(levers, round_number)})

    def _adapters(self) -> list[str]:
        """Return the names of the generator's LoRA adapters, which prompts may weight."""
        from tools.data.drawn import adapter_name

        given = self._session.settings.generator.options.get("adapters")
        return sorted(adapter_name(path) for path in given) if isinstance(given, dict) else []

    def _no_guidance(self, is_trained: bool) -> str | None:
        """Return why no DSTM can guide images, or None; is_trained: whether there is one yet."""
        if not is_trained:
            return "no DSTM has been trained yet"
        if not self._effects.supports("accepts_feedback", 0):
            return f"the generator {self._session.settings.generator.name!r} cannot be pulled"
        return None

    def _distribution(self) -> AttributeDistribution:
        (head,) = self._journal.events(HeadEvent)
        return AttributeDistribution.model_validate(head.palette)

    def _tell_wishes(self, round_number: int, preferences: Sequence[Preference]) -> None:
        """Raise Rejected once if there are preferences that the author has not been shown."""
        shown = set(facts_of(self._journal, round_number).get("wishes", ()))
        for event in self._journal.events(WishesShownEvent, since=round_number):
            shown.update(event.wishes)
        news = [preference for preference in preferences if preference.id not in shown]
        if news:
            ids = tuple(wish.id for wish in news)
            self._journal.append(WishesShownEvent(round=round_number, wishes=ids))
            raise Rejected(
                "Since this round began the user has said: "
                f"{'; '.join(wish.say() for wish in news)}. Propose a plan that does so."
            )
