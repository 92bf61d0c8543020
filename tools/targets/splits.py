"""Deals photographs to the four splits: near-copies together, classes in equal shares."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from memory.errors import DataError
from tools.targets import SPLITS
from tools.targets.elpv import SHARES, split_groups
from tools.targets.user.problems import Problems

# Names of splits that are in use elsewhere; "train" is dealt to the splits that nobody names.
WORDS = {
    "train": "train", "training": "train",
    "val": "feedback", "valid": "feedback", "validation": "feedback", "dev": "feedback",
    "test": "test", "testing": "test",
} | {name: name for name in SPLITS}  # fmt: skip
_NUMBERED = re.compile(r"([a-z]+)[ _.-]*\d*")


def split_word(name: str) -> str | None:
    """Return the split that a name says, as of a folder train, Validation or val2017; or None."""
    match = _NUMBERED.fullmatch(name.lower())
    return WORDS.get(match[1]) if match else None


def deal(
    strata: Sequence[str],
    given: Sequence[str | None],
    alike: Sequence[Sequence[str]],
    names: Sequence[str],
    seed: int,
    problems: Problems,
) -> list[str]:
    """Return the split of every photograph, "" for one that is left out.

    strata: of equal ones every split gets its share; given: a word of `WORDS`, or None; alike:
    marks of each photograph; those that share a mark stay in one split. Where the given splits
    part exact copies, the copy in the most sealed split stays; it is noted.
    """
    fixed = [None if word in (None, "train") else word for word in given]
    groups = _components(alike)
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    split = [""] * len(strata)
    pool: list[int] = []
    for own in members.values():
        wanted = {fixed[i] for i in own if fixed[i]}
        if not wanted:
            pool += own
            continue
        stays = max((word for word in wanted if word), key=SPLITS.index)
        for i in own:
            if given[i] in (None, stays):
                split[i] = stays
            else:
                problems.note(
                    f"photographs left out, since a copy is in the split {stays}", names[i]
                )
    open_splits = [name for name in SPLITS if name not in fixed]
    if not pool:
        return split
    if not open_splits:
        raise DataError(
            "All four splits are given, and some photographs are marked 'train' or not at all: "
            f"{len(pool)}, e.g. {names[pool[0]]}. Mark them generator, audit, feedback or test."
        )
    total = sum(SHARES[name] for name in open_splits)
    shares = {name: SHARES[name] / total for name in open_splits}
    dealt = split_groups(
        np.array([groups[i] for i in pool]), [strata[i] for i in pool], shares, seed
    )
    for name, rows in dealt.items():
        for row in rows:
            split[pool[row]] = name
    return split


def check_splits(split: Sequence[str], strata: Sequence[str], problems: Problems) -> None:
    """Add a fault for every class that is missing in a split."""
    found = Counter(zip(split, strata, strict=True))
    for name in SPLITS:
        for stratum in sorted(set(strata)):
            if not found[name, stratum]:
                problems.fault(
                    f"classes without a photograph in the split {name}: add photographs, let fewer "
                    "be near-copies (groups) of each other or, where splits are your own, put some "
                    "of every class into each (generator and audit get theirs from train)",
                    stratum,
                )


def _components(alike: Sequence[Sequence[str]]) -> list[int]:
    """Number the groups of photographs that are linked by shared marks."""
    first: dict[str, int] = {}
    edges = [
        (index, first.setdefault(mark, index)) for index, own in enumerate(alike) for mark in own
    ]
    rows, columns = zip(*edges, strict=True) if edges else ((), ())
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(alike),) * 2)
    return [int(label) for label in connected_components(graph, directed=False)[1]]
