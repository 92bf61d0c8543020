"""Credit of prompts for the changes of slices, and verdicts on hypotheses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from eval.metrics import binomial_variance
from memory.records import (
    Batch,
    Credit,
    Estimate,
    Hypothesis,
    Plan,
    PromptSpec,
    Report,
    SliceScore,
    Verdict,
)

Floats = NDArray[np.float64]

PRIOR_VARIANCE = 0.05**2
N_RESAMPLES = 500
# Squared length of a gradient up to which it is rounding error.
LEAST_SQUARE = 1e-20


def credit(plan: Plan, batch: Batch, before: Report | None, after: Report) -> tuple[Credit, ...]:
    """Share out the change of every slice among the prompts that agree with all its attributes.

    The change of a slice's accuracy is shrunk towards zero by its binomial error (empirical
    Bayes: a change is believed to vary with a standard deviation of 0.05), given to prompts in
    proportion to their kept images, and divided by the images made, so that images which the
    audit rejects cost credit. Slices that `before` and `after` do not both measure, prompts that
    made nothing, and a round without a report before give none.
    """
    if before is None:
        return ()
    quality = {q.prompt_id: q for q in batch.quality if q.n_made}
    measured = {score.key: score for score in before.slices}
    credits_ = []
    for score in after.slices:
        if score.key not in measured:
            continue
        change = shrunk_change(measured[score.key], score)
        agreeing = [p for p in plan.prompts if p.id in quality and agrees(p, score)]
        n_kept = sum(quality[p.id].n_kept for p in agreeing)
        for prompt in agreeing:
            made = quality[prompt.id]
            share = made.n_kept / n_kept if n_kept else 0.0
            credits_.append(
                Credit(
                    prompt_id=prompt.id,
                    slice=score.key,
                    n_images=made.n_made,
                    change_per_100=change * share * 100 / made.n_made,
                )
            )
    return tuple(credits_)


def agrees(prompt: PromptSpec, score: SliceScore) -> bool:
    """Return whether a prompt names every attribute value of a slice."""
    return score.attributes.items() <= prompt.attributes.items()


def shrunk_change(before: SliceScore, after: SliceScore) -> float:
    """Return the change of a slice's accuracy, -1..1, shrunk by its binomial error."""
    error = sum(binomial_variance(s.n_correct, s.accuracy.n) for s in (before, after))
    change = after.accuracy.value - before.accuracy.value
    return change * PRIOR_VARIANCE / (PRIOR_VARIANCE + error)


def settle(hypothesis: Hypothesis, before: Report | None, after: Report) -> Verdict:
    """Return how a hypothesis came out.

    It held if the slice's accuracy moved at least half as far as expected, in that direction; if
    no change was expected, if the accuracy before lies within the interval after.
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
    held = change / expected >= 0.5 if expected else new.low <= old.value <= new.high
    return Verdict(hypothesis=hypothesis, before=old, after=new, change=change, held=held)


def head_gradients(features: Floats, residuals: Floats) -> Floats:
    """Return the gradient of each image's loss by a linear layer, offsets included.

    Args:
        features: the layer's input, (n, f), or (n, f, h, w) of a 1x1 convolution.
        residuals: the derivative of an image's loss by the layer's output, (n, o) or (n, o, h, w);
            p - y for softmax and cross-entropy.

    Returns:
        (n, o * (f + 1)), summed over pixels.
    """
    n, n_outputs = residuals.shape[:2]
    flat = residuals.reshape(n, n_outputs, -1)
    inputs = features.reshape(n, features.shape[1], -1)
    weights = flat @ inputs.transpose(0, 2, 1)
    gradients: Floats = np.concatenate([weights, flat.sum(2, keepdims=True)], axis=2)
    return gradients.reshape(n, -1)


def cosine(one: Floats, other: Floats) -> float:
    """Return the cosine of two vectors, -1..1, 0 where one has no length."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(np.clip(one @ other / lengths, -1, 1)) if lengths else 0.0


def prompt_agreement(
    images: Floats, prompt_ids: Sequence[str], photographs: Floats
) -> dict[str, float]:
    """Return each prompt's agreement with a slice: the cosine of their mean gradients.

    Above 0, a step on the prompt's images lowers the slice's loss, to first order and as far as the
    last layer is concerned.

    Args:
        images: gradients of generated images, (n, d).
        prompt_ids: prompt of each image, (n,).
        photographs: gradients of the slice's photographs, (m, d).
    """
    owner, wanted = np.array(prompt_ids), photographs.mean(0)
    return {
        name: cosine(images[owner == name].mean(0), wanted) for name in dict.fromkeys(prompt_ids)
    }


def prompt_influence(
    images: Floats, prompt_ids: Sequence[str], photographs: Floats
) -> dict[str, float]:
    """Return each prompt's influence on a slice; see `prompt_agreement` for the arguments.

    It is the projection of the prompt's mean gradient on that of the photographs, relative to its
    length: 1 is as much as the photographs themselves, below 0 is harm. Unlike the cosine it is
    near 0 for images that the model has learnt already, whatever their direction. 0 where the
    photographs have no gradient.
    """
    owner, wanted = np.array(prompt_ids), photographs.mean(0)
    size = float(wanted @ wanted)
    return {
        name: float(images[owner == name].mean(0) @ wanted) / size if size > LEAST_SQUARE else 0.0
        for name in dict.fromkeys(prompt_ids)
    }


def rank_correlation(estimates: Sequence[Floats], effects: Sequence[Floats]) -> Estimate:
    """Return the mean Spearman correlation of credit with true effects of prompts, -1..1.

    All prompts and slices of a case are ranked together; the correlation of a case in which all are
    equal is 0. The interval resamples the prompts of each case, with all their slices.

    Args:
        estimates: credits of every case, (n_prompts, n_slices).
        effects: true effects of every case, (n_prompts, n_slices).

    Returns:
        The correlation; n counts prompts.
    """
    rng = np.random.default_rng(0)
    cases = list(zip(estimates, effects, strict=True))

    def mean(rows: Sequence[NDArray[np.int64]]) -> float:
        pairs = zip(cases, rows, strict=True)
        return float(np.mean([_spearman(x[chosen], y[chosen]) for (x, y), chosen in pairs]))

    sizes = [len(x) for x, _ in cases]
    again = [mean([rng.integers(0, n, n) for n in sizes]) for _ in range(N_RESAMPLES)]
    value = mean([np.arange(n) for n in sizes])
    low, high = np.quantile(again, (0.025, 0.975))
    return Estimate(value=value, low=min(low, value), high=max(high, value), n=sum(sizes))


def _spearman(one: Floats, other: Floats) -> float:
    x, y = (rankdata(values.ravel()) for values in (one, other))
    return cosine(x - x.mean(), y - y.mean())
