"""`shaping run --dry-run`: print settings, first plan and estimated cost, without a session."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

import yaml

from agent import brains, planners
from agent.autonomous.runner import check_parts
from agent.brains import BrainContext, planner_brain, planner_of
from agent.config.settings import Settings
from agent.loop.components import Components
from agent.loop.validation import PlanRules, validate
from agent.planners import Observation
from agent.session.folder import folder_of, list_sessions, stored_settings
from agent.session.limits import HOUR_S
from eval.report.text import duration
from memory.events import ModelCallEvent
from memory.journal import read_events, rounds
from memory.records import Plan, PromptSpec
from tools.data.samples import Samples
from tools.data.stored_images import contents
from tools.generate_batch import LabelVerifier, draw
from tools.generators import undrawn
from tools.train_dstm import train_model

if TYPE_CHECKING:
    from rich.console import Console

# Images and training steps that measure the speed if no earlier session provides it.
N_DRAWN, N_STEPS = 8, 5
_PROMPTS_SHOWN = 12


class Speed(NamedTuple):
    """Speed of a session.

    Attributes:
        image_s: Seconds per image.
        step_s: Seconds per training step.
        rest_s: Seconds of all other stages of a round.
        tokens: Tokens per round; None: unknown.
        usd: US dollars per round; None: unknown.
        source: Origin of the figures.
    """

    image_s: float
    step_s: float
    rest_s: float
    tokens: float | None
    usd: float | None
    source: str


def show(settings: Settings, console: Console) -> None:
    """Print settings, first plan and estimate of a session; only the cache of data is written."""
    resolved = yaml.safe_dump(
        settings.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=100
    )
    console.print(resolved, markup=False, soft_wrap=True)
    components = Components(settings)
    target = components.target
    caveat = check_parts(components)
    context = BrainContext(components.distribution, target.vocabulary, settings.llm)
    brains.build(settings.brain, context)
    for text in (target.notice, f"Warning: {caveat}" if caveat else ""):
        if text:
            console.print(f"{text}\n", markup=False, soft_wrap=True)
    begins = components.begins_with_baseline
    if begins:
        what = "measures your model"
        if components.given_model is None:
            n_real = sum(len(contents(path).ids) for path in components.real_shards)
            what = f"trains on {n_real} photographs alone"
        console.print(f"Round 0 {what}. It may change the plan below.\n", soft_wrap=True)
    plan = first_plan(components)
    by = "" if planner_of(settings.brain) else f", where {settings.brain} decides"
    console.print(
        f"Round 1 as {plan.author} plans it{by}: {plan.n_images} images. {plan.why}",
        markup=False,
        soft_wrap=True,
    )
    for prompt in plan.prompts[:_PROMPTS_SHOWN]:
        console.print(f"  {prompt.count:4d}  {prompt.text}", markup=False, soft_wrap=True)
    if len(plan.prompts) > _PROMPTS_SHOWN:
        console.print(f"  and {len(plan.prompts) - _PROMPTS_SHOWN} more prompts")
    speed = earlier_speed(settings) or measure_speed(components, plan.prompts)
    console.print(f"\nEstimate, by {speed.source}:", markup=False)
    for line in estimate(settings, speed, begins):
        console.print(f"  {line}", markup=False)


@contextmanager
def leave_no_home(home: Path) -> Iterator[None]:
    """Remove a home folder created by the block, except for notes on the data."""
    existed = home.exists()
    try:
        yield
    finally:
        cache = home / "cache"
        for path in cache.iterdir() if not existed and cache.is_dir() else ():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif not path.name.endswith("-notes.txt"):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # folders that are not empty
            for folder in (cache, home) if not existed else ():
                folder.rmdir()


def first_plan(components: Components) -> Plan:
    """Return the plan of round 1 by the planner of the settings, or a model's fallback planner."""
    settings, generator = components.settings, components.generator
    vocabulary = components.target.vocabulary
    planner = planner_of(settings.brain) or settings.llm.fallback
    observation = Observation(
        round=1,
        n_images=settings.session.images_per_round,
        images_per_prompt=settings.session.images_per_prompt,
        seed=settings.session.seed,
    )
    draft = planners.build(planner).plan(observation, components.distribution, vocabulary)
    rules = PlanRules(
        vocabulary,
        observation.n_images,
        generator.count_tokens,
        generator.max_tokens,
        undrawn=lambda text: undrawn(generator, text),
    )
    return validate(draft, 1, planner_brain(planner), rules)


def earlier_speed(settings: Settings) -> Speed | None:
    """Return the speed of the latest session of the same target, generator, model and device."""
    for info in list_sessions(settings.home):
        if info.problem:
            continue
        other = stored_settings(settings.home, info.name)
        if not _costs_alike(settings, other):
            continue
        events = read_events(folder_of(settings.home, info.name) / "journal.jsonl")
        whole = [
            (done.seconds, done.batch, done.training)
            for done in rounds(events)
            if done.report and done.batch and done.training
        ]
        if not whole:
            continue
        same_brain = other.brain == settings.brain
        calls = [event for event in events if isinstance(event, ModelCallEvent)]
        rest = [
            sum(s for stage, s in seconds.items() if stage not in ("generate", "train"))
            for seconds, _, _ in whole
        ]
        return Speed(
            image_s=fmean(s.get("generate", 0.0) / batch.n_made for s, batch, _ in whole),
            step_s=fmean(
                s.get("train", 0.0) / (training.n_steps * (1 + (training.folds or 0)))
                for s, _, training in whole
            ),
            rest_s=fmean(rest),
            tokens=sum(c.tokens.total for c in calls) / len(whole) if same_brain else None,
            usd=sum(c.usd for c in calls) / len(whole) if same_brain else None,
            source=f"the session {info.name!r}",
        )
    return None


def measure_speed(
    components: Components, prompts: Sequence[PromptSpec], judge: LabelVerifier | None = None
) -> Speed:
    """Measure the speed with a few images, training steps and predictions.

    Args:
        components: Components to measure.
        prompts: Prompts of the images.
        judge: Verifier of the images, included in the time of an image; None: no audit.
    """
    settings, target = components.settings, components.target
    generator, task = components.generator, components.task
    requests = [(prompts[i % len(prompts)], i) for i in range(N_DRAWN)]

    def draw_some(n: int) -> Samples:
        seed = settings.session.seed
        samples, confidence = draw(requests[:n], seed, generator, target.class_names)
        if judge is not None:
            judge.verify(samples, confidence)
        return samples

    # Warm-up, so that loading and initialisation are not measured.
    draw_some(1)
    started = time.monotonic()
    samples = draw_some(N_DRAWN)
    image_s = (time.monotonic() - started) / N_DRAWN
    train = settings.dstm.model_copy(update={"steps": N_STEPS, "balance_classes": False})
    n_classes = len(components.label_names)
    ends: list[float] = []
    model, _ = train_model(
        samples,
        task,
        n_classes,
        train,
        components.device,
        lambda done, total: ends.append(time.monotonic()),
    )
    # The first step includes loading kernels.
    step_s = (ends[-1] - ends[0]) / (N_STEPS - 1)
    photographs = target.split("feedback")
    started = time.monotonic()
    task.predict(model, photographs.images)
    # Two splits, and half as much again for figures, failures and pictures.
    rest_s = 3 * (time.monotonic() - started)
    nothing = 0.0 if planner_of(settings.brain) else None
    return Speed(image_s, step_s, rest_s, nothing, nothing, "a short measurement")


def estimate(settings: Settings, speed: Speed, with_baseline: bool = False) -> list[str]:
    """Return lines with the time, images and cost of a session within its limits.

    Args:
        settings: Settings of the session.
        speed: Measured speed.
        with_baseline: Whether the session begins with round 0, which draws no images.
    """
    session, limits = settings.session, settings.limits
    n_rounds = session.rounds
    if limits.max_images is not None:
        n_rounds = min(n_rounds, limits.max_images // session.images_per_round)
    parts = {
        "generate": speed.image_s * session.images_per_round,
        "train": speed.step_s * settings.dstm.steps * _n_trainings(settings),
        "evaluate and the rest": speed.rest_s,
    }
    round_s = sum(parts.values())
    first_s = round_s - parts["generate"] if with_baseline else 0.0
    if settings.session.baseline is not None:
        first_s -= parts["train"]
    if limits.max_hours is not None:
        n_rounds = min(n_rounds, int((limits.max_hours * HOUR_S - first_s) // max(round_s, 1e-9)))
    stages = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts.items())
    lines = [f"round 0: {duration(first_s)}"] if with_baseline else []
    lines += [
        f"a round: {duration(round_s)} ({stages})",
        f"{n_rounds} rounds with {n_rounds * session.images_per_round} images: "
        f"{duration(first_s + n_rounds * round_s)}",
    ]
    if limits.target_score is not None or limits.patience is not None:
        lines.append("fewer rounds when the target score is reached or the patience ends")
    if speed.tokens is None or speed.usd is None:
        lines.append(f"tokens and money: unknown, no earlier session here used {settings.brain}")
    elif speed.tokens:
        lines.append(f"tokens: {n_rounds * speed.tokens:,.0f}; {n_rounds * speed.usd:.2f} USD")
    else:
        lines.append("tokens and money: none")
    return lines


def _n_trainings(settings: Settings) -> int:
    """Return the number of models trained in a round: the DSTM, and one per fold."""
    learns_photographs = settings.dstm.train_on != "synthetic"
    return 1 + (settings.feedback.folds or 0) * learns_photographs


def _costs_alike(one: Settings, other: Settings) -> bool:
    keys = ("target", "generator", "device")
    return all(getattr(one, key) == getattr(other, key) for key in keys) and (
        (one.dstm.task, one.dstm.model, one.dstm.batch_size)
        == (other.dstm.task, other.dstm.model, other.dstm.batch_size)
    )
