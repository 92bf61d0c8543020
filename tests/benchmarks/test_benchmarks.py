from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from benchmarks import credit, delivery, stages, synthetic_share, value
from benchmarks.harness import Benchmark, options
from memory.errors import SettingsError
from tests.agent.quick import TOY

DOC = """What is measured.

    python -m benchmarks.toy
"""


def benchmark(tmp_path: Path, *arguments: str) -> Benchmark:
    parser = options(DOC, seeds=2)
    parser.add_argument("--images", type=int, default=4)
    home = ["--set", "target.name=toy", "--set", f"home={tmp_path}"]
    output = ["--output", str(tmp_path / "figures.csv")]
    return Benchmark(parser.parse_args([*home, *output, *arguments]))


def test_seeds_are_resumed_and_other_options_refused(tmp_path: Path) -> None:
    computed: list[int] = []

    def figures(seed: int) -> dict[str, dict[str, float]]:
        computed.append(seed)
        return {"arm": {"score": seed / 2}}

    assert benchmark(tmp_path).seeds(figures) == [{"arm": {"score": n / 2}} for n in range(2)]
    bench = benchmark(tmp_path, "--seeds", "3")
    seeds = bench.seeds(figures)
    assert computed == [0, 1, 2]
    bench.means(["arm", "figure"], seeds)
    with (tmp_path / "figures.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["arm"], row["figure"], row["mean"]) == ("arm", "score", "0.500")
    assert row["per seed"] == "0.000 0.500 1.000"
    assert all(row[name] for name in ("command", "commit", "machine"))
    for other in (["--images", "5"], ["--set", "dstm.steps=7"]):
        with pytest.raises(SettingsError, match=r"figures\.json"):
            benchmark(tmp_path, *other).seeds(figures)


def test_delivery_runs_a_session_for_each_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "delivery.csv"
    words = ["delivery.py", "--seeds", "2", "--output", str(output)]
    keys = (*TOY, f"home={tmp_path}", "dstm.train_on=real+synthetic", "session.rounds=1")
    monkeypatch.setattr(sys, "argv", [*words, *(word for key in keys for word in ("--set", key))])
    delivery.main()
    rows = list(csv.DictReader(output.read_text("utf-8").splitlines()))
    assert [row["seed"] for row in rows] == ["0", "1", "mean"]
    for row in rows[:2]:
        change = [float(row[key]) for key in ("low", "delivered minus round 0", "high")]
        assert change == sorted(change) and (row["delivered round"] != "0" or not any(change))


def test_value_compares_real_with_drawn_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "value.csv"
    words = ["value.py", "--seeds", "1", "--images", "8", "--output", str(output)]
    changes = [word for key in (*TOY, f"home={tmp_path}") for word in ("--set", key)]
    monkeypatch.setattr(sys, "argv", [*words, *changes])
    value.main()
    rows = list(csv.DictReader(output.read_text("utf-8").splitlines()))
    assert [row["trained on"] for row in rows[:4]] == list(value.ARMS)
    assert all(0 <= float(row["on test"]) <= 1 for row in rows[:4])


def test_models_are_measured_again_with_statistics_of_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "share.csv"
    words = ["synthetic_share.py", "--seeds", "2", "--images", "8", "--shares", "0,0.5"]
    words += ["--refresh", "--set", "audit.method=none", "--output", str(output)]
    changes = [word for key in (*TOY, f"home={tmp_path}") for word in ("--set", key)]
    monkeypatch.setattr(sys, "argv", [*words, *changes])
    synthetic_share.main()
    rows = list(csv.DictReader(output.read_text("utf-8").splitlines()))
    means = {(row["share"], row["figure on feedback"]): float(row["mean"]) for row in rows}
    assert len(rows) == len(means) == 8
    for row in rows:
        plain, _, again = row["figure on feedback"].partition(", ")
        base = means[row["share"] if again else "0", plain]
        change = float(row["mean"]) - base
        assert float(row["difference"]) == pytest.approx(change, abs=0.0021)
        assert (row["minus that of"] == "not refreshed") == bool(again)
    assert means["0.5", "main"] != means["0.5", "main, refreshed"]


def test_a_benchmark_names_its_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["credit.py", "--help"])
    with pytest.raises(SystemExit):
        credit.main()
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("--learner", "--cases", "--preset", "--output"))


def test_stages_add_up_to_all_of_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "stages.csv"
    words = ["stages.py", "--rounds", "1", "--images", "16", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [*words, *(w for key in TOY for w in ("--set", key))])
    stages.main()
    rows = {row["stage"]: row for row in csv.DictReader(output.read_text("utf-8").splitlines())}
    assert {"start", "train audit", "generate", "train", "report", "rest"} < rows.keys()
    seconds = [float(row["processor_s"]) for row in rows.values()]
    assert sum(seconds[:-1]) == pytest.approx(seconds[-1], abs=0.01)
