"""The settings of a session: one tree, read from preset, environment and command line.

A field of a section is named SECTION.KEY in presets and `--set`, and SHAPING_SECTION__KEY in the
environment. No other module reads any of these sources.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, Field, JsonValue, ValidationError

from agent.config.sections import (
    FeedbackSettings,
    GeneratorSettings,
    LabelerSettings,
    LimitSettings,
    LLMSettings,
    MemorySettings,
    SessionSettings,
    TargetSettings,
)
from agent.config.urls import hidden
from memory.errors import SettingsError, unknown
from memory.records import Record, digest
from memory.yaml_text import parse_yaml
from tools.settings import (
    AuditSettings,
    ComputeSettings,
    DstmSettings,
    PretrainSettings,
    SelectionSettings,
)

ENV_PREFIX = "SHAPING_"
# The token of the web page is a secret of one command, not a setting of a session.
WEB_TOKEN = f"{ENV_PREFIX}WEB_TOKEN"

# Deployment settings; they do not affect results and are left out of journals and bundles.
PLACES = ("compute", "memory", "session.checkpoints")
# Left out of journals and bundles: deployment settings, and a command that may contain secrets.
PRIVATE = (*PLACES, "session.on_finish")

# Settings that may change when a session is resumed.
FREE_KEYS = (
    "preset",
    "pretrain",
    "pretrain_target",
    "llm",
    "limits",
    *PLACES,
    "session.name",
    "session.rounds",
    "session.images_per_round",
    "session.on_finish",
    "device",
    "home",
)


class Settings(Record):
    """All settings of a session, and the name of their preset."""

    preset: str
    target: TargetSettings = TargetSettings()
    generator: GeneratorSettings = GeneratorSettings()
    labeler: LabelerSettings = LabelerSettings()
    audit: AuditSettings = AuditSettings()
    selection: SelectionSettings = SelectionSettings()
    dstm: DstmSettings = DstmSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    brain: str = Field(
        "policy:audited_failure",
        description="policy:PLANNER, openai:MODEL, ollama:MODEL, scripted:FILE",
    )
    llm: LLMSettings = LLMSettings()
    limits: LimitSettings = LimitSettings()
    compute: ComputeSettings = ComputeSettings()
    memory: MemorySettings = MemorySettings()
    session: SessionSettings = SessionSettings()
    pretrain: PretrainSettings = PretrainSettings()
    pretrain_target: TargetSettings | None = Field(
        None, description="data that the MTDM is trained on; None: those of the target"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    home: Annotated[Path, AfterValidator(Path.expanduser)] = Path("shaping-home")

    @property
    def data(self) -> str:
        """Source of the data: the preset or, for a user's data set, NAME:FOLDER."""
        path = self.target.path
        return self.preset if path is None else f"{self.target.name}:{Path(str(path)).name}"

    @property
    def stem(self) -> str:
        """Stem of automatic session names: the preset, or the folder of a user's data set."""
        is_users = self.preset == "own" and self.target.path is not None
        return self.data.partition(":")[2] if is_users else Path(self.preset).stem


def presets() -> dict[str, str]:
    """Return the presets of the package with their descriptions, sorted by name."""
    return {name: _read_preset(name)[1] for name in sorted(_preset_files())}


def load_settings(
    preset: str, overrides: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> Settings:
    """Resolve the settings of a preset.

    Overrides take precedence over the environment, the environment over the preset, the preset over
    the defaults. Values are parsed as YAML; settings of type text or path use the text unchanged.

    Args:
        preset: A name of `presets()`, or the path of a .yaml file.
        overrides: "section.key=value"; the last one of a key is used.
        env: Mapping with variables SHAPING_SECTION__KEY; None: empty.

    Raises:
        SettingsError: A key is unknown or a value invalid; the message names both.
    """
    values, _ = _read_preset(preset)
    assignments = [
        (name.removeprefix(ENV_PREFIX).lower().replace("__", "."), text, f"by {name}")
        for name, text in sorted((env or {}).items())
        if name.startswith(ENV_PREFIX) and name != WEB_TOKEN
    ]
    return _build(preset, values, [*assignments, *_assignments(overrides)])


def with_changes(settings: Settings, overrides: Sequence[str]) -> Settings:
    """Return settings changed by "section.key=value", parsed and checked as in `load_settings`."""
    values = settings.model_dump(mode="json", exclude={"preset"})
    return _build(settings.preset, values, _assignments(overrides))


def _assignments(overrides: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return key, text and origin of each "key=value" of the command line."""
    assignments = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise SettingsError(f"{override!r} sets nothing; expected KEY=VALUE.")
        assignments.append((key.strip(), text, "on the command line"))
    return assignments


def _build(
    preset: str, values: dict[str, Any], assignments: Sequence[tuple[str, str, str]]
) -> Settings:
    for key, text, origin in assignments:
        if key == "preset":
            raise SettingsError(f"A preset cannot be given {origin} as a setting; use run PRESET.")
        value = text if _takes_text(key) else _parse(text, f"The setting {key}, given {origin},")
        for part in reversed(key.split(".")):
            value = {part: value}
        values = _merge(values, value)
    try:
        settings = Settings.model_validate({**values, "preset": preset})
    except ValidationError as error:
        origins = {key: origin for key, _, origin in assignments}
        raise SettingsError(_explain(error, origins)) from error
    read, given = _leaves(settings.model_dump(mode="json")), {k: t for k, t, _ in assignments}
    for key, value in _leaves(values).items():
        if isinstance(value, bool) and type(read.get(key)) in (int, float):
            text = f"The setting {key} cannot be {given.get(key, value)!r}: it should be a number."
            raise SettingsError(text)
    return settings


def keys(model: type[BaseModel] = Settings, prefix: str = "") -> list[str]:
    """Return the dotted keys of all settings, in the order of their definition."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        section = field.annotation
        names += keys(section, f"{prefix}{name}.") if _is_section(section) else [prefix + name]
    return names


def fingerprint(settings: Settings) -> str:
    """Return a digest of the settings that cannot change in a session: all but FREE_KEYS."""
    return digest(_bound(_leaves(settings.model_dump(mode="json"))))


def _bound(leaves: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    free = tuple(f"{key}." for key in FREE_KEYS)
    return {key: value for key, value in leaves.items() if not f"{key}.".startswith(free)}


def differences(old: Settings, new: Settings, *, bound: bool = False) -> list[str]:
    """Return "key: old -> new" for each setting that differs.

    Args:
        old: Settings before.
        new: Settings after.
        bound: Whether to compare only the settings that cannot change in a session.
    """
    before, after = (_leaves(settings.model_dump(mode="json")) for settings in (old, new))
    before, after = (_bound(leaves) if bound else leaves for leaves in (before, after))
    return [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def overrides(settings: Settings) -> list[str]:
    """Return the "key=value" by which `load_settings` reproduces settings from their preset."""
    assignments: list[str] = []
    # Twice, since defaults can depend on other settings.
    for _ in range(2):
        base = _leaves(load_settings(settings.preset, assignments).model_dump(mode="json"))
        assignments += [
            f"{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in _leaves(settings.model_dump(mode="json")).items()
            if value != base.get(key)
        ]
    return assignments


def journaled_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that a journal records, as plain JSON."""
    return without_private(settings.model_dump(mode="json", exclude={"home"}))


def without_private(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings, as plain JSON, without the keys of PRIVATE."""
    kept = {key: dict(part) if isinstance(part, dict) else part for key, part in values.items()}
    for place in PRIVATE:
        section, _, key = place.rpartition(".")
        (kept.get(section, {}) if section else kept).pop(key, None)
    return kept


def _preset_files() -> dict[str, Traversable]:
    files = resources.files("agent.config").joinpath("presets").iterdir()
    return {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}


def _read_preset(preset: str) -> tuple[dict[str, Any], str]:
    """Return the values of a preset and its description."""
    is_file = preset.endswith((".yaml", ".yml"))
    file = Path(preset) if is_file else _preset_files().get(preset)
    if file is None:
        raise SettingsError(
            unknown("preset", preset, _preset_files()) + " A file is named by a path to a .yaml."
        )
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The preset {preset} cannot be read: {error}.") from error
    values = _parse(text, f"The preset {preset}")
    if not isinstance(values, dict):
        raise SettingsError(f"The preset {preset} holds no settings; expected lines of KEY: VALUE.")
    return values, str(values.pop("description", ""))


def _parse(text: str, origin: str) -> Any:
    try:
        return parse_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise SettingsError(f"{origin} is not valid YAML{line}: {problem}.") from error


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    """Return a message about the first unknown key or, without one, the first invalid value.

    origins: source of each value that is not from the preset, by dotted key.
    """
    problem = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    is_unknown = problem["type"] == "extra_forbidden"
    location, given = [str(part) for part in problem["loc"]], problem["input"]
    while is_unknown and isinstance(given, dict) and given:
        part, given = next(iter(given.items()))
        location.append(str(part))
    key = ".".join(location)
    given_by = [origin for k, origin in origins.items() if f"{key}.".startswith(f"{k}.")]
    where = f" (given {given_by[0]})" if given_by else ""
    if is_unknown:
        return unknown("setting", key, keys()) + where
    expected = problem["msg"].replace("Input should", "it should", 1)
    return f"The setting {key} cannot be {hidden(repr(given))}{where}: {expected}."


def _is_section(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _takes_text(key: str) -> bool:
    """Return whether a setting is text or a path, so that 001, no or a date are not parsed."""
    annotation: Any = Settings
    for part in key.split("."):
        if not _is_section(annotation) or part not in annotation.model_fields:
            return False
        annotation = annotation.model_fields[part].annotation
    choices = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else [annotation]
    return str in choices or Path in choices


def _merge(below: Any, above: Any) -> Any:
    """Return `above`, or the recursive union of both if both are mappings."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {**below, **{key: _merge(below.get(key), value) for key, value in above.items()}}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, JsonValue]:
    """Return nested values by dotted key."""
    leaves: dict[str, JsonValue] = {}
    for name, value in values.items():
        is_inner = isinstance(value, dict)
        leaves |= _leaves(value, f"{prefix}{name}.") if is_inner else {prefix + name: value}
    return leaves
