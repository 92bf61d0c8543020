"""Trial batches: a failing slice gets a few images of its prompts before a plan spends more on it.

After the targeted generation check of He, Ribeiro and Khani: what a group of prompts does is
estimated from a small batch before the budget goes to it. The batch is part of the plan, so its
images are drawn, audited, counted and trained on like all others. What the audit keeps of them,
how their last-layer gradients agree with the failing photographs, and whether these get better,
is then in the slice's `fixable` (`eval.fixable`), by which planners plan.

A prompt of a trial draws one image: many wordings say more about a group than many images of one.
With 12 images that all speak the same way, `fixable` has a verdict; with 5 it can only say that
none was drawn as asked.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from agent.loop.validation import MAX_PROMPTS
from agent.planners import AttributeDistribution, Observation, PlanDraft, PromptDraft
from agent.planners.slices import PromptWriter
from agent.steering.preferences import Preference
from agent.steering.steer import as_draft, breaks, scaled
from eval.fixable import evidence_from
from memory.records import Failure, Trial
from prompts.vocabulary import Vocabulary

# Share of a plan's images that may go to trials.
MOST = 0.5


def with_trials(
    draft: PlanDraft,
    observation: Observation,
    distribution: AttributeDistribution,
    vocabulary: Vocabulary,
    n: int,
    wanted: Sequence[Preference] = (),
) -> PlanDraft:
    """Return a draft in which failing slices with fewer than `n` images so far are on trial.

    Such a slice is a significant failure that the distribution supports; the worst come first, as
    many as fit into half of the images. It gets what it lacks of `n` images, and all other prompts
    that name its attributes are left out; the rest of the draft, its counts scaled, gets what
    remains, so the total stays. Where there is no rest, the draft itself gets it. A draft that
    cannot be a plan is left to be refused. The same arguments give the same draft.

    Args:
        draft: What was proposed.
        observation: Rounds so far and the budget.
        distribution: What the generator can be asked for.
        vocabulary: Attributes and values of the target.
        n: Images that a slice needs before more are spent on it; 0: no trials.
        wanted: Preferences of a person, whose constraints trials keep.
    """
    total = sum(prompt.count for prompt in draft.prompts)
    allowed = _allowed(distribution, wanted, vocabulary)
    is_plan = total <= observation.n_images and all(p.count > 0 for p in draft.prompts)
    if not (n and allowed and is_plan):
        return draft
    room = min(int(MOST * total), MAX_PROMPTS - len(draft.prompts))
    rng = random.Random(f"trial {observation.seed} {observation.round}")
    writer = PromptWriter(allowed, vocabulary, 1, rng)
    trials: list[Trial] = []
    prompts: list[PromptDraft] = []
    for failure in _failing(observation.failures):
        attributes = failure.attributes
        made = evidence_from(attributes, failure.slice, observation.rounds).n_made
        n_asked = sum(attributes.items() <= prompt.attributes.items() for prompt in prompts)
        lacking = max(0, n - made - n_asked)
        if made >= n or len(prompts) + lacking > room or not _supplies(allowed, attributes):
            continue
        why = f"trial: {made} images of '{failure.slice}' so far"
        prompts += writer.of_slice(attributes, lacking, why)
        trials.append(Trial(slice=failure.slice, attributes=attributes, n_images=n - made))
    if not trials:
        return draft
    others = [p for p in draft.prompts if not any(_names(p, t, vocabulary) for t in trials)]
    left = scaled(others or draft.prompts, total - len(prompts))
    return draft.model_copy(update={"prompts": (*left, *prompts), "trials": tuple(trials)})


def _failing(failures: Sequence[Failure]) -> list[Failure]:
    """Return the failures that prompts can ask for, highest error first."""
    named = [f for f in failures if f.significant and f.attributes]
    return sorted(named, key=lambda f: (-f.error_rate.value, f.slice))


def _allowed(
    distribution: AttributeDistribution, wanted: Sequence[Preference], vocabulary: Vocabulary
) -> AttributeDistribution | None:
    """Return what of a distribution keeps the constraints of a person, None where nothing does."""
    rows = [row for row in distribution.rows if not breaks(as_draft(row), wanted, vocabulary)]
    return AttributeDistribution(rows=tuple(rows)) if rows else None


def _supplies(distribution: AttributeDistribution, attributes: Mapping[str, str]) -> bool:
    return any(attributes.items() <= row.attributes.items() for row in distribution.rows)


def _names(prompt: PromptDraft, trial: Trial, vocabulary: Vocabulary) -> bool:
    attributes = {**vocabulary.parse(prompt.text), **prompt.attributes}
    return trial.attributes.items() <= attributes.items()
