from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file
from typer.testing import CliRunner

from agent.cli import doctor
from agent.cli.app import app
from agent.config.settings import load_settings
from tools.models.processor import usable_cores

if TYPE_CHECKING:
    from tests.agent.fake_llm import FakeLLM

RIGHT = {"tool": "pick_slice", "arguments": {"slice": "dark"}}


def pipeline_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "toy"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "unet" / "config.json").write_text("{}")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({"w": np.zeros((512, 1024), np.float16)}, weights)
    return folder


def test_an_installed_package_has_its_version() -> None:
    assert doctor.package("torch").ok
    assert doctor.package("torch").detail.startswith("2.13.0")


def test_a_missing_package_has_the_command_that_adds_it() -> None:
    required = doctor.package("no-such-package")
    assert (required.ok, required.required) == (False, True)
    assert required.fix == "pip install no-such-package"
    optional = doctor.package("no-such-package", "a purpose")
    assert (optional.ok, optional.required) == (False, False)
    assert optional.detail == "not installed, needed for a purpose"


def test_all_that_is_missing_has_a_fix(tmp_path: Path) -> None:
    checks = doctor.checks(tmp_path / "not" / "there")
    assert all(check.fix for check in checks if not check.ok)
    names = {check.name: check for check in checks}
    assert names["text encoder"].ok
    assert names["photographs"].ok
    assert names["free disk"].ok
    assert names["device"].detail.startswith(("cpu: ", "cuda: "))
    if names["device"].detail.startswith("cpu: "):
        assert f"{usable_cores()} of {os.cpu_count()} cores" in names["device"].detail
        assert "waiting" in names["device"].detail or "OMP_WAIT_POLICY" in names["device"].detail
    assert not (tmp_path / "not").exists()


def test_a_whole_pipeline(tmp_path: Path) -> None:
    check = doctor.pipeline(pipeline_folder(tmp_path))
    assert (check.ok, check.name, check.detail) == (True, "MTDM toy", "1.0 MiB")


def test_a_pipeline_that_lacks_files(tmp_path: Path) -> None:
    folder = pipeline_folder(tmp_path)
    (folder / "model_index.json").unlink()
    check = doctor.pipeline(folder)
    assert (check.ok, check.required, check.fix) == (False, True, doctor.REINSTALL)
    assert check.detail == f"{folder} lacks model_index.json"


def test_a_damaged_pipeline(tmp_path: Path) -> None:
    folder = pipeline_folder(tmp_path)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    check = doctor.pipeline(folder)
    assert not check.ok
    assert "is damaged" in check.detail


def test_a_home_that_is_a_file(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("")
    check = doctor.free_disk(home)
    assert (check.ok, check.required) == (False, True)
    assert "--home" in check.fix


def of_brain(spec: str, *overrides: str) -> dict[str, doctor.Check]:
    quick = ["llm.pause_s=0", "llm.tries=1", f"brain={spec}"]
    checks = doctor.brain(load_settings("solar", [*quick, *overrides], {}))
    return {check.name: check for check in checks}


def test_a_brain_that_calls_tools(fake_llm: FakeLLM) -> None:
    fake_llm.answers += [RIGHT, RIGHT]
    checks = of_brain("openai:tiny")
    assert all(check.ok and not check.fix for check in checks.values())
    assert checks["brain openai:tiny"].detail.startswith("first answer in 0.")
    assert checks["brain openai:tiny"].detail.endswith(" tokens/s")
    assert checks["way of calling tools"].detail == "native, as found"


def test_a_brain_that_needs_json_actions(fake_llm: FakeLLM) -> None:
    refusal = {"status": 400, "error": "tiny does not support tools"}
    fake_llm.answers += [refusal, RIGHT]
    checks = of_brain("ollama:tiny")
    assert not checks["native tool calls"].ok
    assert "does not support tools" in checks["native tool calls"].detail
    assert all(check.ok for check in checks.values() if check.required)
    assert checks["way of calling tools"].detail == "json, as found"
    fake_llm.answers += [refusal, RIGHT]
    way = of_brain("ollama:tiny", "llm.mode=native")["way of calling tools"]
    assert (way.ok, way.required, way.detail) == (False, True, "native, as set by llm.mode")
    assert way.fix == "Set llm.mode=auto or llm.mode=json."


def test_a_brain_that_cannot_be_used(fake_llm: FakeLLM) -> None:
    fake_llm.answers += [{"status": 404, "error": "model 'tiny' not found"}]
    (check,) = of_brain("ollama:tiny").values()
    assert (check.ok, check.required) == (False, True)
    assert "`ollama pull tiny`" in check.detail
    assert check.fix


def test_a_brain_without_a_model() -> None:
    (check,) = of_brain("policy:uniform").values()
    assert (check.ok, check.detail) == (True, "decides without a model")


def test_the_command_asks_a_brain(fake_llm: FakeLLM, tmp_path: Path) -> None:
    fake_llm.answers += [RIGHT, RIGHT]
    home = ["--home", str(tmp_path)]
    result = CliRunner().invoke(app, ["doctor", "--brain", "openai:tiny", *home])
    assert "brain openai:tiny" in result.stdout
    assert fake_llm.key not in result.output
    fake_llm.answers += [{"text": "no"}] * 2
    result = CliRunner().invoke(app, ["doctor", "--brain", "openai:tiny", *home])
    assert result.exit_code == 1
    assert "MISSING" in result.stdout


def test_the_command_explains_an_unknown_brain(tmp_path: Path) -> None:
    arguments = ["doctor", "--brain", "openay:tiny", "--home", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "Did you mean openai:tiny" in result.stderr
