from __future__ import annotations

from pathlib import Path

import pytest

from agent.config.settings import (
    FREE_KEYS,
    differences,
    fingerprint,
    keys,
    load_settings,
    overrides,
    presets,
)
from agent.config.stored import read_stored
from memory.errors import SettingsError


def preset_file(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_solar_is_a_preset_with_a_description() -> None:
    assert presets()["solar"].startswith("Solar cells, functional or defective")


@pytest.mark.parametrize("name", list(presets()))
def test_every_preset_loads(name: str) -> None:
    assert load_settings(name).preset == name


def test_solar() -> None:
    settings = load_settings("solar")
    assert settings.target.name == "elpv"
    assert settings.generator.weights == "bundled:solar-3-steps"
    assert settings.session.rounds == 4
    assert settings.session.images_per_round == 200
    assert ("wafer", "severity") in settings.feedback.slices
    assert settings.home == Path("shaping-home")


def test_command_line_goes_before_environment_before_preset_before_default(tmp_path: Path) -> None:
    preset = preset_file(tmp_path, "audit: {threshold: 0.2, floor: 0.05}\n")
    env = {"SHAPING_AUDIT__THRESHOLD": "0.3", "SHAPING_DEVICE": "cpu", "PATH": "/bin"}
    assert load_settings(preset).audit.threshold == 0.2
    assert load_settings(preset, env=env).audit.threshold == 0.3
    settings = load_settings(preset, ["audit.threshold=0.1", "audit.threshold=0.4"], env)
    assert settings.audit.threshold == 0.4
    assert settings.audit.floor == 0.05
    assert settings.device == "cpu"
    assert settings.generator.steps is None


def test_off_needs_no_quotes() -> None:
    assert load_settings("solar", ["feedback.discovery=off"]).feedback.discovery == "off"


def test_home_comes_from_the_environment_and_a_tilde_is_the_users_home() -> None:
    assert load_settings("solar", env={"SHAPING_HOME": "/data/x"}).home == Path("/data/x")
    assert load_settings("solar", ["home=~/x"]).home == Path.home() / "x"


def test_text_stays_as_it_is_given() -> None:
    given = {"001": "001", "no": "no", "2026-01-02": "2026-01-02", "a: b": "a: b", "[x": "[x"}
    for text, name in given.items():
        assert load_settings("solar", [f"session.name={text}"]).session.name == name
    assert load_settings("solar", env={"SHAPING_BRAIN": "policy:uniform"}).brain == "policy:uniform"


def test_values_are_yaml() -> None:
    given = [
        "feedback.slices=[[wafer], [severity, contrast]]",
        "dstm.learning_rate=1e-3",
        "dstm.augment=false",
        "target.options.seed=3",
        "audit={floor: 0.2, train: {steps: 50}}",
    ]
    settings = load_settings("solar", given)
    assert settings.feedback.slices == (("wafer",), ("severity", "contrast"))
    assert settings.dstm.learning_rate == 0.001
    assert settings.dstm.augment is False
    assert settings.target.options == {"seed": 3}
    assert (settings.audit.floor, settings.audit.threshold) == (0.2, None)
    assert settings.audit.train.steps == 50


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("audti.threshold=0.3", ["'audti.threshold'", "Did you mean 'audit.threshold'"]),
        ("limits.rounds=2", ["'session.rounds'", "limits.max_hours"]),
        ("rounds=3", ["'rounds'", "'session.rounds'"]),
        ("audit={flor: 3}", ["'audit.flor'", "'audit.floor'"]),
    ],
)
def test_an_unknown_key_names_the_near_ones(override: str, words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings("solar", [override])
    assert all(word in str(caught.value) for word in words), caught.value
    assert "on the command line" in str(caught.value)


def test_an_unknown_key_goes_before_a_wrong_value() -> None:
    with pytest.raises(SettingsError, match=r"Unknown setting 'dstm\.step'"):
        load_settings("solar", ["audit.floor=9", "dstm.step=1"])


def test_an_unknown_variable_is_named() -> None:
    with pytest.raises(SettingsError, match=r"'audit\.flor'.*given by SHAPING_AUDIT__FLOR"):
        load_settings("solar", env={"SHAPING_AUDIT__FLOR": "0.1"})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("session.images_per_round=100000000", "images_per_round cannot be 100000000"),
        ("session.rounds=0", "session.rounds cannot be 0 .*greater than or equal to 1"),
        ("session.rounds=-2", "session.rounds cannot be -2 .*greater than or equal to 1"),
        ("session.images_per_round=0", "session.images_per_round cannot be 0 "),
        ("session.rounds=2.5", "session.rounds cannot be 2.5 .*valid integer"),
        ("audit.threshold=high", "audit.threshold cannot be 'high' .*valid number"),
        ("audit.floor=.nan", "audit.floor cannot be nan"),
        ("audit.floor.x=3", "audit.floor cannot be {'x': 3}.*valid number"),
        ("audit=3", "audit cannot be 3 .*valid dictionary"),
        ("device=gpu", "device cannot be 'gpu' .*it should be 'auto', 'cpu' or 'cuda'"),
        ("generator.steps=1001", "generator.steps cannot be 1001 .*less than or equal to 1000"),
        ("feedback.slices=[wafer]", "feedback.slices.0 cannot be 'wafer' .*valid tuple"),
    ],
)
def test_a_wrong_value_is_explained(override: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings("solar", [override])


def test_an_override_needs_a_value() -> None:
    with pytest.raises(SettingsError, match=r"'device' sets nothing; expected KEY=VALUE"):
        load_settings("solar", ["device"])
    with pytest.raises(SettingsError, match="not valid YAML in line 1"):
        load_settings("solar", ["session.rounds=[1"])
    with pytest.raises(SettingsError, match="use run PRESET"):
        load_settings("solar", ["preset=x"])


def test_an_unknown_preset_names_the_near_ones() -> None:
    with pytest.raises(SettingsError, match=r"Unknown preset 'solr'. Did you mean 'solar'\?"):
        load_settings("solr")


def test_an_unreadable_preset_is_explained(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no\.yaml cannot be read: .*No such file"):
        load_settings(str(tmp_path / "no.yaml"))
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    with pytest.raises(SettingsError, match=r"cannot be read: .*Is a directory"):
        load_settings(str(folder))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match=r"binary\.yaml cannot be read"):
        load_settings(str(binary))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("audit: {floor: 0.1}\ndstm: [1\ndevice: cpu\n", r"mine\.yaml is not valid YAML in line 3"),
        ("a\x00b", "not valid YAML"),
        ("", "holds no settings"),
        ("- 1\n", "holds no settings"),
        ("audit: {flor: 1}", "Unknown setting 'audit.flor'. Did you mean 'audit.floor'"),
        ("audit:\n", "audit cannot be None"),
    ],
)
def test_a_wrong_preset_file_is_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(preset_file(tmp_path, text))


def test_free_keys_exist_and_do_not_change_the_fingerprint() -> None:
    names = keys()
    for free in FREE_KEYS:
        assert any(f"{key}.".startswith(f"{free}.") for key in names), free
    given = ["session.rounds=9", "session.images_per_round=5", "session.name=x", "home=/y"]
    changed = load_settings("solar", [*given, "device=cpu", "pretrain.steps=1"])
    assert fingerprint(changed) == fingerprint(load_settings("solar"))


@pytest.mark.parametrize(
    "override", ["session.seed=1", "dstm.steps=7", "brain=policy:uniform", "target.options.a=1"]
)
def test_other_keys_change_the_fingerprint(override: str) -> None:
    assert fingerprint(load_settings("solar", [override])) != fingerprint(load_settings("solar"))


def test_the_fingerprint_is_stable_over_a_round_trip(tmp_path: Path) -> None:
    settings = load_settings("solar", ["target.options.a=[1, {b: 2}]"])
    again = type(settings).model_validate(settings.to_json())
    assert again == settings
    assert fingerprint(again) == fingerprint(settings)


@pytest.mark.parametrize(
    "given",
    [
        ["dstm.balance_classes=true"],
        ["dstm.balance_classes=false"],
        ["dstm.train_on=synthetic"],
        ["dstm.train_on=synthetic", "dstm.balance_classes=false", "dstm.logit_adjustment=1"],
        ["dstm.task=segmentation", "dstm.balance_classes=false"],
    ],
)
def test_overrides_make_the_settings_again(given: list[str]) -> None:
    settings = load_settings("solar", [*given, "session.rounds=2"])
    assert load_settings("solar", overrides(settings)) == settings


def test_differences() -> None:
    old = load_settings("solar")
    new = load_settings("solar", ["session.seed=1", "target.options.a=x"])
    assert differences(old, old) == []
    assert differences(old, new) == ["session.seed: 0 -> 1", "target.options.a: None -> 'x'"]


def test_a_setting_that_a_preset_gives_twice_is_refused(tmp_path: Path) -> None:
    preset = tmp_path / "twice.yaml"
    preset.write_text("pretrain: {steps: 5}\nbrain: policy:count\npretrain: {patch: 2}\n")
    with pytest.raises(SettingsError, match=r"twice.yaml.*line 3.*'pretrain' is given twice"):
        load_settings(str(preset), (), {})


def test_what_is_gone_is_read_from_stored_settings() -> None:
    stored = {
        "preset": "solar",
        "feedback": {"trial": 12, "embedding": "dstm+mtdm", "n_min": 5},
        "dstm": {"rare_pixels": 0.5},
    }
    feedback = read_stored(stored).feedback
    assert (feedback.n_min, feedback.embedding) == (5, "dstm")
    with pytest.raises(SettingsError, match=r"feedback\.trial"):
        load_settings("solar", ["feedback.trial=12"])


@pytest.mark.parametrize("key", ["session.rounds", "dstm.steps", "audit.threshold"])
@pytest.mark.parametrize("text", ["yes", "true", "on", "1:30", "1:30.5"])
def test_a_number_is_no_word_and_no_time(key: str, text: str) -> None:
    with pytest.raises(
        SettingsError, match=rf"{key} cannot be .* should be a (valid )?(integer|number)"
    ):
        load_settings("solar", [f"{key}={text}"])


def test_a_number_with_a_leading_zero_is_decimal() -> None:
    assert load_settings("solar", ["session.rounds=012"]).session.rounds == 12
    assert load_settings("solar", ["session.seed=0x10"]).session.seed == 16
