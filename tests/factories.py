"""Makes the records of measurements that tests hold programs against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.metrics import wilson
from memory.records import (
    Estimate,
    Failure,
    Plan,
    PromptSpec,
    Report,
    SliceScore,
    Training,
    digest,
    slice_key,
)


def estimate(value: float, n: int = 100, half: float | None = None) -> Estimate:
    """A figure with an interval of `half` to both sides; None: Wilson's of a share."""
    if half is None:
        return wilson(round(value * n), n).model_copy(update={"value": value})
    return Estimate(value=value, low=value - half, high=value + half, n=n)


def slice_score(
    attributes: Mapping[str, str], value: float, n: int = 100, half: float | None = None
) -> SliceScore:
    """The accuracy of a slice."""
    return SliceScore(
        key=slice_key(attributes),
        attributes=dict(attributes),
        accuracy=estimate(value, n, half),
        n_correct=round(value * n),
    )


def report(*slices: SliceScore, number: int = 1, split: str = "feedback", **others: Any) -> Report:
    """A report of a round; others: metrics and worst_slice."""
    values: dict[str, Any] = {"metrics": {}, **others}
    return Report(round=number, split=split, slices=slices, **values)


def failure(attributes: Mapping[str, str], error: float = 0.6, **changes: Any) -> Failure:
    """A significant failure of 100 photographs; changes: fields that differ."""
    key = slice_key(attributes)
    values: dict[str, Any] = {
        "id": digest(key),
        "slice": key,
        "attributes": dict(attributes),
        "n": 100,
        "n_wrong": round(100 * error),
        "error_rate": estimate(error),
        "rest_error_rate": 0.1,
        "p_value": 0.0,
        "q_value": 0.0,
        "significant": True,
    }
    return Failure(**{**values, **changes})


def training(number: int = 1, **changes: Any) -> Training:
    """A training on one image; changes: fields that differ."""
    values: dict[str, Any] = {
        "round": number,
        "job_id": "j",
        "model": "m",
        "n_images": 1,
        "n_steps": 1,
        "final_loss": 0.1,
        "sha256": "0",
    }
    return Training(**{**values, **changes})


def plan_by_slices(counts: Sequence[int], number: int = 2) -> Plan:
    """A plan with so many images for the slice "a=v0", "a=v1" and so on."""
    prompts = [
        PromptSpec(
            id=f"p{i}", text="a cell", class_name="c", attributes={"a": f"v{i}"}, count=count
        )
        for i, count in enumerate(counts)
    ]
    return Plan(round=number, author="failure", prompts=tuple(prompts))
