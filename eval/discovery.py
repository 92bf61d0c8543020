"""Discovery: where a model fails beyond the slices that it is measured on.

Candidates (`eval.candidates`) are tested against "as good as the rest", corrected for their
number, and a finding is reported only for what the findings before it do not explain. Mixtures and
directions are looked for among the images that attributes and groups do not explain.

An image's error is 0..1: wrong or right of a classifier, 1 - score where pixels are labelled.
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

# Most findings, and most examples of each.
N_FINDINGS, N_EXAMPLES = 10, 16
# Candidates that may explain a larger one together.
N_PARTS = 3
# Members' share of a trait, and how much more frequent it is among them than among all.
LEAST_SHARE, LEAST_LIFT = 0.5, 1.5
# From this overlap (Jaccard) on, a finding is the same as one of the round before.
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
    """Return the candidates that err more than the rest, each for what the earlier do not explain.

    All are tested and corrected together (Benjamini-Hochberg). Then the most significant one is
    selected, or the part that explains it; its images are set aside, and the others are tested
    again on the remaining ones, at the level of the first test, until none passes.

    Args:
        candidates: to be tested.
        scores: (n,), see `as_scores`.
        n_min: images that a candidate needs; half of them must be tested and not set aside.
        alpha: false discovery rate, 0..1.
        explained: images that are set aside from the start.
        limit: most candidates that are selected.
        groups: (n,), see `Evaluated`.

    Returns:
        Candidates in the order of selection, with p and q of the first test.
    """
    aside = np.zeros(len(scores), bool)
    worse = partial(_worse, scores=scores, groups=groups, n_min=n_min)
    p_values = [worse(candidate, aside) for candidate in candidates]
    tested = [
        replace(candidate, p=p, q=q)
        for candidate, p, q in zip(candidates, p_values, benjamini_hochberg(p_values), strict=True)
    ]
    left = [candidate for candidate in tested if candidate.q <= alpha]
    threshold = alpha * len(left) / max(1, len(tested))
    if explained is not None:
        aside[explained] = True
    taken: list[Candidate] = []
    while left and len(taken) < limit:
        now = [(worse(candidate, aside), candidate) for candidate in left]
        now = [(p, candidate) for p, candidate in now if p <= threshold]
        if not now:
            break
        _, best = min(now, key=lambda item: item[0])
        best = _core(best, [candidate for _, candidate in now], worse, scores, aside, alpha)
        taken.append(best)
        aside[best.members] = True
        left = [candidate for _, candidate in now if candidate is not best]
    return taken


def _core(
    whole: Candidate,
    others: Sequence[Candidate],
    worse: Callable[[Candidate, NDArray[np.bool_]], float],
    scores: Scores,
    aside: NDArray[np.bool_],
    alpha: float,
) -> Candidate:
    """Return the most significant candidate of those that explain why `whole` is worse.

    At most `N_PARTS` smaller candidates that err more, lie in `whole` by half, and but for which
    it is as good as the rest: rain fails because rain at night does. `whole` itself if there are
    none. Only slices of attributes explain others of their kind.
    """
    inside = np.zeros(len(scores), bool)
    inside[whole.members] = True
    mean = scores[whole.members[~aside[whole.members]]].mean()
    left = [
        other
        for other in others
        if (other.kind == "slice" or whole.kind != "slice")
        and len(other.members) < len(whole.members)
        and inside[other.members].mean() >= 0.5
        and scores[other.members[~aside[other.members]]].mean() < mean
    ]
    without = aside.copy()
    first = None
    for _ in range(min(N_PARTS, len(left))):
        p_values = [worse(other, without) for other in left]
        if min(p_values) > alpha:
            break
        part = left.pop(int(np.argmin(p_values)))
        first = first or part
        without[part.members] = True
        if worse(whole, without) > alpha:
            return _core(first, others, worse, scores, aside, alpha)
    return whole


def _worse(
    candidate: Candidate,
    aside: NDArray[np.bool_],
    scores: Scores,
    groups: Indices | None,
    n_min: int,
) -> float:
    """Return the p-value of "as good as the rest" on the images that are not set aside.

    1 for fewer images than half of `n_min`.
    """
    inside = np.zeros(len(scores), bool)
    inside[candidate.members] = True
    judged = candidate.tested[~aside[candidate.tested]]
    members, rest = judged[inside[judged]], judged[~inside[judged]]
    # Half of a mixture's images have helped to find it, and others may be explained.
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
    """Return failures that the significant ones of `reported` do not explain.

    Error rates are those of all members, and of the rest that they are tested against; p and q of
    a cluster come from the half that it was not fitted to. The same arguments give the same
    failures.

    Args:
        images: what the model was evaluated on. Clusters and directions are looked for where there
            are embeddings.
        n_min: photographs that a finding needs.
        alpha: false discovery rate, 0..1.
        reported: failures of the slices that a report measures.
        previous: failures of the round before; findings that overlap them (see `follow`) keep
            their ids and names.

    Returns:
        Findings in the order in which they were selected; none without images or errors.
    """
    n, scores = len(images.errors), as_scores(images.errors)
    if n < 2 * n_min or np.ptp(images.errors) == 0:
        return ()
    explained = _explained(images, reported)
    chosen = partial(select, scores=scores, n_min=n_min, alpha=alpha, groups=images.groups)
    findings = chosen(attribute_candidates(images, n_min), explained=explained)
    explained = np.unique(np.concatenate([explained, *(c.members for c in findings)]))
    if images.embeddings is not None:
        # The end of a direction may hold several clusters, so those go first.
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
    """Return the values that most members have, and clearly more of them than of all images.

    At least half of the members, and 1.5 times as frequent as among all; largest lift first.
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
    """Return the indices of the prompts that describe best what distinguishes the members.

    They are ranked by the cosine between prompt and mean caption of the members, both relative to
    the mean caption of all images.

    Args:
        members: indices of images.
        captions: vectors of the images' captions, (n_images, d).
        prompts: vectors of the prompts' texts, (n_prompts, d).
        n: most prompts that are returned.
    """
    if len(prompts) == 0:
        return []
    middle = captions.mean(0)
    wanted, offsets = captions[members].mean(0) - middle, prompts - middle
    lengths = np.linalg.norm(offsets, axis=1) * np.linalg.norm(wanted) + 1e-12
    order = np.argsort(-(offsets @ wanted) / lengths, kind="stable")
    return [int(i) for i in order[:n]]


def follow(findings: Sequence[Failure], previous: Sequence[Failure]) -> tuple[Failure, ...]:
    """Give findings the ids and names of those of the round before that they overlap most.

    One to one, largest overlap of members (Jaccard) first, from `SAME` on. Slices of attributes
    have their own.
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
    """Return the images of failures that are significant already."""
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
