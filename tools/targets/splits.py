"""Assignment of photographs to the four splits: stratified by class, near-copies together."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from tools.targets import SPLITS
from tools.targets.validation import ValidationReport, refusal

SHARES = {"generator": 0.4, "audit": 0.2, "feedback": 0.2, "test": 0.2}
# Split names used elsewhere; "train" is divided among the splits that no name claims.
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "feedback", "valid": "feedback", "validation": "feedback", "dev": "feedback",
    "test": "test", "testing": "test",
} | {name: name for name in SPLITS}  # fmt: skip
_NUMBERED = re.compile(r"([a-z]+)[ _.-]*\d*")


def split_from_name(name: str) -> str | None:
    """Return the split named by a folder or file, such as train, Validation or val2017."""
    match = _NUMBERED.fullmatch(name.lower())
    return SPLIT_NAMES.get(match[1]) if match else None


def assign_splits(
    strata: Sequence[str],
    given: Sequence[str | None],
    marks: Sequence[Sequence[str]],
    names: Sequence[str],
    seed: int,
    report: ValidationReport,
    spare: str | None = None,
) -> list[str]:
    """Assign photographs to splits.

    If the given splits separate exact copies, the copy in the most sealed split is kept and the
    others are left out, with a warning.

    Args:
        strata: Class, or another property to stratify by, of each photograph.
        given: Split of each photograph, a value of `SPLIT_NAMES`, or None.
        marks: Marks of each photograph; photographs that share a mark stay in one split.
        names: Names of the photographs, for messages.
        seed: Seed of the random order.
        report: Collects the warnings.
        spare: Split that gets no photographs of strata with fewer photographs than splits.

    Returns:
        The split of each photograph, "" for those left out.

    Raises:
        DataError: Every split is given for some photograph, but not all photographs have one.
    """
    fixed = [None if split in (None, "train") else split for split in given]
    first: dict[str, int] = {}
    edges = [(i, first.setdefault(mark, i)) for i, of_one in enumerate(marks) for mark in of_one]
    groups = connected_groups(len(marks), *(zip(*edges, strict=True) if edges else ((), ())))
    members: dict[int, list[int]] = defaultdict(list)
    for i, group in enumerate(groups):
        members[int(group)].append(i)
    assigned = [""] * len(strata)
    pool: list[int] = []
    for group_members in members.values():
        wanted = {split for i in group_members if (split := fixed[i])}
        if not wanted:
            pool += group_members
            continue
        stays = max(wanted, key=SPLITS.index)
        for i in group_members:
            if given[i] in (None, stays):
                assigned[i] = stays
            else:
                report.warn("copies-in-two-splits", names[i], split=stays)
    if not pool:
        return assigned
    shares = {name: share for name, share in SHARES.items() if name not in fixed}
    if not shares:
        raise refusal("all-splits-given", n=len(pool), name=names[pool[0]])
    total = sum(shares.values())
    shares = {name: share / total for name, share in shares.items()}
    of_pool = [strata[i] for i in pool]
    for name, rows in split_groups(groups[pool], of_pool, shares, seed, spare).items():
        for row in rows:
            assigned[pool[row]] = name
    return assigned


def check_splits(
    assigned: Sequence[str],
    strata: Sequence[str],
    report: ValidationReport,
    spare: str | None = None,
) -> None:
    """Add an error for every class that is missing in a split; `spare` as in `assign_splits`."""
    counts, total = Counter(zip(assigned, strata, strict=True)), Counter(strata)
    for name in SPLITS:
        least = len(SPLITS) if name == spare else 0
        missing = [s for s in sorted(total) if not counts[name, s] and total[s] >= least]
        if missing:
            report.error("class-not-in-split", *missing, split=name)


def split_groups(
    groups: NDArray[np.int64],
    strata: Sequence[str],
    shares: Mapping[str, float],
    seed: int,
    spare: str | None = None,
) -> dict[str, list[int]]:
    """Assign whole groups to splits such that every stratum is divided in the given shares.

    Groups are assigned in order of decreasing size, each to the split that lacks most of its
    strata; the order within a size and ties are seeded.

    Args:
        groups: Number of the group of each photograph, (n,).
        strata: Stratum of each photograph, (n,).
        shares: Fraction by split, summing to 1.
        seed: Seed of the random order.
        spare: Split that gets no photographs of strata with fewer photographs than splits.

    Returns:
        Sorted indices by split, disjoint and complete.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[int(group)].append(index)
    order = list(members.values())
    random.Random(seed).shuffle(order)
    order.sort(key=len, reverse=True)

    total = Counter(strata)
    missing = {s: {k: share * n for k, n in total.items()} for s, share in shares.items()}
    splits: dict[str, list[int]] = {name: [] for name in shares}
    for group_members in order:

        def lack(name: str, members: list[int] = group_members) -> float:
            return sum(missing[name][strata[i]] / total[strata[i]] / shares[name] for i in members)

        is_small = min(total[strata[i]] for i in group_members) < len(shares)
        best = max((s for s in shares if s != spare or not is_small), key=lack)
        splits[best].extend(group_members)
        for i in group_members:
            missing[best][strata[i]] -= 1
    return {name: sorted(indices) for name, indices in splits.items()}


def connected_groups(
    n: int, rows: Sequence[int] | NDArray[Any], columns: Sequence[int] | NDArray[Any]
) -> NDArray[np.int64]:
    """Label the connected components of a graph of n nodes with edges (rows, columns)."""
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(n, n))
    groups: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return groups
