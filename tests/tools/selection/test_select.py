from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from memory.errors import SettingsError, WeightsError
from memory.records import Batch, Plan, PromptSpec, Round, Shard, Training
from tests.factories import estimate, report
from tools import selection
from tools.data.jobs import round_folder
from tools.data.samples import Samples
from tools.data.shards import write_shard
from tools.models.criteria import Dstm
from tools.selection import Candidates
from tools.selection.ral import FEATURES, Reinforced
from tools.selection.select import STATE, select_images, variance_of_gradients
from tools.settings import SelectionSettings, TrainSettings
from tools.tasks import Model
from tools.tasks.classification import build as build_task
from tools.train_dstm import train_dstm

CLASSES = ("plain", "square")
SHORT = TrainSettings(steps=30, batch_size=16, learning_rate=0.005)


def test_entropy_and_margin_pick_what_is_uncertain_audit_what_is_trusted() -> None:
    seen = Candidates(
        audit=np.array([0.2, 1.0, 0.5]),
        entropy=np.array([0.1, 0.9, 0.4]),
        margin=np.array([0.9, 0.8, 0.1]),
    )
    picked = {name: selection.build(name).choose(seen, 1, 0)[0] for name in ("entropy", "margin")}
    assert picked == {"entropy": 1, "margin": 2}
    assert selection.build("audit").choose(seen, 2, 0).tolist() == [1, 2]


def test_core_set_picks_one_of_each_cluster_that_is_not_covered_yet() -> None:
    rng = np.random.default_rng(0)
    centres = 10 * np.eye(5)
    features = np.repeat(centres, 8, axis=0) + rng.normal(0, 0.1, (40, 5))
    seen = Candidates(audit=np.ones(40), features=features, chosen_features=centres[:1] + 0.05)
    rows = selection.build("core_set").choose(seen, 4, 0)
    assert sorted(rows // 8) == [1, 2, 3, 4]


@pytest.mark.parametrize("pays", ["credit", "margin"])
def test_ral_learns_which_feature_pays(pays: str) -> None:
    """Rounds whose gain is the mean place of the chosen images in one feature alone."""
    method, gain = Reinforced(), None
    place = 0.0
    for number in range(30):
        rng = np.random.default_rng(number)
        n = 60
        columns = {name: rng.random(n) for name in (*FEATURES, "spare")}
        seen = Candidates(
            audit=columns["audit"],
            entropy=columns["entropy"],
            margin=columns["margin"],
            credit=columns["credit"],
            features=columns["distance"][:, None],
            chosen_features=np.zeros((1, 1)),
            score=0.7,
            gain=gain,
        )
        rows = method.choose(seen, 20, number)
        place = float(np.argsort(np.argsort(columns[pays]))[rows].mean() / (n - 1))
        gain = 0.1 * (place - 0.5) + float(rng.normal(0, 0.005))
        if number == 29:
            # The last word belongs to the network, not to exploration.
            inputs = method._inputs(seen, [])
            best = np.argsort(-method._values(inputs))[:20]
            place = float(inputs[best, FEATURES.index(pays)].mean())
    assert place > 0.72


def squares(n: int, seed: int) -> Samples:
    """Bright squares or none."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 100, (n, 1, 16, 16), dtype=np.uint8)
    classes = np.arange(n) % 2
    images[classes == 1, :, 4:10, 4:10] += np.uint8(90)
    return Samples(images, classes, [{}] * n, [f"s{seed}-{i:03d}" for i in range(n)])


class Brightness(Model):
    """Takes bright images for class 1, dark ones for class 0; the surer the higher `scale`."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, (n, 2)."""
        said = self.scale * (images.mean((1, 2, 3)) - 0.5)
        return torch.stack([-said, said], dim=1)


def test_gradients_of_wrong_labels_vary_most() -> None:
    models = [Dstm(Brightness(scale), build_task(), SHORT) for scale in (10.0, 30.0)]
    classes = np.arange(40) % 2
    levels = np.where(classes == 1, 200, 50) + np.arange(40) // 2
    wrong = np.arange(40) < 4
    seen = Samples(
        images=np.broadcast_to(levels[:, None, None, None], (40, 1, 4, 4)).astype(np.uint8),
        classes=np.where(wrong, 1 - classes, classes),
        attributes=[{}] * 40,
        ids=[str(i) for i in range(40)],
    )
    variance = variance_of_gradients(models, seen)
    rows = selection.build("vog").choose(Candidates(np.ones(40), variance=variance), 36, 0)
    assert sorted(rows) == list(range(4, 40))


@dataclass
class Session:
    """A session without an agent: rounds of squares, selected from and trained on."""

    folder: Path
    settings: SelectionSettings

    def __post_init__(self) -> None:
        self.rounds: list[Round] = []

    @property
    def shards(self) -> list[Path]:
        return [Path(s.file) for r in self.rounds if r.batch for s in r.batch.shards]

    def go_on(self) -> Round:
        """Make the next round."""
        number = len(self.rounds) + 1
        samples = squares(24, number)
        file = round_folder(self.folder, number) / "data-00000.parquet"
        data = write_shard(samples, ["x"] * 24, [f"r{number}p0"] * 24, range(24), CLASSES)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        shard = Shard(
            file=file.relative_to(self.folder).as_posix(), n_images=24, sha256=f"{number}"
        )
        prompt = PromptSpec(id=f"r{number}p0", text="x", class_name="plain", count=24)
        done = Round(
            number=number,
            plan=Plan(round=number, author="test", prompts=(prompt,)),
            batch=Batch(round=number, job_id="x", shards=(shard,), quality=()),
        )
        self.rounds.append(done)
        training = self.train(number)
        measured = report(number=number, metrics={"accuracy": estimate(0.5 + 0.05 * number)})
        self.rounds[-1] = done.model_copy(update={"training": training, "report": measured})
        return self.rounds[-1]

    def train(self, number: int) -> Training:
        chosen = select_images(
            number, self.folder, self.rounds, self.settings, 0, self.folder.parent / "learned"
        )
        return train_dstm(number, self.folder, self.shards, CLASSES, SHORT, selection=chosen)


def settings(method: str, keep: float = 0.5) -> SelectionSettings:
    return SelectionSettings(method=method, keep=keep)


def test_training_sees_what_was_chosen_round_by_round(tmp_path: Path) -> None:
    session = Session(tmp_path / "a" / "one", settings("entropy", 0.25))
    first, second = session.go_on().training, session.go_on().training
    assert first and second and first.selection and second.selection
    assert (first.n_images, second.n_images) == (6, 12)
    # Nothing can be said of the first images by a DSTM.
    assert (first.selection.method, second.selection.method) == ("random", "entropy")
    assert second.selection.n_candidates == 24
    # Run again, nothing is chosen or trained anew, not even after the choice was lost.
    assert session.train(2) == second
    (session.folder / second.selection.file).unlink()
    assert session.train(2) == second


def test_without_a_share_nothing_changes(tmp_path: Path) -> None:
    session = Session(tmp_path / "one", SelectionSettings())
    training = session.go_on().training
    assert training and training.n_images == 24
    assert "selection" not in training.to_json()
    assert not list(tmp_path.rglob("selection*"))


def test_ral_goes_on_with_what_it_learned_in_this_session_and_in_earlier_ones(
    tmp_path: Path,
) -> None:
    session = Session(tmp_path / "one", settings("ral"))
    for _ in range(4):
        session.go_on()
    shared = tmp_path / "learned" / "ral.safetensors"
    last = round_folder(session.folder, 4) / STATE
    assert shared.read_bytes() == last.read_bytes()
    state = load_file(last)
    # The decisions of rounds 2 and 3; the first was made at random, the last is still open.
    assert state["gains"].tolist() == pytest.approx([0.05, 0.05])
    assert len(state["pending"]) == 1

    # A fork has the rounds but not the jobs, and chooses the same.
    fork = Session(tmp_path / "one-fork", settings("ral"))
    _copy_rounds(session.folder, fork.folder, up_to=3)
    fork.rounds = session.rounds[:3]
    learned = shared.read_bytes()
    shared.write_bytes(b"of another session by now")
    again = fork.go_on().training
    assert shared.read_bytes() == learned
    (mine,) = (r.training for r in session.rounds[3:])
    assert again and mine and again.selection == mine.selection
    assert again.sha256 == mine.sha256

    other = Session(tmp_path / "two", settings("ral"))
    other.go_on()
    begun = load_file(round_folder(other.folder, 1) / STATE)
    assert begun["gains"].tolist() == pytest.approx([0.05, 0.05])
    assert len(begun["pending"]) == 0


def test_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "learned").mkdir()
    (tmp_path / "learned" / "ral.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"ral\.safetensors is damaged.*Delete"):
        Session(tmp_path / "one", settings("ral")).go_on()


def test_settings_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"all needs keep=1.*selection\.keep=0\.5"):
        SelectionSettings(method="entropy")
    with pytest.raises(SettingsError, match=r"Unknown selection 'entropie'.*entropy"):
        Session(tmp_path / "one", settings("entropie")).go_on()


def _copy_rounds(source: Path, target: Path, up_to: int) -> None:
    for number in range(1, up_to + 1):
        shutil.copytree(round_folder(source, number), round_folder(target, number))


def test_images_of_the_first_round_need_cover_nothing_earlier(tmp_path: Path) -> None:
    session = Session(tmp_path / "one", settings("random"))
    done = session.go_on()
    baseline = Round(number=0, training=done.training, report=done.report)
    past = [baseline, done.model_copy(update={"training": None, "report": None})]
    chosen = select_images(1, session.folder, past, settings("core_set"), 0, tmp_path / "learned")
    assert chosen
    assert (chosen.method, chosen.n_chosen) == ("core_set", 12)
