"""Credit of prompts for changes of slices, and verdicts on hypotheses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from eval.effects import Effect, agrees
from memory.records import Batch, Credit, Estimate, Hypothesis, Plan, Report, SliceScore, Verdict

Floats = NDArray[np.float64]

# Largest absolute change of an accuracy that counts as no change.
NO_CHANGE = 0.05
# Squared norm up to which a gradient is rounding error.
LEAST_SQUARE = 1e-20


def credit(
    plan: Plan, batch: Batch, slices: Sequence[SliceScore], effects: Mapping[str, Effect]
) -> tuple[Credit, ...]:
    """Divide the effect on every slice among the prompts that name all its attribute values.

    The effect is shrunk towards zero by its error (empirical Bayes with a prior standard deviation
    of effects of 0.05), divided among prompts in proportion to their kept images, and expressed per
    generated image, so that images which the audit rejects reduce the credit. Slices without an
    effect and prompts without an image have no credit.

    Args:
        plan: plan of the round.
        batch: batch of the round.
        slices: slices of the report after the round.
        effects: effects by the key of the slice, see `eval.effects`.
    """
    quality = {q.prompt_id: q for q in batch.quality if q.n_made}
    credits_ = []
    for score in slices:
        effect = effects.get(score.key)
        if effect is None:
            continue
        agreeing = [p for p in plan.prompts if p.id in quality and agrees(p, score)]
        n_kept = sum(quality[p.id].n_kept for p in agreeing)
        for prompt in agreeing:
            audited = quality[prompt.id]
            share = audited.n_kept / n_kept if n_kept else 0.0
            credits_.append(
                Credit(
                    prompt_id=prompt.id,
                    slice=score.key,
                    n_images=audited.n_made,
                    change_per_100=effect.shrunk * share * 100 / audited.n_made,
                    error=None if effect.plain else effect.error * share * 100 / audited.n_made,
                )
            )
    return tuple(credits_)


def settle(
    hypothesis: Hypothesis, before: Report | None, after: Report, effects: Mapping[str, Effect]
) -> Verdict:
    """Return the verdict on a hypothesis.

    It held if the effect on the slice is at least half of the expected change and its 95% interval
    excludes 0 on that side; it did not hold if the whole interval is below half of the expected
    change. Where no change was expected, it held if the interval lies within 0.05 of 0, and did not
    hold if the interval excludes 0. Otherwise it is undecided.

    Plain changes are settled by the rule of record version 1: the hypothesis held if the change is
    at least half of the expected one or, where none was expected, if the accuracy before lies
    within the interval after.
    """
    old, new = (
        next((s.accuracy for s in report.slices if s.key == hypothesis.slice), None)
        if report
        else None
        for report in (before, after)
    )
    if old is None or new is None:
        return Verdict(hypothesis=hypothesis, before=old, after=new, change=None, held=None)
    change, expected = new.value - old.value, hypothesis.expected_change
    effect = effects[hypothesis.slice]
    if effect.plain:
        held = change / expected >= 0.5 if expected else new.low <= old.value <= new.high
        return Verdict(hypothesis=hypothesis, before=old, after=new, change=change, held=held)
    estimate = effect.estimate(new.n)
    return Verdict(
        hypothesis=hypothesis,
        before=old,
        after=new,
        change=change,
        effect=estimate,
        held=_held(estimate, expected),
    )


def _held(effect: Estimate, expected: float) -> bool | None:
    if not expected:
        if effect.low >= -NO_CHANGE and effect.high <= NO_CHANGE:
            return True
        return False if effect.low > 0 or effect.high < 0 else None
    value, low, high = effect.value, effect.low, effect.high
    if expected < 0:
        value, low, high = -value, -high, -low
    if low > 0 and value >= abs(expected) / 2:
        return True
    return False if high < abs(expected) / 2 else None


def head_gradients(features: Floats, residuals: Floats) -> Floats:
    """Return the gradient of each image's loss with respect to a linear layer, biases included.

    Args:
        features: input of the layer, (n, f), or (n, f, h, w) for a 1x1 convolution.
        residuals: derivative of each image's loss with respect to the output of the layer, (n, o)
            or (n, o, h, w); p - y for softmax and cross-entropy.

    Returns:
        (n, o * (f + 1)), summed over pixels.
    """
    n, n_outputs = residuals.shape[:2]
    flat = residuals.reshape(n, n_outputs, -1)
    inputs = features.reshape(n, features.shape[1], -1)
    weights = flat @ inputs.transpose(0, 2, 1)
    gradients: Floats = np.concatenate([weights, flat.sum(2, keepdims=True)], axis=2)
    return gradients.reshape(n, -1)


def prompt_influence(
    images: Floats, prompt_ids: Sequence[str], photographs: Floats
) -> dict[str, float]:
    """Return each prompt's influence on a slice.

    The influence is the projection of the prompt's mean gradient on the mean gradient of the
    photographs, relative to the length of the latter: 1 equals the photographs themselves, below 0
    is harm. Unlike the cosine it is near 0 for images that the model fits already, whatever their
    direction. It is 0 where the photographs have no gradient.

    Args:
        images: gradients of the generated images, (n, d).
        prompt_ids: id of the prompt of each image, n of them.
        photographs: gradients of the photographs of the slice, (m, d).
    """
    owner, goal = np.array(prompt_ids), photographs.mean(0)
    size = float(goal @ goal)
    return {
        name: float(images[owner == name].mean(0) @ goal) / size if size > LEAST_SQUARE else 0.0
        for name in dict.fromkeys(prompt_ids)
    }
