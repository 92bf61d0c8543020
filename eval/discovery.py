"""Discovery of failures beyond the slices that a model is measured on.

Candidates (`eval.candidates`) are tested against the null hypothesis "as good as the rest" with a
correction for their number, and reported only if earlier findings do not explain them. Mixtures and
directions are fitted to the images that attributes and groups do not explain.

The error of an image is in 0..1: 0 or 1 for a classifier, 1 - score where pixels are labelled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from eval.candidates import (
    Candidate,
    Evaluated,
    as_scores,
    attribute_candidates,
    direction_candidates,
    group_candidates,
    mixture_candidates,
)
from eval.slices import Attributes, Indices, Scores, benjamini_hochberg, mean_score, members_worse
from memory.records import Failure, Trait, digest, slice_key

Floats = NDArray[np.float64]

# Largest number of findings, and of examples of each.
N_FINDINGS, N_EXAMPLES = 10, 16
# Largest number of candidates that may together explain a larger one.
N_PARTS = 3
# Least share of the members that have a trait, and least ratio to its share among all images.
LEAST_SHARE, LEAST_LIFT = 0.5, 1.5
# Least overlap (Jaccard) at which a finding counts as the same as one of the previous round.
SAME = 0.3


def select(
    candidates: Sequence[Candidate],
    scores: Scores,
    n_min: int,
    alpha: float,
    explained: Indices | None = None,
    limit: int = N_FINDINGS,
    groups: Indices | None = None,
) -> list[Candidate]:
    """Select candidates that err more than the rest and are not explained by earlier ones.

    All candidates are tested and corrected together (Benjamini-Hochberg). Then the most significant
    one, or the part that explains it, is selected; its images are set aside, and the others are
    tested again on the remaining images, at the level of the first test, until none passes.

    Args:
        candidates: candidates to test.
        scores: (n,), see `as_scores`.
        n_min: least images of a candidate; half of them must be tested and not set aside.
        alpha: false discovery rate, 0..1.
        explained: rows of images that are set aside from the start.
        limit: largest number of candidates to select.
        groups: (n,), see `Evaluated`.

    Returns:
        Candidates in the order of selection, with p and q of the first test.
    """
    excluded = np.zeros(len(scores), bool)
    worse = partial(_worse, scores=scores, groups=groups, n_min=n_min)
    p_values = [worse(candidate, excluded) for candidate in candidates]
    tested = [
        replace(candidate, p=p, q=q)
        for candidate, p, q in zip(candidates, p_values, benjamini_hochberg(p_values), strict=True)
    ]
    left = [candidate for candidate in tested if candidate.q <= alpha]
    threshold = alpha * len(left) / max(1, len(tested))
    if explained is not None:
        excluded[explained] = True
    taken: list[Candidate] = []
    while left and len(taken) < limit:
        now = [(worse(candidate, excluded), candidate) for candidate in left]
        now = [(p, candidate) for p, candidate in now if p <= threshold]
        if not now:
            break
        _, best = min(now, key=lambda item: item[0])
        best = _core(best, [candidate for _, candidate in now], worse, scores, excluded, alpha)
        taken.append(best)
        excluded[best.members] = True
        left = [candidate for _, candidate in now if candidate is not best]
    return taken


def _core(
    whole: Candidate,
    others: Sequence[Candidate],
    worse: Callable[[Candidate, NDArray[np.bool_]], float],
    scores: Scores,
    excluded: NDArray[np.bool_],
    alpha: float,
) -> Candidate:
    """Return the most significant of the smaller candidates that explain why `whole` is worse.

    At most `N_PARTS` candidates with a higher error, at least half of whose images lie in `whole`,
    explain it if it is as good as the rest without their images: rain fails because rain at night
    does. Without such candidates, `whole` itself is returned. A slice of attributes is explained by
    slices of attributes only.
    """
    inside = np.zeros(len(scores), bool)
    inside[whole.members] = True
    mean = scores[whole.members[~excluded[whole.members]]].mean()
    left = [
        other
        for other in others
        if (other.kind == "slice" or whole.kind != "slice")
        and len(other.members) < len(whole.members)
        and inside[other.members].mean() >= 0.5
        and scores[other.members[~excluded[other.members]]].mean() < mean
    ]
    without = excluded.copy()
    first = None
    for _ in range(min(N_PARTS, len(left))):
        p_values = [worse(other, without) for other in left]
        if min(p_values) > alpha:
            break
        part = left.pop(int(np.argmin(p_values)))
        first = first or part
        without[part.members] = True
        if worse(whole, without) > alpha:
            return _core(first, others, worse, scores, excluded, alpha)
    return whole


def _worse(
    candidate: Candidate,
    excluded: NDArray[np.bool_],
    scores: Scores,
    groups: Indices | None,
    n_min: int,
) -> float:
    """Return the p-value of "as good as the rest" on the images that are not set aside.

    1 if fewer than half of `n_min` members, or fewer than two others, are left.
    """
    inside = np.zeros(len(scores), bool)
    inside[candidate.members] = True
    judged = candidate.tested[~excluded[candidate.tested]]
    members, rest = judged[inside[judged]], judged[~inside[judged]]
    # Half of the images were used to fit a mixture and are not tested; others may be explained.
    if len(members) < max(2, n_min / 2) or len(rest) < 2:
        return 1.0
    return members_worse(scores, members, rest, groups)


def discover(
    images: Evaluated,
    n_min: int,
    alpha: float = 0.05,
    reported: Sequence[Failure] = (),
    previous: Sequence[Failure] = (),
) -> tuple[Failure, ...]:
    """Return failures that the significant failures of `reported` do not explain.

    The error rate is computed over all members, and compared with that of the rest that they are
    tested against; p and q of a cluster come from the half that it was not fitted on. The same
    arguments give the same failures.

    Args:
        images: images that the model was evaluated on. Clusters and directions require embeddings.
        n_min: least photographs of a finding.
        alpha: false discovery rate, 0..1.
        reported: failures of the slices that a report measures.
        previous: failures of the previous round; findings that overlap them (see `follow`) keep
            their ids and names.

    Returns:
        Findings in the order of selection; () for fewer than `2 * n_min` images or equal errors.
    """
    n, scores = len(images.errors), as_scores(images.errors)
    if n < 2 * n_min or np.ptp(images.errors) == 0:
        return ()
    explained = _explained(images, reported)
    chosen = partial(select, scores=scores, n_min=n_min, alpha=alpha, groups=images.groups)
    findings = chosen(attribute_candidates(images, n_min), explained=explained)
    explained = np.unique(np.concatenate([explained, *(c.members for c in findings)]))
    if images.embeddings is not None:
        # The end of a direction may contain several clusters, so clusters are searched first.
        for look in (group_candidates, mixture_candidates, direction_candidates):
            rows = np.setdiff1d(np.arange(n), explained)
            candidates = look(images, rows, n_min) if len(rows) >= 4 * n_min else []
            new = chosen(candidates, explained=explained, limit=N_FINDINGS - len(findings))
            explained = np.unique(np.concatenate([explained, *(c.members for c in new)]))
            findings += new
    listed = {failure.slice for failure in reported}
    failures = [
        _failure(images, candidate)
        for candidate in findings
        if slice_key(candidate.attributes) not in listed or candidate.kind != "slice"
    ]
    return follow(failures, previous)


def traits(members: Indices, attributes: Attributes) -> tuple[Trait, ...]:
    """Return the attribute values that are characteristic of the members, largest lift first.

    At least half of the members have such a value, 1.5 times its share among all images.
    """
    common = []
    for name in sorted({name for named in attributes for name in named}):
        everywhere = [named.get(name) for named in attributes]
        for value in sorted({value for value in everywhere if value is not None}):
            share = sum(everywhere[int(i)] == value for i in members) / len(members)
            lift = share / (everywhere.count(value) / len(everywhere))
            if share >= LEAST_SHARE and lift >= LEAST_LIFT:
                common.append(Trait(attribute=name, value=value, share=share, lift=round(lift, 3)))
    return tuple(sorted(common, key=lambda t: (-t.lift, t.attribute)))


def nearest_prompts(members: Indices, captions: Floats, prompts: Floats, n: int = 3) -> list[int]:
    """Return the indices of the prompts that best describe how the members differ from the rest.

    Prompts are ranked by the cosine between prompt and mean caption of the members, both relative
    to the mean caption of all images.

    Args:
        members: indices of images.
        captions: vectors of the images' captions, (n_images, d).
        prompts: vectors of the prompts' texts, (n_prompts, d).
        n: largest number of prompts to return.
    """
    if len(prompts) == 0:
        return []
    middle = captions.mean(0)
    direction, offsets = captions[members].mean(0) - middle, prompts - middle
    lengths = np.linalg.norm(offsets, axis=1) * np.linalg.norm(direction) + 1e-12
    order = np.argsort(-(offsets @ direction) / lengths, kind="stable")
    return [int(i) for i in order[:n]]


def follow(findings: Sequence[Failure], previous: Sequence[Failure]) -> tuple[Failure, ...]:
    """Give findings the ids and names of the findings of the previous round that they overlap most.

    Matched one to one, largest overlap of members (Jaccard) first, at least `SAME`. Slices of
    attributes keep their own ids.
    """
    pairs = [
        (jaccard(new.members, old.members), i, j)
        for i, new in enumerate(findings)
        for j, old in enumerate(previous)
        if new.kind != "slice" and old.kind != "slice"
    ]
    named: dict[int, int] = {}
    for overlap, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1:])):
        if overlap >= SAME and i not in named and j not in named.values():
            named[i] = j
    return tuple(
        failure.model_copy(update={"id": previous[named[i]].id, "slice": previous[named[i]].slice})
        if i in named
        else failure
        for i, failure in enumerate(findings)
    )


def jaccard(one: Sequence[str], other: Sequence[str]) -> float:
    """Return the overlap of two sets, 0..1; 0 for two empty ones."""
    a, b = set(one), set(other)
    return len(a & b) / len(a | b) if a | b else 0.0


def _explained(images: Evaluated, reported: Sequence[Failure]) -> Indices:
    """Return the rows of the images that belong to significant failures of a report."""
    inside = [
        any(f.attributes.items() <= dict(named).items() for f in reported if f.significant)
        for named in images.attributes
    ]
    return np.flatnonzero(inside)


def _failure(images: Evaluated, candidate: Candidate) -> Failure:
    members, errors = candidate.members, images.errors[candidate.members]
    rest = np.setdiff1d(candidate.tested, members)
    ids = tuple(images.ids[int(i)] for i in members)
    common = traits(members, images.attributes)
    is_slice = candidate.kind == "slice"
    attributes = dict(candidate.attributes) if is_slice else {t.attribute: t.value for t in common}
    key = slice_key(attributes) if is_slice else f"{candidate.kind} {digest(ids)[:6]}"
    losses = errors if images.losses is None else images.losses[members]
    order = [int(i) for i in np.argsort(-losses, kind="stable") if errors[i] > 0]
    kind = as_scores(images.errors).dtype
    return Failure(
        id=digest(key),
        slice=key,
        attributes=attributes,
        n=len(members),
        n_wrong=int(np.rint(errors.sum())),
        error_rate=mean_score(errors.astype(kind)),
        rest_error_rate=float(np.clip(images.errors[rest].mean(), 0, 1)),
        p_value=min(1.0, candidate.p),
        q_value=candidate.q,
        significant=True,
        examples=tuple(ids[i] for i in order[:N_EXAMPLES]),
        kind=candidate.kind,
        members=() if is_slice else ids,
        traits=() if is_slice else common,
    )
