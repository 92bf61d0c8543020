"""Settings for a user's own data, `--target NAME:PATH`, derived from the data."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agent.config.settings import Settings, load_settings
from agent.loop.components import Components
from memory.errors import NotPretrained, SettingsError, some, unknown
from tools.plugins import names
from tools.targets import Target, leakage

# Targets whose data are given by a path, with the preset of each.
PRESETS = {"camvid": "camvid", "folder": "own", "hf": "own"}

# Measured duration of a pretraining: minutes on two CPU cores, and its work in steps times pixels.
_TIMED_MINUTES = 30
_TIMED_WORK = 3250 * 64 * 64
# With fewer feedback photographs, those of audit are evaluated as well, by cross-fitting in N_FOLDS
# folds: an accuracy of 50% on 50 photographs is known to +-14 points.
FEW, N_FOLDS = 50, 5
# Maximum number of unlearned words in a warning.
N_WORDS = 6
_DENSE = ("model=unet", "batch_size=16", "learning_rate=0.003")


def user_settings(
    target: str,
    assignments: Sequence[str],
    env: Mapping[str, str],
    needs_weights: bool,
    warn: Callable[[str], None] = lambda message: None,
) -> Settings:
    """Resolve the settings for a user's own data.

    Args:
        target: NAME:PATH.
        assignments: "key=value" pairs, which override the settings derived from the data: task,
            model, audit, folds, and the weights that `shaping pretrain` wrote to HOME/pretrain.
        env: Environment variables.
        needs_weights: Whether the generator is going to draw images.
        warn: Called with a message about attribute values that the MTDM has not learned.

    Raises:
        SettingsError: The target cannot be used.
        NotPretrained: There is no MTDM yet (the message contains the command that trains one).
        WeightsError: The MTDM was trained on photographs of other splits.
    """
    name, _, path = target.partition(":")
    if name not in PRESETS and Path(target).expanduser().exists():
        folder, saved = (shlex.quote(f"{kind}:{target}") for kind in ("folder", "hf"))
        raise SettingsError(
            f"The target {target!r} is a path without the kind of its data: --target {folder} for "
            f"a folder of photographs, --target {saved} for data of the library datasets."
        )
    if name not in PRESETS or not path:
        problem = f"The target {target!r} has no path."
        problem = problem if name in PRESETS else unknown("target", name, PRESETS)
        forms = ", ".join(f"{name}:PATH" for name in PRESETS)
        bundled = ", ".join(name for name in names("tools.targets") if name not in PRESETS)
        raise SettingsError(
            f"{problem} Expected one of {forms}; {bundled} have presets of their own."
        )
    if Path(path).expanduser().exists():
        path = str(Path(path).expanduser().resolve())
    given = [f"target.name={name}", f"target.options.path={json.dumps(path)}"]
    first = load_settings(PRESETS[name], [*given, *assignments], env)
    built = Components(first).target
    weights = first.home / "pretrain" / built.name / "pipeline"
    given += [f"dstm.task={built.task}", f"generator.weights={weights}"]
    if not first.feedback.slices:
        given.append(f"feedback.slices={json.dumps(_slices(built))}")
    is_given = any(assignment.startswith("feedback.folds=") for assignment in assignments)
    if len(built.split("feedback")) < FEW and not is_given:
        given += [f"feedback.folds={N_FOLDS}", "audit.method=none"]
    if built.task != "classification":
        given += ["audit.method=none", *(f"dstm.{assignment}" for assignment in _DENSE)]
    # "auto" in `assignments` must not replace the slices derived above.
    wanted = [text for text in assignments if text != "feedback.slices=auto"]
    settings = load_settings(PRESETS[name], [*given, *wanted], env)
    generator = settings.generator
    if needs_weights and generator.name == "mtdm" and generator.weights == str(weights):
        built = Components(settings).target
        _check_weights(weights, settings.pretrain.steps, built, target, assignments, warn)
    return settings


def _check_weights(
    weights: Path,
    steps: int,
    built: Target,
    target: str,
    assignments: Sequence[str],
    warn: Callable[[str], None],
) -> None:
    """Raise if the MTDM is missing or trained on other splits; warn about unlearned words."""
    if not (weights / "model_index.json").is_file():
        _, height, width = built.image_shape
        minutes = max(1, round(_TIMED_MINUTES * steps * height * width / _TIMED_WORK))
        raise NotPretrained(
            f"There is no MTDM for {target} yet: {weights} is missing. Train one first, with the "
            f"same --home: {_pretrain_command(target, assignments)}\nIt takes {steps} steps, about "
            f"{minutes} minutes on two CPU cores for photographs of {width}x{height}; --steps 500 "
            "is enough for a first look.",
            built.notice,
        )
    leakage.check(weights.parent, built)
    if unlearned := leakage.unlearned_words(weights.parent, built):
        n_steps = leakage.trained_steps(weights.parent) + steps
        command = _pretrain_command(target, [*assignments, f"pretrain.steps={n_steps}"])
        warn(
            f"The MTDM in {weights.parent} ignores attribute values added after its training: "
            f"{some(unlearned, N_WORDS)}. To train it further: {command}"
        )


def _pretrain_command(target: str, assignments: Sequence[str]) -> str:
    """Return the command that trains the MTDM for these settings."""
    words = ["shaping", "pretrain", "--target", target]
    for assignment in assignments:
        key, _, value = assignment.partition("=")
        if key == "home":
            words += ["--home", value]
        elif key.startswith(("target.", "pretrain.")):
            words += ["--set", assignment]
    return shlex.join(words)


def _slices(target: Target) -> list[list[str]]:
    """Return slicings of a target: each attribute alone, and combined with the class attribute."""
    by_class = target.vocabulary.class_attribute
    keys = list(target.vocabulary.attributes)
    crossed = [[by_class, key] for key in keys if key != by_class] if by_class else []
    return [[key] for key in keys] + crossed
