"""Settings for a user's own data, `--target NAME:PATH`: what the data themselves decide."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agent.config.settings import Settings, load_settings
from agent.loop.components import Components
from memory.errors import SettingsError, WeightsError, some, unknown
from tools.plugins import names
from tools.targets import Target, leakage

# Targets whose data lie somewhere else, and the preset that each is shaped with.
PRESETS = {"camvid": "camvid", "folder": "own", "hf": "own"}

# A pretraining that was timed: minutes on two CPU cores for steps times pixels.
_KNOWN_MINUTES = 30
_KNOWN_WORK = 3250 * 64 * 64
# Words that are named of those that an MTDM has not learnt.
N_WORDS = 6
_DENSE = ("model=unet", "batch_size=16", "learning_rate=0.003")


def load_own(
    target: str,
    assignments: Sequence[str],
    env: Mapping[str, str],
    needs_weights: bool,
    warn: Callable[[str], None] = lambda told: None,
) -> Settings:
    """Resolve the settings for `target`, NAME:PATH.

    assignments: "key=value" that go before what the data decide: task, model, audit, and the
    weights that `shaping pretrain` left under HOME/pretrain. needs_weights: whether the generator
    is going to draw; warn: is told what its MTDM has not learnt. Raises WeightsError that says how
    to train it when it has no weights yet, or when it was trained on photographs that are now to
    judge.
    """
    name, _, path = target.partition(":")
    if name not in PRESETS:
        if Path(target).expanduser().exists():
            raise SettingsError(
                f"The target {target!r} is a path without the kind of data that lie there. For a "
                f"folder of photographs say --target {shlex.quote(f'folder:{target}')}, for data "
                f"of the library datasets --target {shlex.quote(f'hf:{target}')}."
            )
        raise SettingsError(f"{unknown('target', name, PRESETS)} {_form(target)}")
    if not path:
        raise SettingsError(f"The target {target!r} names no data. {_form(target)}")
    if Path(path).expanduser().exists():
        path = str(Path(path).expanduser().resolve())
    where = [f"target.name={name}", f"target.options.path={json.dumps(path)}"]
    first = load_settings(PRESETS[name], [*where, *assignments], env)
    built = Components(first).target
    weights = first.home / "pretrain" / built.name / "pipeline"
    decided = [f"dstm.task={built.task}", f"generator.weights={weights}"]
    if not first.feedback.slices:
        decided.append(f"feedback.slices={json.dumps(_slices(built))}")
    if built.task != "classification":
        decided += ["audit.method=none", *(f"dstm.{text}" for text in _DENSE)]
    # The slices stand in `assignments` where a user has set them, but perhaps as "auto".
    wanted = [text for text in assignments if text != "feedback.slices=auto"]
    settings = load_settings(PRESETS[name], [*where, *decided, *wanted], env)
    drawn_by_it = settings.generator.name == "mtdm" and settings.generator.weights == str(weights)
    if needs_weights and drawn_by_it and not (weights / "model_index.json").is_file():
        _, height, width = built.image_shape
        share = settings.pretrain.steps * height * width / _KNOWN_WORK
        raise WeightsError(
            f"There is no MTDM for {target} yet: {weights} is missing. Train one first, with the "
            f"same --home: {_pretrain_command(target, assignments)}\nIt takes "
            f"{settings.pretrain.steps} steps, about {max(1, round(_KNOWN_MINUTES * share))} "
            f"minutes on two CPU cores for photographs of {width}x{height}; --steps 500 is enough "
            f"for a first look.\nThis is how the data are read:\n{built.notice}"
        )
    if needs_weights and drawn_by_it:
        leakage.check(weights.parent, built)
        if new := leakage.unlearnt(weights.parent, built):
            n_steps = leakage.steps_done(weights.parent)
            more = [*assignments, f"pretrain.steps={n_steps + settings.pretrain.steps}"]
            warn(
                f"The MTDM in {weights.parent} was trained before the data had these words, and "
                f"does not draw them: {some(new, N_WORDS)}. To train it further: "
                f"{_pretrain_command(target, more)}"
            )
    return settings


def _pretrain_command(target: str, assignments: Sequence[str]) -> str:
    """Return the command that trains what a command with these settings draws with."""
    words = ["shaping", "pretrain", "--target", target]
    for text in assignments:
        key, _, value = text.partition("=")
        if key == "home":
            words += ["--home", value]
        elif key.startswith(("target.", "pretrain.")):
            words += ["--set", text]
    return shlex.join(words)


def _slices(target: Target) -> list[list[str]]:
    """Return the attributes of a target, alone and each with the one that decides the class."""
    by_class = target.vocabulary.class_attribute
    keys = list(target.vocabulary.attributes)
    crossed = [[by_class, key] for key in keys if key != by_class] if by_class else []
    return [[key] for key in keys] + crossed


def _form(target: str) -> str:
    known = ", ".join(f"{name}:PATH" for name in PRESETS)
    bundled = ", ".join(name for name in names("tools.targets") if name not in PRESETS)
    return f"Expected one of {known}; {bundled} have presets of their own."
