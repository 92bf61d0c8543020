from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_figures


def report(tmp_path: Path) -> gpu_figures.Report:
    return gpu_figures.Report(tmp_path / "rows.json", tmp_path, "cpu", dry_run=True)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", [name for name in gpu.FIGURES if name != "tests"])
def test_a_figure_runs_on_a_processor_in_tiny_sizes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A compiler's tracing alone takes seconds.
    monkeypatch.setattr(gpu_figures.Report, "compile", lambda self, module: None)
    made = report(tmp_path)
    getattr(gpu_figures, name)(made)
    assert made.rows
    assert json.loads((tmp_path / "rows.json").read_bytes())["rows"] == made.rows
    for row in made.rows:
        assert "failed" not in row, row
        assert "skipped" in row or [v for v in row.values() if isinstance(v, float) and v > 0]
    if name == "batches":
        assert all(row["largest difference of a pixel in batches of 1"] <= 1 for row in made.rows)


def test_a_row_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    made = report(tmp_path)
    made.add("first", lambda: {"images/s": 2.0})
    made.add("second", lambda: {"images/s": 1 / 0})
    made.add("third", lambda: {"images/s": 3.0})
    rows = json.loads((tmp_path / "rows.json").read_bytes())["rows"]
    assert [row.get("images/s") for row in rows] == [2.0, None, 3.0]
    assert rows[1]["failed"].startswith("ZeroDivisionError")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("pass", "done"),
        ("import not_there", "skipped: ModuleNotFoundError: No module named 'not_there'"),
        ("raise MemoryError('all of it')", "failed: MemoryError: all of it"),
        # With a process of its own, which would hold the GPU.
        (
            "import subprocess, sys; subprocess.run([sys.executable, '-c', "
            "'import time; time.sleep(60)'])",
            "out of time after 1 s",
        ),
    ],
)
def test_a_figure_ends_within_its_time_box(code: str, status: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    log = tmp_path / "log"
    assert (
        gpu.within([sys.executable, "-S", "-c", code], log, 1 if "time" in code else 30) == status
    )
    assert time.monotonic() - begun < 20


def test_results_are_kept_after_each_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes: list[float] = []

    def within(command: list[str], log: Path, box_s: float) -> str:
        name = command[command.index("--figure") + 1]
        boxes.append(box_s)
        if boxes[1:]:
            assert "## mtdm" in (tmp_path / "gpu.md").read_text("utf-8")
            return "failed: out of memory"
        rows = [{"measured": "solar", "images/s": 512.5}, {"measured": "streets", "failed": "no"}]
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": rows}), "utf-8")
        return "done"

    monkeypatch.setattr(gpu, "within", within)
    only = ["--only", "mtdm", "tests", "--commit", "abc1234"]
    gpu.main(["--dry-run", "--minutes", "7", "--output", str(tmp_path), *only])
    # 20 parts of 35, then all that is left.
    assert boxes == pytest.approx([240, 420], abs=15)
    results = json.loads((tmp_path / "gpu.json").read_bytes())
    assert results["commit"] == "abc1234"
    assert results["versions"]["torch"]
    assert [one["status"] for one in results["figures"].values()] == [
        "done",
        "failed: out of memory",
    ]
    table = (tmp_path / "gpu.md").read_text("utf-8")
    assert "| measured | images/s | failed |" in table
    assert "| solar | 512 |  |" in table


def test_without_a_gpu_there_is_only_a_dry_run(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit):
        gpu.main(["--output", str(tmp_path)])


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    gpu.main(["--dry-run", "--minutes", "20", "--output", str(tmp_path)])
    results = json.loads((tmp_path / "gpu.json").read_bytes())["figures"]
    assert {name: one["status"] for name, one in results.items()} == dict.fromkeys(
        gpu.FIGURES, "done"
    )
    assert results["tests"]["rows"][0]["exit status"] == 0
