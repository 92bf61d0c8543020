"""The policy's plan as a draft for a language model, and plans given as shares of slices.

A language model can accept the draft, or specify shares of the images by slice; the prompts of
these are then drawn from the caption grammar, as for planners.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from agent import planners
from agent.brains import planner_of
from agent.loop.schedule import own_schedule, preferences_of
from agent.loop.state import SessionView
from agent.planners import AttributeDistribution, Observation, PlanDraft, PromptDraft, SliceShare
from agent.planners.slices import PromptWriter, last_report, supported_slices
from agent.steering.preferences import Preference, active_preferences
from agent.steering.steer import scaled, steer
from memory.errors import ToolError
from memory.events import ForgetEvent, WishEvent
from memory.records import Hypothesis, Levers, PromptSpec, Record, SliceScore, slice_key
from prompts.vocabulary import Vocabulary

Use = Literal["accept", "edit", "replace"]

# Deviation of the sum of shares from 1 up to which scaling is not reported.
_ROUNDED = 0.02
# Deviation of a drawn share from the requested one up to which it is not reported as missed.
MISSED = 0.1


class PolicyDraft(Record):
    """The plan of the fallback policy, offered to a language model as a draft.

    Attributes:
        planner: Name of the policy.
        plan: Its plan.
        gains: Mean and standard deviation of the expected gain in accuracy of an average round, by
            slice (`agent.planners.expected_gain`); only slices that earlier rounds targeted.
    """

    planner: str
    plan: PlanDraft
    gains: dict[str, tuple[float, float]] = Field(default_factory=dict)


class PlanChoice(Record):
    """The arguments of a call of `propose_plan`."""

    draft: Use = "replace"
    shares: tuple[SliceShare, ...] = ()
    prompts: tuple[PromptDraft, ...] = ()
    why: str = ""
    hypothesis: Hypothesis | None = None
    levers: Levers | None = None

    def relative(self) -> tuple[SliceShare, ...]:
        """Return the shares; without a draft they are scaled to add up to 1."""
        total = sum(one.share for one in self.shares)
        if self.draft != "replace" or not total:
            return self.shares
        return tuple(o.model_copy(update={"share": o.share / total}) for o in self.shares)

    def as_given(self) -> PlanDraft:
        """Return the plan that consists of the given prompts."""
        return PlanDraft(
            prompts=self.prompts, why=self.why, hypothesis=self.hypothesis, levers=self.levers
        )


def policy_draft(
    session: SessionView, seen: Observation, space: AttributeDistribution, vocabulary: Vocabulary
) -> PolicyDraft | None:
    """Return the draft of a round, steered by the active preferences; None if a policy decides."""
    settings = session.settings
    if planner_of(settings.brain) is not None:
        return None
    planner = planners.build(settings.llm.fallback)
    plan = planner.plan(seen, space, vocabulary)
    held = active_preferences(session.journal.events(WishEvent, ForgetEvent))
    scheduled = own_schedule(held, seen.rounds, seen.round)
    wanted = preferences_of(held, scheduled[:1], seen.round)
    plan, _ = steer(plan, wanted, space, vocabulary, seen.images_per_prompt, _seed(seen))
    return PolicyDraft(planner=planner.name, plan=plan, gains=_gains(seen, space))


def _gains(seen: Observation, space: AttributeDistribution) -> dict[str, tuple[float, float]]:
    from agent.planners.expected_gain import gains
    from agent.planners.slices import slice_changes

    slices = supported_slices(last_report(seen.rounds), space)
    changed = {change.after.key for change in slice_changes(seen.rounds)}
    if not changed or not slices:
        return {}
    expected = gains(seen.rounds, slices)
    return {
        key: (round(gain.mean, 4), round(gain.deviation, 4))
        for key, gain in expected.items()
        if key in changed
    }


def compose(
    choice: PlanChoice,
    draft: PolicyDraft | None,
    seen: Observation,
    space: AttributeDistribution,
    vocabulary: Vocabulary,
    wanted: Sequence[Preference] = (),
) -> PlanDraft:
    """Return the plan described by a call of `propose_plan`.

    Args:
        choice: Arguments of the call.
        draft: Draft that the call may accept or edit. None: there is no draft.
        seen: Budget of the round.
        space: Combinations of attributes that can be drawn.
        vocabulary: Vocabulary of the target.
        wanted: Active preferences, applied to the draft after the edits.

    Raises:
        ToolError: The arguments contradict one another, or the shares cannot be drawn.
    """
    _check(choice, draft is not None, space, vocabulary)
    given = {name: getattr(choice, name) for name in ("why", "hypothesis", "levers")}
    given = {key: value for key, value in given.items() if value}
    if choice.draft == "replace":
        rng = random.Random(f"shares {_seed(seen)}")
        writer = PromptWriter(space, vocabulary, seen.images_per_prompt, rng)
        prompts = writer.of_shares(choice.relative(), seen.n_images)
        return PlanDraft(prompts=tuple(prompts), **given)
    assert draft is not None  # _check has refused it
    edits = [
        Preference(
            id=f"share {number}",
            attributes={key: (value,) for key, value in one.where.items()},
            min_share=one.share,
            max_share=one.share,
        )
        for number, one in enumerate(choice.shares, 1)
    ]
    sized = draft.plan
    if choice.levers and choice.levers.n_images:
        prompts = scaled(sized.prompts, seen.n_images)
        sized = sized.model_copy(update={"prompts": tuple(p for p in prompts if p.count)})
    plan, _ = steer(
        sized, [*edits, *wanted], space, vocabulary, seen.images_per_prompt, _seed(seen)
    )
    return plan.model_copy(update=given)


def say_origin(choice: PlanChoice, draft: PolicyDraft) -> str:
    """Return whose draft a model uses, with the model's own reason if it is more than one word."""
    taken = "It takes" if choice.draft == "accept" else "It changes shares of"
    reason = f" Its own reason: {choice.why}" if " " in choice.why.strip() else ""
    return f"{taken} the draft of {draft.planner}: {draft.plan.why}{reason}"


def say_shares(choice: PlanChoice, prompts: Sequence[PromptSpec]) -> list[str]:
    """Return one line for each share of a plan: the requested and the drawn share."""
    shares, total = choice.relative(), sum(one.share for one in choice.shares)
    is_scaled = bool(shares) and abs(total - sum(one.share for one in shares)) > _ROUNDED
    lines = [f"The shares added up to {total:.2f} and were scaled to 1."] if is_scaled else []
    for one in shares:
        drawn = share_of(one.where, prompts)
        missed = " (missed)" if abs(drawn - one.share) > MISSED else ""
        name = slice_key(one.where) or "anything"
        lines.append(f"{name}: asked {one.share:.0%}, drawn {drawn:.0%}{missed}.")
    return lines


def worst_first(scores: Sequence[SliceScore]) -> list[str]:
    """Return the keys of slices in ascending order of accuracy."""
    return [score.key for score in sorted(scores, key=lambda score: score.accuracy.value)]


def share_of(
    where: Mapping[str, str], prompts: Sequence[PromptDraft] | Sequence[PromptSpec]
) -> float:
    """Return the share, 0..1, of the images whose prompts have the given attribute values."""
    total = sum(prompt.count for prompt in prompts)
    n = sum(prompt.count for prompt in prompts if where.items() <= prompt.attributes.items())
    return n / total if total else 0.0


def _check(
    choice: PlanChoice, has_draft: bool, space: AttributeDistribution, vocabulary: Vocabulary
) -> None:
    problems = []
    if choice.draft != "replace" and not has_draft:
        problems.append("there is no draft in this round; give shares or prompts")
    if choice.draft == "accept" and (choice.shares or choice.prompts):
        problems.append("an accepted draft takes no shares and no prompts; to change it, edit it")
    if choice.draft == "edit" and (choice.prompts or not choice.shares):
        problems.append("an edit needs shares, and no prompts")
    if choice.draft == "replace" and choice.prompts:
        problems.append("give either shares or prompts")
    for one in choice.shares:
        name = slice_key(one.where) or "anything"
        wrong = vocabulary.problems(one.where)
        problems += [f"{name}: {problem}" for problem in wrong]
        if not wrong and not any(space.matching(one.where, c) for c in vocabulary.classes):
            problems.append(f"no photograph shows {name}, so nothing can be drawn of it")
        if choice.draft == "edit" and not one.where:
            problems.append("a share of an edit names a value")
    if problems:
        raise ToolError(f"The plan was not accepted: {'; '.join(problems[:10])}.")


def _seed(seen: Observation) -> str:
    return f"{seen.seed} {seen.round}"
