"""What a session is, and how it begins, goes on, stops, forks, and is taken back."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from memory.events.base import FAILURE, FailureText, Occasional, OutsideEvent


class HeadEvent(OutsideEvent):
    """The first event: what the session is, and what a replay needs beside that.

    Attributes:
        session: Name of the session.
        target: Name of the target.
        settings: All settings but `home`; the seeds are `settings.session.seed` and
            `settings.dstm.seed`.
        palette: Combinations of attributes that the generator split has, as
            `agent.planners.AttributeDistribution`.
        record: What is recorded, 2 at present; of 1, credits and verdicts are settled by
            the rules of that version. Journals without it can be walked through, but not
            verified, forked or asked anew; a higher number is refused.
        interactive: Whether a person can be asked.
        class_names: Classes of the target.
        vocabulary: Words of the target, as `prompts.vocabulary.Vocabulary`.
        templates: The prompt files that the brain is shown, by name.
    """

    kind: Literal["session"] = "session"
    session: str
    target: str
    settings: dict[str, Any] = Field({})
    palette: dict[str, Any] = Field({})
    record: int = 0
    interactive: bool = False
    class_names: tuple[str, ...] = ()
    vocabulary: dict[str, Any] = Field({})
    templates: dict[str, str] = Field({})


class ResumedEvent(OutsideEvent):
    """The session goes on in another process.

    Attributes:
        settings: As in `session`; some may have changed on the way.
        interactive: Whether a person can be asked from now on.
    """

    kind: Literal["resumed"] = "resumed"
    settings: dict[str, Any] = Field({})
    interactive: bool = False


class ForkedEvent(OutsideEvent):
    """Stands in a fork between the lines that it shares with its source and its own.

    Attributes:
        session: Name of the fork.
        source: Name of the session that it comes from.
        at: Its first round of its own.
    """

    kind: Literal["forked"] = "forked"
    session: str
    source: str = ""
    at: int


class ProbeEvent(OutsideEvent):
    """How the language model calls tools and, with the key `probe/sight`, whether it sees.

    Attributes:
        probe: As `agent.brains.probe.Probe` or `agent.brains.sight.Sight`.
    """

    kind: Literal["probe"] = "probe"
    probe: Annotated[dict[str, Any], FAILURE]


class FaultEvent(OutsideEvent):
    """Something went wrong and was dealt with.

    Attributes:
        what: Short name, e.g. `out of memory`, `killed`.
        message: What happened, for people.
        round: Number of the round, 0 outside of one.
        n_at_once: Of `out of memory`: images that are drawn at once from now on.
    """

    kind: Literal["fault"] = "fault"
    what: str
    message: FailureText = Field("", alias="told")
    round: int = 0
    n_at_once: Occasional[int | None] = None


class PausedEvent(OutsideEvent):
    """The session waited, on request or for disk space, and goes on.

    Attributes:
        message: For how many seconds, and why.
        round: Number of the round, 0 outside of one.
    """

    kind: Literal["paused"] = "paused"
    message: FailureText = Field("", alias="told")
    round: int = 0


class EndedEvent(OutsideEvent):
    """The session stops; it may be resumed later.

    Attributes:
        rule: What ended it: `asked`, `signal`, or the limit that was reached, e.g. `max_hours`.
        message: The rule in words, with its figures.
        round: How many rounds have ended.
    """

    kind: Literal["ended"] = "ended"
    rule: str
    message: FailureText = Field("", alias="told")
    round: int = 0


class UndoneEvent(OutsideEvent):
    """Rounds were taken back; their events before this line do not count any more.

    Attributes:
        from_round: The first of these rounds.
    """

    kind: Literal["undone"] = "undone"
    from_round: int


class ClearedEvent(OutsideEvent):
    """The files of rounds that were taken back are put aside."""

    kind: Literal["cleared"] = "cleared"
