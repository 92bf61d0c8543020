from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from agent import doctor


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
    found = doctor.checks(tmp_path / "not" / "there")
    assert all(check.fix for check in found if not check.ok)
    names = {check.name: check for check in found}
    assert names["text encoder"].ok
    assert names["photographs"].ok
    assert names["free disk"].ok
    assert names["device"].detail.startswith(("cpu: ", "cuda: "))
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
