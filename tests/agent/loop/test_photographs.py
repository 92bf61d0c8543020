"""The DSTM of a session learns from photographs and generated images together."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from agent.autonomous.runner import run
from agent.autonomous.thumbnails import START, show_start
from agent.config.settings import load_settings
from agent.config.stored import read_stored
from agent.experiments.rerun import rerun
from agent.loop.components import Components
from agent.loop.live_effects import LiveEffects
from agent.loop.observer import Observer
from agent.loop.photographs import photographs_to_pull_toward
from agent.loop.synthetic_share import CANDIDATES, best_share
from agent.replay.verify import verify
from agent.session.folder import folder_of, open_session, stored_settings
from memory.errors import SettingsError
from memory.journal import read_events, rounds
from memory.records import ShareScore
from tests.agent.quick import toy_settings
from tools.data.samples import Samples
from tools.data.stored_images import contents
from tools.targets.toy import SIZES, Toy

BOTH = "dstm.train_on=real+synthetic"
BARE = "target.name=tests.agent.loop.test_photographs:bare"
N_PHOTOGRAPHS = SIZES["generator"] + SIZES["audit"]
RECORDED = Path(__file__).parents[2] / "data" / "sessions"


class Bare(Toy):
    """Photographs to measure by, and none to learn from."""

    name = "bare"

    def split(self, name: str) -> Samples:
        """Return one of the four splits, two of them empty."""
        samples = super().split(name)
        return samples.take(()) if name in ("generator", "audit") else samples


def test_a_session_shows_photographs_that_it_starts_from(tmp_path: Path) -> None:
    with open_session(toy_settings(tmp_path, "dstm.real_images=12"), "seen") as session:
        components = Components.of_session(session, Observer())
        path = show_start(components)
        assert path == session.folder / START
        with Image.open(path) as picture:
            # Two rows of eight tiles of 128 pixels.
            assert picture.width // 128 == 8 and picture.height // 128 == 2
        assert show_start(components) is None
    with open_session(toy_settings(tmp_path, BARE), "bare") as session:
        assert show_start(Components.of_session(session, Observer())) is None


def bare(cache_dir: Path) -> Bare:
    """Build the target; nothing is cached."""
    return Bare()


class Warned(Observer):
    """Collects warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        """Keep a warning."""
        self.warnings.append(text)


def test_a_session_trains_on_both_and_holds_no_photograph(tmp_path: Path) -> None:
    changes = ["dstm.real_images=50", "dstm.synthetic_share=auto", "session.name=both"]
    settings = toy_settings(tmp_path, BOTH, *changes)
    run(settings, Console(quiet=True))
    folder = folder_of(tmp_path, "both")
    past = rounds(read_events(folder / "journal.jsonl"))
    zero, one, two = (current.training for current in past if current.training)
    sizes = [(t.n_images, t.n_real) for t in (zero, one, two)]
    assert sizes == [(0, 50), (16, 50), (32, 50)]
    assert all(t.effective_size and t.effective_size <= t.n_images + 50 for t in (zero, one, two))
    # The share is chosen on feedback in round 1.
    assert zero.synthetic_share is None and not zero.shares and not two.shares
    assert [tried.share for tried in one.shares] == list(CANDIDATES)
    assert one.synthetic_share == two.synthetic_share == best_share(one.shares)
    assert all(result.same for result in rerun(folder, tmp_path, ["train"]))
    assert not verify(folder / "journal.jsonl").findings
    ids = {name for path in folder.rglob("*.parquet") for name in contents(path).ids}
    assert ids and not any(name.startswith(("generator", "audit")) for name in ids)


def test_round_0_is_trained_on_photographs_alone(tmp_path: Path) -> None:
    for train_on in ("real+synthetic", "real"):
        settings = toy_settings(tmp_path, f"dstm.train_on={train_on}")
        with open_session(settings, train_on.replace("+", "-")) as session:
            training = LiveEffects(Components.of_session(session, Observer())).train(0)
            assert (training.n_images, training.n_real) == (0, N_PHOTOGRAPHS)
            assert (session.folder / "rounds/000/model.json").exists()


def test_of_equal_shares_the_smallest_is_kept() -> None:
    scores = [ShareScore(share=s, score=v) for s, v in ((0.6, 0.7), (0.3, 0.7), (0.1, 0.6))]
    assert best_share(scores) == 0.3


def test_the_seed_chooses_the_photographs(tmp_path: Path) -> None:
    def ids(seed: int) -> set[str]:
        settings = toy_settings(tmp_path, BOTH, "dstm.real_images=20", f"session.seed={seed}")
        return {name for path in Components(settings).real_shards for name in contents(path).ids}

    assert len(ids(0)) == 20 and ids(0) == ids(0) != ids(1)
    assert not any(name.startswith(("feedback", "test")) for name in ids(0) | ids(1))


def test_images_are_pulled_toward_training_photographs_alone(tmp_path: Path) -> None:
    def goals(*overrides: str) -> tuple[Components, set[str], bool]:
        components = Components(toy_settings(tmp_path, *overrides))
        photographs, learnt = photographs_to_pull_toward(components)
        return components, {*photographs.ids}, learnt

    for overrides in (("dstm.train_on=synthetic",), (BOTH,), (BOTH, "dstm.real_images=20")):
        components, ids, learnt = goals(*overrides)
        assert not ids & {*components.target.split("feedback").ids}
        assert not ids & {*components.target.split("test").ids}
        assert learnt == (overrides == (BOTH,))
    known = {name for path in components.real_shards for name in contents(path).ids}
    assert ids and not ids & known


def test_a_target_without_photographs_is_said_once(tmp_path: Path) -> None:
    observer = Warned()
    components = Components(toy_settings(tmp_path, BOTH, BARE), observer)
    shards = [tmp_path / "data-000.parquet"]
    assert [components.learnt_from(shards) for _ in range(2)] == [(shards, [])] * 2
    (warning,) = observer.warnings
    assert "'bare' has no photographs" in warning
    with pytest.raises(SettingsError, match=r"train_on=synthetic"):
        Components(toy_settings(tmp_path, "dstm.train_on=real", BARE), observer).learnt_from(shards)


def test_settings_of_before_mean_what_they_meant(tmp_path: Path) -> None:
    (tmp_path / "sessions").symlink_to(RECORDED)
    for name in ("old-policy", "old-steered", "old-llm"):
        before = stored_settings(tmp_path, name).dstm
        assert (before.train_on, before.min_class_weight) == ("synthetic", 0)
        assert (before.balance_classes, before.logit_adjustment) == (True, 0)
    now = load_settings("solar").model_dump(mode="json")
    assert read_stored(now).dstm.train_on == "real+synthetic"


def test_logit_adjustment_excludes_balanced_drawing() -> None:
    with pytest.raises(SettingsError, match=r"logit_adjustment=1 excludes balance_classes=true"):
        load_settings("solar", ["dstm.logit_adjustment=1", "dstm.balance_classes=true"])
    adjusted = ["dstm.logit_adjustment=1", "dstm.balance_classes=false"]
    assert load_settings("solar", adjusted).dstm.logit_adjustment == 1
    with pytest.raises(SettingsError, match=r"excludes task=segmentation"):
        load_settings("camvid", adjusted)
