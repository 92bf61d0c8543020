from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from memory.records import (
    Batch,
    Estimate,
    Plan,
    PromptQuality,
    PromptSpec,
    Round,
    digest,
    slice_key,
)


def prompt(number: int, count: int) -> PromptSpec:
    return PromptSpec(
        id=f"r001p{number:02d}",
        text="a dark solar cell",
        class_name="functional",
        attributes={"brightness": "dark"},
        count=count,
    )


def test_records_survive_json() -> None:
    plan = Plan(round=1, author="uniform", prompts=(prompt(1, 3), prompt(2, 4)))
    original = Round(number=1, plan=plan, seconds={"train": 1.5})
    assert Round.model_validate(json.loads(json.dumps(original.to_json()))) == original
    assert plan.n_images == 7


def test_a_batch_counts_its_images() -> None:
    quality = tuple(
        PromptQuality(prompt_id=p, n_made=10, n_kept=kept, mean_weight=0.5)
        for p, kept in (("a", 9), ("b", 4))
    )
    batch = Batch(round=1, job_id="j", shards=(), quality=quality)
    assert (batch.n_made, batch.n_kept) == (20, 13)


def test_records_are_frozen_and_strict() -> None:
    spec = prompt(1, 1)
    with pytest.raises(ValidationError, match="frozen"):
        spec.count = 2  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        PromptSpec.model_validate(spec.to_json() | {"colour": "red"})
    with pytest.raises(ValidationError):
        PromptSpec.model_validate(spec.to_json() | {"count": 0})
    with pytest.raises(ValidationError, match="finite"):
        Estimate(value=float("nan"), low=0, high=1, n=1)
    with pytest.raises(ValidationError):
        Plan(round=1, author="uniform", prompts=())


def test_a_digest_is_stable_and_ignores_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2, "ü"]}) == digest({"b": [2, "ü"], "a": 1})
    assert digest("wafer=poly") == "293dee9fee199e33"
    assert digest([1, 2]) != digest([2, 1])


def test_a_slice_key_is_sorted() -> None:
    assert slice_key({"wafer": "poly", "brightness": "dark"}) == "brightness=dark wafer=poly"
