"""Planners, which choose the data of the next round without a language model; one file each.

A planner file defines a function `build(**options) -> Planner`. Planners are deterministic: the
same observation and distribution give the same draft.
"""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

import yaml
from pydantic import BeforeValidator, Field, JsonValue

from memory.errors import SettingsError, ShapingError, unknown
from memory.records import (
    AdapterWeights,
    Failure,
    Hypothesis,
    Levers,
    PullText,
    Record,
    Round,
    Sparse,
)
from prompts.vocabulary import Vocabulary
from tools.plugins import load

if TYPE_CHECKING:
    from tools.data.samples import Samples
    from tools.targets import Target


class AttributeCombination(Record):
    """A combination of attribute values, and the number of photographs `n` that have it."""

    attributes: dict[str, str]
    class_name: str
    n: int = Field(ge=0)


class AttributeDistribution(Record):
    """Attribute combinations that can be requested from the generator.

    Attributes:
        rows: Combinations of the generator split and, if `min_support` is 0, of the feedback split;
            n is 0 for those that only the latter has.
        min_support: Minimum number of photographs of a slice in the generator split. Low by
            default, as the rarest slices need images most, and the audit checks what is drawn.
    """

    rows: tuple[AttributeCombination, ...] = Field(min_length=1)
    min_support: Sparse[int] = 3

    def n_of(self, attributes: Mapping[str, str]) -> int:
        """Return the number of photographs that have all the given values."""
        return sum(row.n for row in self.rows if attributes.items() <= row.attributes.items())

    def supports(self, attributes: Mapping[str, str]) -> bool:
        """Return whether images of a slice can be requested."""
        is_known = any(attributes.items() <= row.attributes.items() for row in self.rows)
        return is_known and self.n_of(attributes) >= self.min_support

    def matching(
        self, attributes: Mapping[str, str], class_name: str
    ) -> list[AttributeCombination]:
        """Return the rows of a class that have all the given values."""
        return [
            row
            for row in self.rows
            if row.class_name == class_name
            and all(row.attributes.get(k) == v for k, v in attributes.items())
        ]


class Observation(Record):
    """The input of a planner: the budget of this round and the earlier rounds."""

    round: int = Field(ge=1)
    n_images: int = Field(ge=1)
    images_per_prompt: int = Field(ge=1)
    seed: int
    rounds: tuple[Round, ...] = ()

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The failures of the last report, with estimates of whether images can fix them."""
        last = next((r for r in reversed(self.rounds) if r.report), None)
        return last.failures if last else ()


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"a count is a whole number, not {str(value).lower()}")
    return value


class PromptDraft(Record):
    """A prompt as proposed, before validation."""

    text: str = ""
    class_name: str | None = None
    attributes: dict[str, str] = Field(default_factory=dict)
    count: Annotated[int, BeforeValidator(_not_bool)]
    why: str = ""
    pull: Sparse[PullText | None] = None
    adapters: Sparse[AdapterWeights | None] = None


def _read_slice(value: object) -> object:
    """Return the values of a slice given by its name, e.g. "brightness=dark wafer=poly"."""
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in re.split(r"\s+(?=[^\s=]+=)", value.strip())]
    return {name: named for name, _, named in pairs if name}


class SliceShare(Record):
    """A share of a plan's images, 0..1, and the attribute values that they have."""

    where: Annotated[dict[str, str], BeforeValidator(_read_slice)] = Field(default_factory=dict)
    share: float = Field(gt=0, le=1)


class PlanDraft(Record):
    """A plan as proposed, before validation."""

    prompts: tuple[PromptDraft, ...]
    hypothesis: Hypothesis | None = None
    why: str = ""
    trials: Sparse[tuple[JsonValue, ...]] = Field((), description="of earlier versions")
    levers: Sparse[Levers | None] = None


@runtime_checkable
class Planner(Protocol):
    """Chooses the prompts of the next round and their numbers of images."""

    name: str

    def plan(
        self, observation: Observation, distribution: AttributeDistribution, vocabulary: Vocabulary
    ) -> PlanDraft:
        """Return a draft whose counts add up to `observation.n_images`."""


class _ExternalPlanner:
    """Wraps a planner from outside this package; its failures are raised as SettingsError."""

    def __init__(self, spec: str, planner: Planner) -> None:
        if not isinstance(planner, Planner):
            kind = type(planner).__name__
            raise SettingsError(f"The planner {spec!r} has no name or no method plan: {kind}.")
        self.name, self._spec, self._planner = planner.name, spec, planner

    def plan(
        self, observation: Observation, distribution: AttributeDistribution, vocabulary: Vocabulary
    ) -> PlanDraft:
        """Return the planner's draft; raises SettingsError if it fails or returns no PlanDraft."""
        try:
            draft = self._planner.plan(observation, distribution, vocabulary)
        except ShapingError:
            raise
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            file = sys.modules[self._spec.partition(":")[0]].__file__
            frame = next((f for f in reversed(frames) if f.filename == file), frames[-1])
            raise SettingsError(
                f"The planner {self._spec!r} failed in {frame.filename}, line {frame.lineno}: "
                f"{type(error).__name__}: {error}. Fix it and run the same command again; "
                "finished work is kept."
            ) from error
        if not isinstance(draft, PlanDraft):
            raise SettingsError(
                f"The planner {self._spec!r} returned {type(draft).__name__}; expected a "
                "PlanDraft of agent.planners."
            )
        return draft


def build(spec: str) -> Planner:
    """Build the planner NAME, or the one at the dotted path `package.module:build`.

    Options are appended as in `audited_failure:floor=0.5:sharpness=1`. Raises SettingsError for
    unknown names and options.
    """
    parts = spec.split(":")
    name = ":".join(part for part in parts if "=" not in part)
    given = dict(part.split("=", 1) for part in parts if "=" in part)
    options = {key: yaml.safe_load(value) for key, value in given.items()}
    builder = load("agent.planners", name)
    parameters = inspect.signature(builder).parameters
    for key in options:
        if key not in parameters:
            raise SettingsError(unknown(f"option of the planner {name}", key, parameters))
    planner: Planner = builder(**options)
    return _ExternalPlanner(name, planner) if ":" in name else planner


def distribution_of(target: Target, min_support: int) -> AttributeDistribution:
    """Count the attribute combinations of the target's generator split.

    If min_support is 0, combinations that occur only in the feedback split are added with n=0.
    """
    rows = count_attributes(target.split("generator"), target.class_names).rows
    if not min_support:
        counted = [(row.class_name, row.attributes) for row in rows]
        rows += tuple(
            row.model_copy(update={"n": 0})
            for row in count_attributes(target.split("feedback"), target.class_names).rows
            if (row.class_name, row.attributes) not in counted
        )
    return AttributeDistribution(rows=rows, min_support=min_support)


def count_attributes(samples: Samples, class_names: Sequence[str]) -> AttributeDistribution:
    """Count the attribute combinations of labelled samples, most frequent first."""
    counts: dict[tuple[int, tuple[tuple[str, str], ...]], int] = {}
    for attributes, label in zip(samples.attributes, samples.classes, strict=True):
        key = (int(label), tuple(sorted(attributes.items())))
        counts[key] = counts.get(key, 0) + 1
    rows = [
        AttributeCombination(attributes=dict(items), class_name=class_names[label], n=n)
        for (label, items), n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    return AttributeDistribution(rows=tuple(rows))
