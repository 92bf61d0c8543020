"""Results of a session: its best model with a card, and its images as a data set.

best/     model.safetensors  model.json  README.md  predict.py
dataset/  data/*.parquet  README.md

Both are rewritten whenever the session ends; files that the user added or changed are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from agent.autonomous.copies import read_copies
from agent.autonomous.delivery import chosen_round
from agent.autonomous.status import read_delivery
from agent.config.settings import Settings
from agent.loop.components import Components
from agent.session.folder import Session, folder_of, stored_settings
from eval.delivery import Delivery
from eval.likeness import read_likeness
from eval.report.blocks import Table, markdown
from eval.report.delivery import RULES, delivery_line, delivery_table
from eval.report.likeness import likeness_table
from eval.report.templates import render_text
from eval.report.text import interval, number
from memory.events import GeneratorEvent
from memory.files import sha256_of, write_bytes, write_json
from memory.journal import read_events, rounds
from memory.records import Report, Round, Training
from memory.user_folders import replacing
from tools.data.export import Source, export
from tools.data.jobs import shards_of
from tools.evaluate_real import read_sealed
from tools.models.dstm_file import read_weights
from tools.targets import Target, licence_of

BEST, DATASET = "best", "dataset"


def write_results(session: Session) -> list[Path]:
    """Write `best/` and `dataset/` from the rounds so far; return the folders written."""
    folder, settings = session.folder, session.settings
    past = session.rounds()
    target = Components(settings).target
    written = []
    chosen = chosen_round(folder, settings, target, past)
    if chosen:
        sealed, delivery = read_sealed(folder), read_delivery(folder)
        written.append(write_best(folder, settings, target, chosen, sealed, delivery))
    if any(r.batch for r in past):
        place = folder / DATASET
        with replacing(place) as new:
            export(source_of(settings.home, session.name, target), "parquet", new)
        written.append(place)
    return written


def source_of(home: Path, name: str, target: Target | None = None) -> Source:
    """Return the images of a session and their description for an export.

    Args:
        home: Home folder of the session.
        name: Name of the session.
        target: Target of the session; None: it is built.

    Raises:
        SettingsError: There is no such session.
    """
    settings, folder = stored_settings(home, name), folder_of(home, name)
    target = target or Components(settings).target
    events = read_events(folder / "journal.jsonl")
    made_by = next((e for e in events if isinstance(e, GeneratorEvent)), None)
    likeness, copies = likeness_table(read_likeness(folder)), read_copies(folder)
    lines = [f"## {likeness.title}", "", *markdown(likeness), ""] if likeness else []
    lines += ["## Near copies", "", copies.say()] if copies else []
    return Source(
        session=name,
        shards=shards_of(folder, rounds(events)),
        class_names=target.class_names,
        pixel_classes=target.pixel_classes,
        generator=f"{settings.generator.name} {_without_folders(settings)}",
        target=target.name,
        licence=licence_of(target),
        origin=origin_of(settings, made_by),
        likeness=lines,
    )


def write_best(
    folder: Path,
    settings: Settings,
    target: Target,
    best: Round,
    sealed: Sequence[Report],
    delivery: Delivery | None = None,
) -> Path:
    """Copy the model of a round to `best/`, with a model card and a prediction script.

    Args:
        folder: Folder of the session.
        settings: Settings of the session.
        target: Target of the session.
        best: The round.
        sealed: Reports on the test split, for the card only; they must not guide any choice.
        delivery: Effect of the images, for the card; None: unknown.

    Raises:
        WeightsError: The model is missing or damaged.
    """
    assert best.training and best.report  # chosen by its score
    place = folder / BEST
    model = folder / best.training.model
    weights, meta = read_weights(model)
    tests = [report for report in sealed if report.round == best.number]
    text = _model_card(folder.name, settings, target, best, tests, delivery)
    with replacing(place) as new:
        write_bytes(new / "model.safetensors", weights)
        reading = {
            "image_shape": list(target.image_shape),
            "scale_of_16_bits": getattr(target, "scale_of_16_bits", None),
        }
        write_json(new / "model.json", meta | reading)
        program = resources.files("agent.autonomous").joinpath("predict.py.txt")
        write_bytes(new / "predict.py", program.read_bytes())
        write_bytes(new / "README.md", text.encode())
    return place


def origin_of(settings: Settings, made_by: GeneratorEvent | None) -> list[tuple[str, str]]:
    """Return the provenance of a session's images, with the SHA-256 of an MTDM's weights."""
    generator, audit = settings.generator, settings.audit
    limit = f"{audit.real_rejected:.0%} of real photographs would be rejected"
    if audit.threshold is not None:
        limit = f"threshold {audit.threshold:g}"
    drawn = f"{generator.name} {_without_folders(settings)}"
    drawn += "" if generator.steps is None else f", {generator.steps} steps"
    drawn += "" if generator.guidance is None else f", guidance {generator.guidance:g}"
    rows = [
        ("Generator", drawn),
        ("Digest of weights and sampling", made_by.identity if made_by else "unknown"),
        ("Labels of pixels", settings.labeler.name),
        ("Audit", f"{audit.method}, {limit}" if audit.method != "none" else "none"),
        ("Seed", str(settings.session.seed)),
        ("Chosen by", settings.brain),
    ]
    if generator.name == "mtdm":
        from tools.diffusion.weights import weights_folder

        weights = weights_folder(generator.weights) / "unet" / "diffusion_pytorch_model.safetensors"
        if weights.is_file():
            rows.insert(1, ("SHA-256 of its weights", sha256_of(weights)))
    return rows


def _without_folders(settings: Settings) -> str:
    """Return the name of the generator's weights without local folders."""
    weights = settings.generator.weights
    path = Path(weights)
    if not path.is_absolute():
        return weights
    return path.parent.name if path.name == "pipeline" else path.name


def _figures(reports: Sequence[Report]) -> Table:
    """Return a table of the metrics of reports on several splits."""
    columns = ["figure", "photographs", "value", "95% interval", "n"]
    rows = [
        [key.replace("_", " "), report.split, number(e.value), interval(e, 3), str(e.n)]
        for report in reports
        for key, e in report.metrics.items()
    ]
    return Table(columns, rows)


def _model_card(
    name: str,
    settings: Settings,
    target: Target,
    best: Round,
    tests: Sequence[Report],
    delivery: Delivery | None,
) -> str:
    assert best.training and best.report
    return render_text(
        "agent.autonomous",
        "model_card.md.j2",
        session=name,
        best=best,
        task=settings.dstm.task,
        target=target.name,
        learnt=_learnt(best.training),
        rule=RULES[settings.session.deliver],
        delivery=delivery_table(delivery) if delivery else None,
        outcome=delivery_line(delivery).text if delivery else "",
        figures=_figures([best.report, *tests]),
        licence=licence_of(target),
    )


def _learnt(training: Training) -> str:
    if not training.n_steps:
        return "which was given"
    parts = [f"{training.n_real} photographs"] if training.n_real else []
    parts += [f"{training.n_images} generated images"] if training.n_images else []
    return f"trained on {' and '.join(parts)} ({training.n_steps} steps)"
