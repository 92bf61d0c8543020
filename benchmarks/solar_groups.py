"""Solar cells with two groups that are rare in training: a target for design G of the protocol.

The target consists of the photographs of `elpv` with a certain label. Training photographs are of
its split generator, which the bundled MTDM has seen: 48 of each group (severity, wafer and
brightness), and all of three groups with fewer than 20. In two conditions (wafer and brightness),
however, one severity has only 4, so that a model learns to expect the other severity there; the
seed chooses condition and severity. The photographs of the other splits, which the MTDM has not
seen, are divided by the seed: a third is feedback, two thirds are test.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np

from eval.slices import slice_table
from memory.records import slice_key
from tools.data.samples import Samples, concatenate
from tools.targets import SPLITS, check_split
from tools.targets.elpv import Elpv
from tools.targets.splits import split_groups

N_RARE_GROUPS, N_COMMON, N_RARE = 2, 48, 4
SEVERITIES = ("functional", "defective")
WAFERS, LIGHT = ("mono", "poly"), ("dark", "medium", "bright")
_ATTRIBUTES = ("severity", "wafer", "brightness")
# Conditions with enough photographs of both severities.
_CONDITIONS = (("mono", "medium"), ("poly", "dark"), ("poly", "medium"))
# Groups with too few certain photographs to be common or to be measured.
_SPARSE = (
    ("defective", "mono", "bright"),
    ("defective", "poly", "bright"),
    ("functional", "mono", "dark"),
)
_AUDIT_SHARE = 0.25
_SHARES = {"feedback": 1 / 3, "test": 2 / 3}

Group = tuple[str, ...]


def group_counts(seed: int) -> dict[str, int]:
    """Return the number of training photographs of each group, by slice key.

    Rare groups come last.
    """
    rng = np.random.default_rng([seed, 4])
    chosen = sorted(rng.choice(len(_CONDITIONS), N_RARE_GROUPS, replace=False).tolist())
    rare = [(SEVERITIES[rng.integers(2)], *_CONDITIONS[number]) for number in chosen]
    groups = [group for group in product(SEVERITIES, WAFERS, LIGHT) if group not in _SPARSE]
    counts = {group: N_COMMON for group in groups if group not in rare}
    counts |= dict.fromkeys(rare, N_RARE)
    return {slice_key(dict(zip(_ATTRIBUTES, g, strict=True))): n for g, n in counts.items()}


class SolarGroups(Elpv):
    """The target `solar-groups`; see the module docstring."""

    name = "solar-groups"

    def __init__(self, cache_dir: Path, seed: int) -> None:
        super().__init__(cache_dir)
        learnt, *rest = (_certain(Elpv.split(self, name)) for name in SPLITS)
        others = concatenate(rest)
        rng = np.random.default_rng([seed, 5])
        generator: list[int] = []
        audit: list[int] = []
        counts = group_counts(seed)
        for key, rows in slice_table(learnt.attributes, [_ATTRIBUTES], 1).items():
            chosen = rng.permutation(rows)[: counts.get(key, N_COMMON)].tolist()
            n_audit = round(_AUDIT_SHARE * len(chosen))
            audit += chosen[:n_audit]
            generator += chosen[n_audit:]
        numbers = np.unique(others.groups, return_inverse=True)[1]
        keys = [slice_key({name: a[name] for name in _ATTRIBUTES}) for a in others.attributes]
        parts = split_groups(numbers, keys, _SHARES, seed)
        self._samples = {
            "generator": learnt.take(sorted(generator)),
            "audit": learnt.take(sorted(audit)),
            **{name: others.take(rows) for name, rows in parts.items()},
        }

    def split(self, name: str) -> Samples:
        """Return one of the four splits."""
        check_split(name)
        return self._samples[name]


def _certain(samples: Samples) -> Samples:
    rows = [n for n, a in enumerate(samples.attributes) if a["severity"] in SEVERITIES]
    return samples.take(rows)


def build(cache_dir: Path, seed: int = 0) -> SolarGroups:
    """Build the target; seed: selects the rare groups and the splits feedback and test."""
    return SolarGroups(cache_dir, seed)
