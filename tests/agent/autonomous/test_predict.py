"""The program of `best/` where pixels are labelled."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from tools import tasks
from tools.models.dstm_file import save_model
from tools.settings import TrainSettings


def test_labels_are_written_where_asked_and_one_failure_stops_no_other(tmp_path: Path) -> None:
    best, photographs = tmp_path / "best", tmp_path / "photographs"
    model = tasks.build("segmentation").build_model((3, 32, 48), 2, TrainSettings(model="unet"))
    save_model(best, model, {"task": "segmentation", "image_shape": [3, 32, 48]})
    program = resources.files("agent.autonomous").joinpath("predict.py.txt")
    (best / "predict.py").write_bytes(program.read_bytes())
    photographs.mkdir()
    for name in ("a.png", "a.jpg", "b.png"):
        Image.new("RGB", (96, 64), (200, 30, 30)).save(photographs / name)
    (photographs / "a.jpg.segmentation.npy").mkdir()

    def predict(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(best / "predict.py"), *options]
        command += map(str, sorted(photographs.glob("?.???")))
        return subprocess.run(command, capture_output=True, text=True, check=False)

    beside = predict()
    assert beside.returncode == 1 and "Traceback" not in beside.stderr
    assert "a.jpg" in beside.stderr and "-o" in beside.stderr
    assert np.load(photographs / "b.png.segmentation.npy").shape == (32, 48)
    assert predict("-o", str(tmp_path / "out")).returncode == 0
    assert len(list((tmp_path / "out").iterdir())) == 3
