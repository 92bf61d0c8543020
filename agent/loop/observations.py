"""The data known at the start of a round, and the opening messages rendered from them.

They are gathered from the journal and the memory into `Facts`, journaled as `opening` and rendered
from there, so that the messages of a round can be recreated without the memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage
from pydantic import ValidationError

from agent.brains import planner_of
from agent.brains.actions import storable
from agent.loop import eyes
from agent.loop.context import SMALL_CHARS, Facts, opening_texts, prompt_files
from agent.loop.effects import Effects
from agent.loop.schedule import budget, images_left, left_over, own_schedule
from agent.loop.state import (
    GRAPH_WORKS,
    SMALL_CONTEXT,
    EventLog,
    SessionView,
    TargetView,
    record_version,
)
from agent.planners import Observation
from agent.planners.slices import last_report
from agent.steering.preferences import (
    Preference,
    active_preferences,
    say_effects,
    say_preferences,
)
from agent.steering.preferences import (
    effects as effects_of,
)
from memory.errors import SessionError
from memory.events import AnswerEvent, ForgetEvent, OpeningEvent, SteeredEvent, WishEvent
from memory.journal import RECORD_VERSION
from memory.records import Round, first_problem

# Number of earlier rounds in an observation; bounds the messages and the time per round.
LOOK_BACK = 20
# Characters of the opening per token of context: half of the context at three characters per token.
OPENING_SHARE = 1.5

Json = dict[str, Any]


def session_head(target: TargetView, interactive: bool) -> Json:
    """Return the fields of the event `session` besides settings and attributes.

    With these and the events `opening` and `tools`, a session can be replayed without its tools.
    """
    return {
        "record": RECORD_VERSION,
        "interactive": interactive,
        "class_names": list(target.class_names),
        "vocabulary": target.vocabulary.model_dump(mode="json"),
        "templates": prompt_files(),
    }


def facts_of(journal: EventLog, round_number: int) -> Json:
    """Return the `Facts` that a round began with, as journaled; {} before it has begun."""
    opening = journal.get(f"opening/{round_number}", OpeningEvent)
    return opening.facts if opening else {}


def rounds_before(journal: EventLog, number: int) -> list[Round]:
    """Return the rounds before round `number`, at most the last `LOOK_BACK`."""
    rounds = journal.rounds(LOOK_BACK + 1)
    return [r for r in rounds if r.number < number][-LOOK_BACK:]


def seconds_per_image(past: Sequence[Round]) -> float | None:
    """Return the time per image in the last round that drew any, or None."""
    for done in reversed(past):
        if done.batch and done.batch.n_made and "generate" in done.seconds:
            return done.seconds["generate"] / done.batch.n_made
    return None


def observe(session: SessionView, round_number: int) -> Observation:
    """Return the observation of a planner at the start of a round."""
    settings = session.settings.session
    return Observation(
        round=round_number,
        n_images=budget_of(session, round_number),
        images_per_prompt=settings.images_per_prompt,
        seed=settings.seed,
        rounds=tuple(rounds_before(session.journal, round_number)),
    )


def budget_of(session: SessionView, round_number: int) -> int:
    """Return the number of images of a round, unless its plan sets another one."""
    past = rounds_before(session.journal, round_number)
    return budget(session.settings, held_preferences(session.journal), past, round_number)


def held_preferences(journal: EventLog) -> list[Preference]:
    """Return the active preferences."""
    return active_preferences(journal.events(WishEvent, ForgetEvent))


def open_round(
    session: SessionView,
    effects: Effects,
    round_number: int,
    tokens_left: int | None,
    usd_left: float | None,
) -> list[AnyMessage]:
    """Return the opening messages of a round: the system text and the observation."""
    observation = observe(session, round_number)
    key = f"opening/{round_number}"
    opening = session.journal.get(key, OpeningEvent)
    if opening is None:
        facts = gather(session, effects, observation, tokens_left, usd_left)
        look = _look(session, effects, facts, key)
        packed = pack(facts.model_copy(update={"look": look.text}))
        opening = session.journal.append(
            OpeningEvent(key=key, round=round_number, facts=packed, images=look.pictures)
        )
    if recorded := effects.opening(round_number):
        return recorded
    facts = unpack(opening.facts, observation.rounds, effects.target)
    system, text = opening_texts(facts, effects.templates)
    shown = eyes.references(opening.images, eyes.picture_tokens(session))
    return [SystemMessage(system), HumanMessage(text, additional_kwargs=shown)]


def _look(session: SessionView, effects: Effects, facts: Facts, key: str) -> eyes.Look:
    """Return the picture of the worst slice that a vision-language model is shown first."""
    slice_ = eyes.worst(facts.report, facts.failures)
    if not slice_ or eyes.picture_tokens(session) is None:
        return eyes.Look("")
    return effects.look(key, facts.round, eyes.subject_of(slice_, "", facts.past))


def gather(
    session: SessionView,
    effects: Effects,
    observation: Observation,
    tokens_left: int | None,
    usd_left: float | None,
) -> Facts:
    """Return the facts of a round; this searches the memory and asks the fallback for a draft."""
    settings, target, journal = session.settings, effects.target, session.journal
    round_number, past = observation.round, observation.rounds
    lessons, similar = effects.recall(round_number, _question(past))
    preferences = held_preferences(journal)
    spare = _spare_images(session, observation)
    return Facts(
        **_elsewhere(past, target),
        round=round_number,
        rounds=settings.session.rounds,
        n_images=observation.n_images,
        images_left=images_left(settings, spare, past, round_number),
        spare=spare,
        schedule=own_schedule(preferences, past, round_number),
        images_per_prompt=observation.images_per_prompt,
        max_chars=_space(
            settings.llm.context_tokens, record_version(journal), eyes.picture_tokens(session) or 0
        ),
        lessons=tuple(lessons),
        similar=tuple(similar),
        steering=tuple(_steering(journal, past, preferences)),
        wishes=tuple(preference.id for preference in preferences),
        seconds_per_image=seconds_per_image(past),
        tokens_left=tokens_left,
        usd_left=usd_left,
        baseline=_baseline(journal),
        draft=effects.draft(observation),
        coverage={} if planner_of(settings.brain) else dict(effects.coverage(observation)),
        open_vocabulary=effects.supports("open_vocabulary", round_number),
    )


def _spare_images(session: SessionView, observation: Observation) -> int:
    """Return the images that earlier rounds did not use; negative if they used more."""
    past, journal = observation.rounds, session.journal
    spare: int = facts_of(journal, observation.round - 1).get("spare", 0)
    if not past or not past[-1].number:
        return spare
    return spare + left_over(session.settings, held_preferences(journal), past, past[-1])


def _space(context_tokens: int, version: int, picture_tokens: int) -> int:
    """Return the maximum length of the opening in characters: 700 tokens for small contexts."""
    is_small = context_tokens <= SMALL_CONTEXT and version >= GRAPH_WORKS
    space = int(OPENING_SHARE * (context_tokens - picture_tokens))
    return min(space, SMALL_CHARS) if is_small else space


def _baseline(journal: EventLog) -> float | None:
    """Return the main figure of round 0 on feedback, or None."""
    first = journal.round(0)
    return first.main_figure.value if first and first.main_figure else None


def _steering(journal: EventLog, past: Sequence[Round], wanted: Sequence[Preference]) -> list[str]:
    """Return the user's answers and preferences, and the effects of these so far, in words."""
    answers = [
        f"asked {event.question!r}, the user said: {event.answer}"
        for event in journal.events(AnswerEvent)[-LOOK_BACK:]
    ]
    moved = journal.events(SteeredEvent, since=past[0].number) if past and wanted else []
    so_far = "; ".join(say_effects(effects_of(wanted, moved, past)))
    return answers + say_preferences(wanted) + ([f"so far: {so_far}"] if so_far else [])


def _question(past: Sequence[Round]) -> str:
    """Return the query to the memory, which names the worst slices of the last round."""
    failures, report = past[-1].failures if past else (), last_report(past)
    slices = [f.slice for f in failures if f.significant and f.kind == "slice"][:3]
    if not slices and report and report.worst_slice:
        slices = [report.worst_slice]
    return "what helped on " + (", ".join(slices) or "all photographs")


def pack(facts: Facts) -> Json:
    """Return facts as plain JSON, with the numbers of the last rounds that they include."""
    reports = [report.round for report in facts.reports]
    safe: Json = storable(facts.to_json())
    past = facts.past[-1].number if facts.past else None
    return safe | {"reports": reports[-2:], "past": past}


def unpack(packed: Mapping[str, Any], past: Sequence[Round], target: TargetView) -> Facts:
    """Return the facts stored by `pack`; `past` are the earlier rounds of the journal.

    Raises SessionError if the stored facts cannot be read by this version.
    """
    try:
        values = {key: value for key, value in packed.items() if key not in ("reports", "past")}
        return Facts.model_validate(values | _elsewhere(past, target))
    except ValidationError as error:
        key, problem = first_problem(error)
        raise SessionError(
            f"The journal holds an opening that this version cannot read ({key}: {problem}); "
            "continue the session with the version that began it."
        ) from error


def _elsewhere(past: Sequence[Round], target: TargetView) -> Json:
    """Return the fields of `Facts` that are not journaled with them."""
    return {
        "target": target.name,
        "class_names": tuple(target.class_names),
        "vocabulary": target.vocabulary,
        "past": tuple(past),
    }
