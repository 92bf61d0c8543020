from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from memory.errors import DataError
from tools.data.drawn import Drawn, ImageRequest
from tools.data.samples import Samples
from tools.diffusion.weights import new_pipeline
from tools.labelers.audit import AuditClassifier, train_audit
from tools.pretraining import card
from tools.settings import AuditSettings, TrainSettings
from tools.targets.streets import build as build_streets


@dataclass(frozen=True)
class Lit:
    """Wraps the squares: 64 grey images, half of them bright, as captions say."""

    squares: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.squares, name)

    def split(self, name: str) -> Samples:
        samples: Samples = self.squares.split(name)
        bright = np.arange(len(samples)) % 2 == 1
        words = {"wafer": "mono", "busbars": "two"}
        attributes = [
            {
                **words,
                "brightness": "bright" if b else "dark",
                "severity": "defective" if b else "functional",
            }
            for b in bright
        ]
        images = (
            samples.images // 2 + np.where(bright, 100, 0).astype(np.uint8)[:, None, None, None]
        )
        return Samples(images, samples.classes, attributes, samples.ids)

    def measure(self, image: NDArray[np.uint8], attributes: Mapping[str, str]) -> dict[str, str]:
        return {"brightness": "bright" if image.mean() > 80 else "dark"}


class Obedient:
    """Draws what the words say, or the opposite."""

    name = identity = "obedient"
    max_tokens = 64

    def __init__(self, obeys: bool = True) -> None:
        self._obeys = obeys

    def count_tokens(self, text: str) -> int:
        return 1

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        levels = [("dark" in r.text or "dim" in r.text) != self._obeys for r in requests]
        return Drawn(
            np.array([np.full((1, 16, 16), 150 if bright else 30) for bright in levels], np.uint8)
        )


@pytest.mark.parametrize(("obeys", "expected"), [(True, 1.0), (False, 0.0)])
def test_attributes_are_measured_against_chance(target: Any, obeys: bool, expected: float) -> None:
    lit: Any = Lit(target)
    samples, texts = card.draw_like(lit, Obedient(obeys), 40)
    assert len(samples) == len(texts) == 40
    found = card.attribute_agreement(lit, samples)
    assert list(found) == ["brightness"]
    assert found["brightness"]["agreement"] == expected
    assert found["brightness"]["chance"] == pytest.approx(0.5, abs=0.1)


def test_a_memorised_minority_is_noticed_also_if_mirrored(target: Any) -> None:
    lit: Any = Lit(replace(target, n_images=120))
    known = lit.split("generator")
    noise = np.random.default_rng(0).normal(0, 2, known.images[:20].shape)
    images = lit.split("test").images.copy()
    before = card.copies(lit, replace(lit.split("test"), images=images))
    images[:20] = (np.flip(known.images[:20], 3) + noise).clip(0, 255)
    found = card.copies(lit, replace(lit.split("test"), images=images))
    assert not before.suspicious
    assert found.suspicious
    assert found.n_found >= 15


def test_card_of_an_untrained_pipeline(tmp_path: Path, target: Any) -> None:
    folder = tmp_path / "pipeline"
    new_pipeline((1, 16, 16), 4, (16, 32), 0.5, 0.25).save_pretrained(folder)
    settings = {"steps": 7, "s_noise": None, "timestep_rho": 2.0}
    (tmp_path / "train.json").write_text(json.dumps({"step": 7, "settings": settings}), "utf-8")
    audit = AuditSettings(train=TrainSettings(steps=4, batch_size=8))
    lit: Any = Lit(replace(target, n_images=40))
    seen: dict[str, int] = {}

    @contextmanager
    def watch(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: seen.update({f"{what}, {unit}": total})

    def train_judge(progress: Callable[[int, int], None]) -> AuditClassifier:
        return train_audit(lit, audit, tmp_path / "cache", progress=progress)

    written = card.write_card(folder, lit, train_judge, watch=watch)
    n_images = card.n_of_card(lit)
    assert seen == {
        "draw for the card, images": n_images,
        "train a judge of classes, steps": 3 * 4,
    }
    assert json.loads((folder / "card.json").read_text("utf-8")) == written
    as_it_draws = {"steps": 7, "s_noise": [1, 1], "timestep_rho": 1}
    assert written["trained"] == {"step": 7, "settings": as_it_draws}
    assert written["n_images"] == n_images
    ratio = written["audit_agreement_generated"] / written["audit_agreement_real"]
    assert written["audit_agreement_ratio"] == ratio


@dataclass(frozen=True)
class WithoutAudit(Lit):
    """The audit split is empty, as where each class has three photographs."""

    def split(self, name: str) -> Samples:
        samples = super().split(name)
        return samples.take(()) if name == "audit" else samples


def test_without_an_audit_split_a_card_has_no_figure_of_classes(
    target: Any, tmp_path: Path
) -> None:
    lit: Any = WithoutAudit(replace(target, n_images=16))
    with pytest.raises(DataError, match=r"audit\.method=none"):
        train_audit(lit, AuditSettings(), tmp_path)
    folder = tmp_path / "pipeline"
    new_pipeline((1, 16, 16), 4, (16, 32), 0.5, 0.25).save_pretrained(folder)
    written = card.write_card(
        folder, lit, lambda progress: train_audit(lit, AuditSettings(), tmp_path)
    )
    assert "audit_agreement_generated" not in written
    assert written["copies"]


@pytest.mark.parametrize(("n_photographs", "n_images"), [(9, 64), (40, 160), (3000, 512)])
def test_few_photographs_have_a_card_of_few_images(n_photographs: int, n_images: int) -> None:
    few = SimpleNamespace(split=lambda name: range(n_photographs))
    assert card.n_of_card(cast("Any", few)) == n_images


@dataclass(frozen=True)
class DepthOfEverySecondPixel:
    """Wraps streets: 32x48 pixels, on which a net learns in a quarter of the time."""

    streets: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.streets, name)

    def split(self, name: str) -> Samples:
        samples: Samples = self.streets.split(name)
        images, depth = (x[..., ::2, ::2].copy() for x in (samples.images, samples.labels["depth"]))
        return replace(samples, images=images, labels={"depth": depth})


def test_labels_agree_with_their_images_or_do_not(tmp_path: Path) -> None:
    sizes = {"audit": 40, "feedback": 24, "generator": 24}
    streets: Any = DepthOfEverySecondPixel(build_streets(tmp_path, sizes=sizes))
    teacher = card.TEACHER.model_copy(update={"steps": 20})
    exact = streets.split("generator")
    swapped = replace(exact, labels={"depth": exact.labels["depth"][::-1, ::-1]})
    agrees, differs = (
        card.label_agreement(streets, samples, teacher=teacher)["label_agreement"]["depth"]
        for samples in (exact, swapped)
    )
    assert agrees["figure"] == "delta1"
    assert agrees["ratio"] == pytest.approx(1, abs=0.2)
    assert differs["ratio"] < 0.5
