"""Collect the data of a session's report and write the HTML file."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.autonomous.copies import write_copies
from agent.autonomous.delivery import write_delivery
from agent.autonomous.thumbnails import labelled_thumbnails, legend_of
from agent.config.settings import Settings, overrides
from agent.loop.components import Components
from agent.loop.likeness import write_likeness
from agent.session.folder import folder_of, stored_settings
from agent.steering.preferences import active_preferences, all_preferences, effects
from eval.decisions import decisions
from eval.report.blocks import Cell, Table
from eval.report.likeness import likeness_table
from eval.report.page import ReportData, build_report_html
from eval.report.text import percent
from memory.errors import DataError
from memory.events import Event
from memory.files import write_bytes
from memory.journal import read_events, rounds
from memory.records import Round
from tools import tasks
from tools.evaluate_real import read_sealed

# Kinds of journal events that the report lists.
REPORTED_EVENTS = ("resumed", "fallback", "fault", "paused", "ended")


def write_report(home: Path, name: str, components: Components | None = None) -> Path:
    """Write `report.html`, with the sealed test figures, into the session folder.

    Args:
        home: Home folder of the session.
        name: Name of the session.
        components: Components of the session; None: they are built.

    Returns:
        Path of the report.

    Raises:
        SettingsError: There is no such session.
        DataError: Images or pictures of the session are missing.
    """
    settings = stored_settings(home, name)
    folder = folder_of(home, name)
    events = read_events(folder / "journal.jsonl")
    past = rounds(events)
    components = components or Components(settings)
    target = components.target
    kinds = tasks.build(settings.dstm.task).needs
    montages: dict[str, bytes] = {}
    for done in past:
        if done.batch:
            montages |= labelled_thumbnails(folder, done.batch, kinds, target.pixel_classes)
    data = ReportData(
        delivery=write_delivery(folder, settings, target, past),
        likeness=likeness_table(write_likeness(folder, settings, target, past)),
        copies=write_copies(folder, components, past),
        session=name,
        settings=settings.model_dump(mode="json"),
        notice=target.notice,
        rounds=past,
        sealed=read_sealed(folder),
        prompt_montages=montages,
        failure_montages=_failure_montages(folder, past),
        legend=legend_of(kinds, target.pixel_classes),
        decisions=decisions(settings.brain, events),
        preferences=_preferences(events, past),
        events=[e.to_json() for e in events if e.kind in REPORTED_EVENTS],
        reproduce=[_command(settings, home, name)],
    )
    path = folder / "report.html"
    write_bytes(path, build_report_html(data).encode())
    return path


def _preferences(events: Sequence[Event], past: Sequence[Round]) -> Table | None:
    """Return a table of all preferences with their effects; None: there were none."""
    preferences = all_preferences(events)
    active = {preference.id for preference in active_preferences(events)}
    measured = {preference.id: effect for preference, effect in effects(preferences, events, past)}
    rows: list[list[Cell]] = []
    for preference in preferences:
        effect = measured.get(preference.id)
        text = [preference.say()] + ([] if preference.id in active else ["(taken back)"])
        shares = [percent(effect.before), percent(effect.after)] if effect else [None, None]
        scores = [effect.score_before, effect.score_after] if effect else [None, None]
        rows.append([text, str(preference.since), *shares, *scores])
    right = ("From round", "Images before", "Images after")
    columns = ("Preference", *right, "Score before", "Score after")
    return Table(columns, rows, "Preferences", right, wide=columns[:1]) if rows else None


def _command(settings: Settings, home: Path, name: str) -> str:
    """Return the command line that reproduces, or continues, the session."""
    words = ["shaping", "run", settings.preset, "--session", name, "--home", str(home)]
    for assignment in overrides(settings):
        if not assignment.startswith(("home=", "session.name=")):
            words += ["--set", assignment]
    return shlex.join(words)


def _failure_montages(folder: Path, past: list[Round]) -> Mapping[str, bytes]:
    """Return the stored pictures of the failures of the last round with any, by failure id."""
    failures = next((r.failures for r in reversed(past) if r.failures), ())
    pictures = {}
    for failure in failures:
        if failure.picture:
            path = folder / failure.picture
            if not path.is_file():
                raise DataError(f"The picture {path} of failure {failure.id} is missing.")
            pictures[failure.id] = path.read_bytes()
    return pictures
