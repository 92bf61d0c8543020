"""The description of a session, and its start, resumption, stop, forks and undone rounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from memory.events.base import FAILURE, FailureText, Occasional, OutsideEvent


class HeadEvent(OutsideEvent):
    """The first event: the description of the session, with the data that a replay needs.

    Attributes:
        session: Name of the session.
        target: Name of the target.
        settings: All settings but `home`; the seeds are `settings.session.seed` and
            `settings.dstm.seed`.
        palette: Combinations of attributes in the generator split, as
            `agent.planners.AttributeDistribution`.
        record: Version of the recorded content, `RECORD_VERSION` of `memory/journal.py`. A session
            keeps the rules of the version that it began with. Journals without it can be stepped
            through, but not verified, forked or run with another brain; newer ones are refused.
        interactive: Whether a person can be asked.
        class_names: Classes of the target.
        vocabulary: Vocabulary of the target, as `prompts.vocabulary.Vocabulary`.
        templates: Texts of the prompt files by name.
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
    """The session was resumed in another process.

    Attributes:
        settings: As in `session`; some may have changed.
        interactive: Whether a person can be asked from now on.
    """

    kind: Literal["resumed"] = "resumed"
    settings: dict[str, Any] = Field({})
    interactive: bool = False


class ForkedEvent(OutsideEvent):
    """The end of the lines that a fork shares with its source.

    Attributes:
        session: Name of the fork.
        source: Name of the session that was forked.
        at: First round of the fork that it does not share.
    """

    kind: Literal["forked"] = "forked"
    session: str
    source: str = ""
    at: int


class ProbeEvent(OutsideEvent):
    """How the language model calls tools or, with the key `probe/sight`, whether it sees pictures.

    Attributes:
        probe: As `agent.brains.probe.Probe` or `agent.brains.sight.Sight`.
    """

    kind: Literal["probe"] = "probe"
    probe: Annotated[dict[str, Any], FAILURE]


class FaultEvent(OutsideEvent):
    """A fault that the session recovered from.

    Attributes:
        what: Short name, e.g. `out of memory`, `killed`.
        message: Description for people.
        round: Number of the round, 0 outside of one.
        n_at_once: For `out of memory`: number of images per batch from now on.
    """

    kind: Literal["fault"] = "fault"
    what: str
    message: FailureText = Field("", alias="told")
    round: int = 0
    n_at_once: Occasional[int | None] = None


class PausedEvent(OutsideEvent):
    """The session was paused, on request or for disk space, and continues.

    Attributes:
        message: Duration in seconds, and the reason.
        round: Number of the round, 0 outside of one.
    """

    kind: Literal["paused"] = "paused"
    message: FailureText = Field("", alias="told")
    round: int = 0


class EndedEvent(OutsideEvent):
    """The session stopped; it may be resumed later.

    Attributes:
        rule: Why it stopped: `asked`, `signal`, or the reached limit, e.g. `max_hours`.
        message: The rule in words, with its figures.
        round: Number of finished rounds.
    """

    kind: Literal["ended"] = "ended"
    rule: str
    message: FailureText = Field("", alias="told")
    round: int = 0


class UndoneEvent(OutsideEvent):
    """Rounds were undone; their events before this line are ignored.

    Attributes:
        from_round: First undone round.
    """

    kind: Literal["undone"] = "undone"
    from_round: int


class ClearedEvent(OutsideEvent):
    """The files of undone rounds were moved aside."""

    kind: Literal["cleared"] = "cleared"
