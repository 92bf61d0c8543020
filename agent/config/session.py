"""Settings of a session itself: its budget, what it begins with, and what it delivers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agent.config.urls import PlainUrl
from memory.records import Record


class SessionSettings(Record):
    """Name, budget and seed of a session."""

    name: str | None = None
    rounds: int = Field(4, ge=1, le=100_000)
    images_per_round: int = Field(200, ge=1, le=100_000)
    images_per_prompt: int = Field(8, ge=1)
    shard_size: int = Field(32, ge=1)
    seed: int = Field(0, ge=0)
    baseline: str | None = Field(
        None,
        description="folder of the model to begin with and to beat: best/ of a session, or a "
        "trained model of transformers; None: it is trained on the photographs",
    )
    deliver: Literal["main", "worst5", "balanced"] = Field(
        "main",
        description="which round is the best: by the main figure on feedback, by the mean of the "
        "five worst slices there, or by the mean of both; of rounds within one standard error of "
        "the best that of the fewest images",
    )
    on_finish: str | None = Field(None, description="shell command that is run at the end")
    checkpoints: PlainUrl = Field(
        "sqlite",
        pattern="^(sqlite|postgres(ql)?://.*)$",
        description="sqlite, a file of the session, or postgresql://USER@HOST/DATABASE; "
        "its password is that of PGPASSWORD or ~/.pgpass",
    )
