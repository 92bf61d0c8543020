"""`--target NAME:PATH`: settings that a user's own data decide, and a session over them."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from agent.autonomous.runner import run
from agent.cli.app import app
from agent.config.settings import load_settings
from agent.loop.components import Components
from agent.loop.user_dataset import N_FOLDS, user_settings
from memory.errors import WeightsError
from memory.journal import read_events, rounds
from tests.tools.targets.own_data import class_folders, scenes
from tools.targets import leakage

runner = CliRunner()


def test_class_folders_decide_task_slices_and_weights(tmp_path: Path) -> None:
    class_folders(tmp_path / "my birds")
    target = f"folder:{tmp_path / 'my birds'}"
    home = f"home={tmp_path / 'home'}"
    settings = user_settings(target, [home, "dstm.steps=7"], {}, needs_weights=False)
    assert (settings.preset, settings.target.name) == ("own", "folder")
    assert settings.target.options == {"path": str(tmp_path / "my birds")}
    assert (settings.dstm.task, settings.dstm.steps) == ("classification", 7)
    # 24 photographs leave five for feedback alone.
    assert (settings.feedback.folds, settings.audit.method) == (N_FOLDS, "none")
    single = user_settings(target, [home, "feedback.folds=null"], {}, needs_weights=False)
    assert (single.feedback.folds, single.audit.method) == (None, "classifier")
    assert ("brightness",) in settings.feedback.slices
    assert ("class", "brightness") in settings.feedback.slices
    weights = Path(settings.generator.weights)
    assert weights.parent.parent == tmp_path / "home" / "pretrain"
    assert weights.parent.name.startswith("my-birds-")
    chosen = user_settings(target, [home, "feedback.slices=[[class]]"], {}, needs_weights=False)
    assert chosen.feedback.slices == (("class",),)


def test_masks_decide_for_segmentation_and_no_audit(tmp_path: Path) -> None:
    target = f"folder:{scenes(tmp_path / 'scenes')}"
    settings = user_settings(target, [f"home={tmp_path / 'home'}"], {}, needs_weights=False)
    assert (settings.dstm.task, settings.dstm.model) == ("segmentation", "unet")
    assert settings.audit.method == "none"
    assert ("car",) in settings.feedback.slices


def test_a_dry_run_leaves_no_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    words = ["run", "--target", f"folder:{class_folders(tmp_path / 'birds')}", "--dry-run"]
    result = runner.invoke(app, [*words, "--home", str(home)])
    assert result.exit_code == 0, result.output
    assert "36 photographs" in result.stdout
    assert "shaping pretrain --target" in result.stdout
    assert not result.stderr
    written = [path for path in home.rglob("*") if path.is_file()]
    assert all(path.name.endswith("-notes.txt") for path in written)
    kept = home / "mine"
    kept.mkdir(parents=True)
    runner.invoke(app, [*words, "--home", str(home)])
    assert kept.is_dir()


def test_without_weights_it_says_to_pretrain_first(tmp_path: Path) -> None:
    target = f"folder:{class_folders(tmp_path / 'birds')}"
    home = ["--home", str(tmp_path / "home")]
    result = runner.invoke(app, ["run", "--target", target, *home])
    assert result.exit_code == 2
    assert f"shaping pretrain --target {target}" in result.stderr
    assert "36 photographs, 3 classes, read at 64x64" in result.stderr
    with pytest.raises(WeightsError, match="There is no MTDM for"):
        user_settings(target, [f"home={tmp_path}"], {}, needs_weights=True)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("foldr:x", "Unknown target 'foldr'. Did you mean 'folder'?"),
        ("folder", "has no path. Expected one of camvid:PATH, folder:PATH, hf:PATH"),
        ("elpv:x", "elpv, streets"),
        ("folder:/no/such", "There is no folder /no/such"),
    ],
)
def test_a_wrong_target_is_explained(tmp_path: Path, target: str, words: str) -> None:
    result = runner.invoke(app, ["run", "--target", target, "--home", str(tmp_path / "home")])
    assert result.exit_code == 2
    assert words in result.stderr


def test_auto_slices_are_a_setting() -> None:
    assert load_settings("solar", ["feedback.slices=auto"]).feedback.slices == ()


def test_a_session_over_class_folders(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds", n=24)
    (root / "attributes.csv").write_text(
        "file,ring\n"
        + "".join(f"img {c}-{i:02d}.png,{'red' if i % 4 == 1 else 'blue'}\n" for c in range(3)
                  for i in range(1, 24, 2)),
        "utf-8",
    )  # fmt: skip
    overrides = [
        f"home={tmp_path / 'home'}",
        "generator.name=toy",
        "session.rounds=1",
        "session.images_per_round=16",
        "dstm.steps=5",
        "dstm.batch_size=8",
        "audit.train.steps=5",
        "audit.train.batch_size=8",
        "device=cpu",
    ]
    settings = user_settings(f"folder:{root}", overrides, {}, needs_weights=True)
    page = run(settings, Console(quiet=True))
    _, only = rounds(read_events(page.parent / "journal.jsonl"))
    assert only.batch and only.report
    assert {s.key for s in only.report.slices} >= {"class=red-kite", "class=élan-vital"}
    html = page.read_text("utf-8")
    assert "Your own data birds-" in html
    assert "Élan vital" in html
    # What may be passed on says where the data come from, and nothing of this machine.
    for card in (page.parent / "dataset" / "README.md", page.parent / "best" / "README.md"):
        text = card.read_text("utf-8")
        assert "The photographs are the user's own" in text
        assert "pictures that attributes.csv does not name" not in text
        assert str(tmp_path) not in text
        assert text.count("| class | images |") <= 1


def test_data_and_a_preset_are_not_taken_for_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_folders(tmp_path / "my birds")
    monkeypatch.chdir(tmp_path)
    for arguments, words in (
        (["run", "solar", "--target", "folder:my birds"], "preset 'solar' would not be used"),
        (["run", "folder:my birds"], "--target 'folder:my birds'"),
        (["run", "my birds"], "is a folder, no preset"),
        (["run", "--target", "my birds"], "--target 'folder:my birds'"),
        (["generate", "a bird", "--preset", "solar", "--target", "folder:my birds"], "'solar'"),
    ):
        result = runner.invoke(app, arguments)
        assert (result.exit_code, words in result.stderr) == (2, True), result.output


def test_the_command_that_pretrains_can_be_copied(tmp_path: Path) -> None:
    root = scenes(tmp_path / "two words")
    home = tmp_path / "a home"
    options = ["--set", "target.options.size=48x32", "--set", "dstm.steps=3", "--home", str(home)]
    result = runner.invoke(app, ["run", "--target", f"folder:{root}", *options])
    command = (
        f"shaping pretrain --target 'folder:{root}' --set target.options.size=48x32 "
        f"--home '{home}'\n"
    )
    assert command in result.stderr
    assert "minutes on two CPU cores for photographs of 48x32" in result.stderr


def test_an_mtdm_does_not_draw_for_photographs_that_it_has_seen(tmp_path: Path) -> None:
    target = f"folder:{class_folders(tmp_path / 'birds')}"
    home = f"home={tmp_path / 'home'}"
    settings = user_settings(target, [home], {}, needs_weights=False)
    weights = Path(settings.generator.weights)
    weights.mkdir(parents=True)
    (weights / "model_index.json").write_text("{}", "utf-8")
    leakage.record(weights.parent, Components(settings).target)
    assert user_settings(target, [home], {}, needs_weights=True) == settings
    with pytest.raises(WeightsError, match=r"trained on .* that now lie in other splits"):
        user_settings(target, [home, "target.options.seed=1"], {}, needs_weights=True)


def test_words_that_an_mtdm_has_not_learnt_are_named_with_what_to_do(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    target = f"folder:{root}"
    home = tmp_path / "home"
    settings = user_settings(target, [f"home={home}"], {}, needs_weights=False)
    folder = Path(settings.generator.weights).parent
    (folder / "pipeline").mkdir(parents=True)
    (folder / "pipeline" / "model_index.json").write_text("{}", "utf-8")
    (folder / "train.json").write_text('{"step": 500}', "utf-8")
    leakage.record(folder, Components(settings).target)
    names = [file.relative_to(root) for file in sorted(root.rglob("img *"))]
    lines = ["file,ringed", *(f"{n},{('yes', 'no')[i % 2]}" for i, n in enumerate(names))]
    (root / "attributes.csv").write_text("\n".join(lines), "utf-8")
    warnings: list[str] = []
    user_settings(target, [f"home={home}"], {}, needs_weights=True, warn=warnings.append)
    assert "its training: ringed=no, ringed=yes. To train it further" in warnings[0]
    assert "--set pretrain.steps=3750" in warnings[0]
    command = ["pretrain", "--target", target, "--home", str(home), "--steps", "500"]
    result = runner.invoke(app, command)
    assert result.exit_code == 2
    assert "--steps above 500, e.g. --steps 1000" in result.stderr
