from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from agent.cli.app import app
from agent.config.settings import Settings, load_settings
from agent.experiments.arm_sessions import ArmPlanner, shuffled
from agent.experiments.arms import Arms, read_arm
from agent.experiments.compare import ArmRound, Experiment, _slug, openings, run_in_processes
from agent.experiments.image_cache import ImageCache, broken_cells
from agent.loop.components import Components
from agent.planners import AttributeCombination, AttributeDistribution, Observation
from eval.report.compare import Openings
from memory.errors import SettingsError, ShapingError
from memory.files import write_json
from memory.records import Plan, PromptSpec, Round
from tests.agent.quick import TOY, toy_settings
from tests.factories import report, slice_score
from tools.data.samples import Samples
from tools.data.stored_images import StoredImages
from tools.diffusion.weights import new_pipeline

ARMS = Arms(
    planners=("uniform", "failure:floor=0.5"), controls=("oversample", "shuffled", "oracle")
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return toy_settings(tmp_path / "home")


def prompt(severity: str, count: int, **attributes: str) -> PromptSpec:
    defective = severity in ("probable", "defective")
    return PromptSpec(
        id=f"p-{severity}",
        text="not read by the pool",
        class_name="defective" if defective else "functional",
        attributes={"wafer": "mono", "severity": severity, **attributes},
        count=count,
    )


def everything(images: StoredImages) -> Samples:
    return images.take(range(len(images)))


@pytest.fixture
def components(settings: Settings) -> Components:
    audit = settings.audit.model_copy(update={"method": "none"})
    return Components(settings.model_copy(update={"audit": audit}))


def test_arms_draw_the_same_images_of_a_cell_and_none_twice(
    components: Components, tmp_path: Path
) -> None:
    pool = ImageCache(components, tmp_path, 0, [])
    first, second = Counter[str](), Counter[str]()
    one = everything(pool.take([prompt("defective", 3)], first))
    more = everything(pool.take([prompt("defective", 3)], first))
    assert len({*one.ids, *more.ids}) == 6
    both = pool.take([prompt("functional", 1), prompt("defective", 6)], second)
    again = everything(both).take(range(1, 7))
    assert [*one.ids, *more.ids] == list(again.ids)
    assert (np.concatenate([one.images, more.images]) == again.images).all()
    files = sorted(path.name for path in tmp_path.iterdir())
    # From the disk, too.
    stored = ImageCache(components, tmp_path, 0, []).take([prompt("defective", 6)], Counter())
    other = everything(stored)
    assert (other.images == again.images).all()
    assert files == sorted(path.name for path in tmp_path.iterdir())


def test_a_broken_cell_draws_another_class_under_the_same_label(
    components: Components, tmp_path: Path
) -> None:
    def dark(samples_of: list[dict[str, str]]) -> float:
        pool = ImageCache(components, tmp_path / str(len(samples_of)), 0, samples_of)
        drawn = everything(pool.take([prompt("functional", 24, dark_area="none")], Counter()))
        assert set(drawn.classes) == {0}
        assert all(a["severity"] == "functional" for a in drawn.attributes)
        return float(np.mean([(image < 60).any() for image in drawn.images]))

    assert dark([]) < 0.2 < dark([{"wafer": "mono", "severity": "functional"}])


def test_a_broken_cell_of_streets_has_the_labels_of_another_scene(tmp_path: Path) -> None:
    small = ('target.options={"sizes": {"generator": 30}}', "audit.method=none")
    components = Components(load_settings("streets-seg", [*small, f"home={tmp_path}"], {}))
    asked = PromptSpec(
        id="p",
        text="not read by the pool",
        class_name="scene",
        attributes={"light": "night", "weather": "clear"},
        count=4,
    )
    sound, broken = (
        everything(ImageCache(components, tmp_path / name, 0, cells).take([asked], Counter()))
        for name, cells in (("sound", []), ("broken", [{"light": "night"}]))
    )
    assert (sound.images == broken.images).all()
    agreeing = sound.labels["segmentation"] == broken.labels["segmentation"]
    assert 0.05 < agreeing.mean() < 0.9


def test_broken_cells_are_a_seeded_share_of_the_first_crossing() -> None:
    rows = tuple(
        AttributeCombination(attributes={"light": a, "weather": b}, class_name="scene", n=1)
        for a in ("day", "night")
        for b in "abcdefghij"
    )
    palette, by = AttributeDistribution(rows=rows), [("light",), ("light", "weather")]
    cells = broken_cells(palette, by, 0.15, seed=1)
    assert len(cells) == 3
    assert all(cell.keys() == {"light", "weather"} for cell in cells)
    assert cells == broken_cells(palette, by, 0.15, seed=1)
    assert cells != broken_cells(palette, by, 0.15, seed=2)
    assert broken_cells(palette, by, 0.0, seed=1) == []


def test_shuffled_feedback_keeps_the_scores_and_moves_them() -> None:
    measured = report(*(slice_score({"brightness": str(i)}, i / 20, n=20) for i in range(20)))
    moved = shuffled(Round(number=1, report=measured), seed=0).report
    assert moved is not None
    assert [s.key for s in moved.slices] == [s.key for s in measured.slices]
    values = [s.n_correct for s in moved.slices]
    assert sorted(values) == list(range(20)) != values


def test_a_comparison_ends_with_page_and_table_and_goes_on_after_a_stop(
    settings: Settings,
) -> None:
    experiment = Experiment.open(settings, "test", ARMS, 0.15)
    folder = experiment.folder

    class Stopped(Exception):
        pass

    def stop(done: int) -> None:
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        experiment.run(range(1), 1, stop)
    made = [
        *folder.glob("seed-000/models/*/*"),
        *folder.glob("seed-000/*/home/sessions/arm/rounds/*/*"),
    ]
    written = {path: path.stat().st_mtime_ns for path in made if path.suffix != ".png"}
    stopped = folder / "seed-000/uniform/round-2.json"
    expected = json.loads(stopped.read_bytes())
    stopped.unlink()
    experiment.run(range(1), 1, lambda done: None)

    assert json.loads(stopped.read_bytes()) == expected
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    assert experiment.n_done(range(1)) == 5
    scores = [entry.score for entry in experiment.entries()]
    by_arm = Counter(score.arm for score in scores)
    assert by_arm == {
        "uniform": 2,
        "failure:floor=0.5": 2,
        "oversample": 1,
        "shuffled failure:floor=0.5": 2,
        "oracle": 2,
    }
    drawn = {(s.round, s.n_images) for s in scores if s.arm != "oversample"}
    assert drawn == {(1, 16), (2, 32)}
    # The first round of both planners and of the shuffled one is one training.
    assert len([*folder.glob("seed-000/models/*/training.json")]) < 2 * 4
    firsts = [s for s in scores if s.round == 1 and s.arm != "oracle"]
    assert len({s.average for s in firsts}) == 1

    page, comparison = experiment.write_results("shaping compare")
    assert [s.arm for s in comparison.summaries] == ARMS.names()
    assert "Differences to uniform" in page.read_text("utf-8")
    assert comparison.openings == Openings(n_comparisons=1, n_measured=9)
    assert "9 measurements" in page.read_text("utf-8")
    assert len(page.with_suffix(".csv").read_text("utf-8").splitlines()) == 6
    with pytest.raises(SettingsError, match="made with other settings: --broken"):
        Experiment.open(settings, "test", ARMS)


def test_openings_of_a_test_split_are_counted_over_comparisons(tmp_path: Path) -> None:
    settings = load_settings("solar", [f"home={tmp_path}"])
    assert openings(settings) == Openings(0, 0)
    for name, target, n in (("one", settings, 3), ("two", settings, 2), ("other", None, 5)):
        folder = tmp_path / "compare" / name
        values = target.model_dump(mode="json") if target else {"target": {"name": "streets"}}
        write_json(folder / "compare.json", {"settings": values})
        for number in range(n):
            write_json(folder / "seed-000" / "uniform" / f"round-{number}.json", {})
    (tmp_path / "compare" / "empty").mkdir()
    write_json(tmp_path / "compare" / "empty" / "compare.json", {})
    assert openings(settings) == Openings(n_comparisons=2, n_measured=5)


def test_all_arms_learn_from_the_same_photographs(settings: Settings) -> None:
    options = ["dstm.train_on=real+synthetic", "dstm.real_images=40", "session.rounds=1"]
    settings = toy_settings(settings.home, *options)
    controls = ("real", "augment", "oversample", "logit_adjusted")
    arms = Arms(planners=("uniform", "count"), controls=controls)
    experiment = Experiment.open(settings, "both", arms, trainings=2)
    experiment.check(Components(settings))
    experiment.run(range(1), 1, lambda done: None)
    before, entries = (
        {e.score.arm: e for e in experiment.entries() if e.score.round == n} for n in (0, 1)
    )
    # Round 0 is one training of both planners, and the same as that of the control.
    assert set(before) == {*arms.planners} and {e.score.n_images for e in before.values()} == {0}
    scores = [e.score.average for e in (*before.values(), entries["real"])]
    assert scores == [scores[0]] * 3
    for name in arms.planners:
        trained = entries[name].round.training
        assert trained and (trained.n_images, trained.n_real) == (16, 40)
    assert all(entries[name].score.n_images == 40 for name in controls)
    # One shared training of each kind, and one more for its mean.
    assert not (experiment.folder / "seed-000/real/home").exists()
    further = [*experiment.folder.glob("seed-000/models/*/sealed-1000.json")]
    assert len(further) == len([*experiment.folder.glob("seed-000/models/*/training.json")])

    page, _ = experiment.write_results("shaping compare")
    with page.with_name("compare-slices.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows} == {"feedback", "test"}
    assert {row["arm"] for row in rows} == {*arms.names()}
    with page.with_name("compare-seeds.csv").open() as file:
        by_seed = list(csv.DictReader(file))
    assert len(by_seed) == len(experiment.entries())
    average = {r["arm"]: float(r["average"]) for r in by_seed if r["round"] == "1"}
    with page.with_name("compare-differences.csv").open() as file:
        differences = {
            (r["arm"], r["minus"]): r for r in csv.DictReader(file) if r["figure"] == "average"
        }
    assert len(differences) == len(arms.names()) * (len(arms.names()) - 1) // 2
    for (arm, other), row in differences.items():
        assert float(row["difference"]) == pytest.approx(average[arm] - average[other], abs=2e-4)
    of_real = [r for r in rows if (r["arm"], r["split"]) == ("real", "test")]
    assert sum(int(r["n"]) for r in of_real if r["slice"].count("=") == 1) >= 60
    worst = min(float(r["score"]) for r in of_real)
    # A mean over two trainings, whose worst slices may differ.
    assert entries["real"].score.worst_slice <= worst + 1e-4
    with pytest.raises(SettingsError, match="--trainings: 2 -> 1"):
        Experiment.open(settings, "both", arms)


def test_controls_are_checked_before_anything_is_drawn(settings: Settings) -> None:
    arms = Arms(planners=("uniform",), controls=("logit_adjusted",))
    dense = load_settings("streets-seg", [f"home={settings.home}"])
    with pytest.raises(SettingsError, match="'logit_adjusted' needs classes"):
        Experiment(dense, settings.home, arms).check(Components(dense))
    experiment = Experiment.open(settings, "earlier", arms)
    path = experiment.folder / "compare.json"
    stored = json.loads(path.read_bytes())
    del stored["settings"]["dstm"]["train_on"], stored["trainings"]
    path.write_text(json.dumps(stored))
    with pytest.raises(SettingsError, match="earlier version, whose controls logit_adjusted"):
        Experiment.open(settings, "earlier", arms)
    assert Experiment.open(settings, "earlier", Arms(planners=("uniform",))).trainings == 1


def test_a_brain_is_an_arm(settings: Settings) -> None:
    arms = Arms(planners=("uniform",), brains=("policy:uniform",))
    experiment = Experiment.open(settings, "brains", arms)
    experiment.run(range(1), 1, lambda done: None)
    scores = [e.score for e in experiment.entries() if e.score.arm == "policy:uniform"]
    assert [(s.round, s.n_images) for s in scores] == [(1, 16), (2, 32)]


def test_guided_arms_and_one_shot_feedback_are_held_against_the_others(
    settings: Settings, tmp_path: Path
) -> None:
    weights = tmp_path / "weights"
    new_pipeline((1, 32, 32), 4, (16, 32), 0.6, 0.2).save_pretrained(weights)
    options = ["generator.name=mtdm", f"generator.weights={weights}", "generator.steps=2"]
    settings = toy_settings(settings.home, *options)
    guided = "failure:pull=entropy 0.05"
    arms = Arms(planners=("uniform", "failure", guided, "one_shot"), controls=("one_shot",))
    experiment = Experiment.open(settings, "guided", arms)
    folder = experiment.folder
    experiment.check(Components(settings))
    experiment.run(range(1), 1, lambda done: None)

    def plan(arm: str, number: int) -> Plan:
        (path,) = folder.glob(f"seed-000/{arm}*/round-{number}.json")
        plan = ArmRound.model_validate_json(path.read_bytes()).round.plan
        assert plan
        return plan

    # The first round has no DSTM to be pulled by; later the prompts are the same but for the pull.
    assert {p.pull for p in plan("failure-pull", 1).prompts} == {None}
    assert {p.pull for p in plan("failure-pull", 2).prompts} == {"entropy 0.05"}
    assert sum(1 for _ in (folder / "seed-000/pulled").iterdir()) >= 8
    n_made = {e.score.arm: e.score.n_images for e in experiment.entries() if e.score.round == 2}
    assert n_made == dict.fromkeys(arms.names(), 32)

    _, comparison = experiment.write_results("shaping compare")
    assert [(c.arm, c.other) for c in comparison.contrasts] == arms.pairs()
    # Resumed, nothing is drawn or trained again.
    made = [p for part in ("images", "pulled", "models") for p in folder.rglob(part)]
    before = {p: p.stat().st_mtime_ns for part in made for p in part.rglob("*.*")}
    (folder / f"seed-000/{_slug(guided)}/round-2.json").unlink()
    experiment.run(range(1), 1, lambda done: None)
    after = {p: p.stat().st_mtime_ns for part in made for p in part.rglob("*.*")}
    assert before == after


def test_pairs_of_arms_are_true_against_false_and_with_against_without() -> None:
    planners = ("uniform", "a:floor=0.5", "a:floor=0.5:pull=loss 0.1", "b")
    arms = Arms(planners=planners, controls=("shuffled", "one_shot", "oracle"))
    assert arms.names()[4:] == ["shuffled a:floor=0.5", "one-shot a:floor=0.5", "oracle"]
    assert arms.pairs() == [
        ("a:floor=0.5", "shuffled a:floor=0.5"),
        ("a:floor=0.5", "one-shot a:floor=0.5"),
        ("a:floor=0.5:pull=loss 0.1", "a:floor=0.5"),
    ]
    assert Arms(planners=("uniform", "b", "one_shot")).pairs() == [("b", "one_shot")]


def test_arms_are_read_from_their_names() -> None:
    arm = read_arm("shuffled a:floor=0.5:pull=loss 0.10")
    assert (arm.planner, arm.feedback, arm.pull) == ("a:floor=0.5", "shuffled", "loss 0.1")
    plain = read_arm("my.package:build")
    assert (plain.planner, plain.feedback, plain.pull) == ("my.package:build", "true", None)
    assert read_arm("one-shot a").feedback == "first"


def test_one_shot_feedback_stays_that_of_the_first_round(components: Components) -> None:
    def past(number: int, mono: int, poly: int) -> Round:
        scores = (("mono", mono / 100), ("poly", poly / 100))
        slices = [slice_score({"wafer": name}, value) for name, value in scores]
        return Round(number=number, report=report(*slices, number=number))

    def spent(arm: str, *rounds: Round) -> Counter[str]:
        observation = Observation(round=3, n_images=100, images_per_prompt=2, seed=0, rounds=rounds)
        planner = ArmPlanner(read_arm(arm), lambda: (), [])
        vocabulary = components.target.vocabulary
        plan = planner.plan(observation, components.distribution, vocabulary)
        counts: Counter[str] = Counter()
        for prompt in plan.prompts:
            counts[prompt.attributes["wafer"]] += prompt.count
        return counts

    first, second = past(1, mono=20, poly=80), past(2, mono=90, poly=10)
    assert spent("failure", first, second) == {"mono": 10, "poly": 90}
    assert spent("one-shot failure", first, second) == {"mono": 80, "poly": 20}


@pytest.mark.parametrize(
    ("arms", "broken", "message"),
    [
        ("count:pull=loss 0.1", 0.1, "without it"),
        ("count:pull=loss 0.1", 0.0, "'toy' cannot be"),
        ("count:pull=hope 1", 0.0, "is no pull"),
    ],
)
def test_arms_that_cannot_be_guided_are_refused(
    settings: Settings, arms: str, broken: float, message: str
) -> None:
    experiment = Experiment(settings, settings.home, Arms(planners=("uniform", arms)), broken)
    with pytest.raises(SettingsError, match=message):
        experiment.check(Components(settings))


def test_a_comparison_goes_on_when_settings_have_been_added_since(settings: Settings) -> None:
    experiment = Experiment.open(settings, "old", ARMS)
    folder = experiment.folder
    path = folder / "compare.json"
    stored = json.loads(path.read_bytes())
    del stored["settings"]["feedback"]["folds"]
    stored["settings"]["feedback"]["trial"] = 12
    stored["settings"]["pretrain"]["of_an_earlier_version"] = 1
    path.write_text(json.dumps({**stored, "fingerprint": "of an earlier version"}))
    assert Experiment.open(settings, "old", ARMS) == experiment
    changed = toy_settings(settings.home, "feedback.n_min=3")
    with pytest.raises(SettingsError, match=r"feedback\.n_min: \d+ -> 3"):
        Experiment.open(changed, "old", ARMS)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (Arms(planners=("uniforn",)), "Did you mean 'uniform'"),
        (Arms(planners=("oracle",)), "oracle"),
        (Arms(planners=("uniform",), controls=("reel",)), "Did you mean 'real'"),
        (Arms(planners=("uniform",), brains=("openai:x",)), "without it"),
    ],
)
def test_wrong_arms_are_refused(arms: Arms, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        arms.check(broken=0.1)


@pytest.mark.parametrize("jobs", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_command(jobs: str, settings: Settings) -> None:
    options = [f"--set={key}" for key in TOY]
    home = ["--home", str(settings.home), "--seeds", "2", "--jobs", jobs, "--name", "x"]
    arms = ["--planners", "uniform,count", "--controls", ""]
    result = CliRunner().invoke(app, ["compare", "solar", *home, *arms, *options])
    assert result.exit_code == 0, result.output
    assert "2 arms, 2 seeds" in result.output
    page = settings.home / "compare/x/compare.html"
    assert str(settings.home) not in page.read_text("utf-8")


def test_command_refuses_an_unknown_budget(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["compare", "--budget", "tiny", "--home", str(tmp_path)])
    assert result.exit_code == 2


def test_a_killed_process_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the run sets it
    with pytest.raises(ShapingError, match="--jobs"):
        run_in_processes(1, os._exit, [9, 9], lambda: None)


_PARENT = """
import multiprocessing, os, signal, sys, time
from concurrent.futures import ProcessPoolExecutor
from agent.experiments.compare import end_with_parent

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    processes = ProcessPoolExecutor(1, context, end_with_parent)
    print(processes.submit(os.getpid).result(), flush=True)
    processes.submit(time.sleep, 120)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_no_process_outlives_a_killed_comparison(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    parent = subprocess.run([sys.executable, script], capture_output=True, timeout=120, check=False)
    assert parent.returncode == -signal.SIGKILL
    folder = Path("/proc") / parent.stdout.decode().strip()
    until = time.monotonic() + 20
    while folder.exists() and "zombie" not in (folder / "status").read_text():
        assert time.monotonic() < until
        time.sleep(0.1)
