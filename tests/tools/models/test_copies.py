from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from agent.autonomous.copies import copies_of
from eval.report.page import ReportData, build_report_html
from tools.data.samples import Images, Samples
from tools.data.shards import write_shard
from tools.generate_batch import WithoutCopies
from tools.labelers.audit import KeepAll
from tools.models.copies import CopyFinder, finder_of, plant
from tools.targets import leakage


def textures(n: int, seed: int) -> Images:
    """Return grey pictures of a frame, the same in all, around a texture of their own."""
    rng = np.random.default_rng(seed)
    x = gaussian_filter(rng.normal(size=(n, 32, 32)), (0, 1.5, 1.5))
    x = 128 + 25 * x / x.std()
    x[:, :3] = x[:, :, :3] = 30
    return np.asarray(x.clip(0, 255)[:, None], np.uint8)


def samples(images: Images, name: str = "photo") -> Samples:
    ids = [f"{name}-{i}" for i in range(len(images))]
    return Samples(images, np.zeros(len(images), np.int64), [{}] * len(images), ids)


KNOWN, UNSEEN, FURTHER = (textures(100, seed) for seed in range(3))


class Photographs:
    def __init__(self, flips: tuple[str, ...] = (), **splits: Images) -> None:
        self.flips, self._splits = flips, splits

    def split(self, name: str) -> Samples:
        return samples(self._splits[name], name)


def target_of(*flips: str, **splits: Images) -> Any:
    return Photographs(flips, **splits)


@pytest.fixture(scope="module")
def finder() -> CopyFinder:
    seen = {"generator": KNOWN, "audit": UNSEEN[:50], "feedback": UNSEEN[50:]}
    return finder_of(target_of("horizontal", **seen))


def test_planted_copies_are_found_and_further_photographs_are_none(finder: CopyFinder) -> None:
    rows, scores = finder.search(plant(KNOWN[:100], ("horizontal",), seed=5))
    assert finder.is_copy(scores).mean() >= 0.95
    assert (rows == np.arange(100)).mean() >= 0.95
    assert finder.is_copy(finder.search(FURTHER)[1]).mean() <= 0.01
    assert finder.power.value >= 0.95


def test_the_result_for_an_image_does_not_depend_on_the_others(finder: CopyFinder) -> None:
    images = np.concatenate([plant(KNOWN[:2]), FURTHER[:2]])
    rows, scores = finder.search(images)
    alone = [finder.search(image[None]) for image in images]
    assert rows.tolist() == [int(row[0]) for row, _ in alone]
    assert scores == pytest.approx([float(score[0]) for _, score in alone], abs=1e-4)
    assert finder.search(images[:0])[1].shape == (0,)


def test_images_that_many_photographs_resemble_are_no_copies() -> None:
    flat = np.full((60, 1, 32, 32), 120, np.uint8)
    noisy = (flat + np.random.default_rng(0).normal(0, 2, flat.shape)).astype(np.uint8)
    few = textures(5, 3)
    finder = finder_of(target_of(generator=noisy, audit=few[:2], feedback=few[2:]))
    assert not finder.is_copy(finder.search(plant(noisy))[1]).any()
    assert finder.power.value < 0.1


def test_photographs_of_one_group_are_no_evidence_against_each_other() -> None:
    photographs = np.concatenate([KNOWN[:30], np.repeat(KNOWN[:1], 6, 0), UNSEEN[:10]])
    known = np.arange(len(photographs)) < 36
    names = ["one" if i == 0 or 30 <= i < 36 else str(i) for i in range(len(photographs))]
    copy = plant(KNOWN[:1], seed=9)
    apart = CopyFinder(photographs, known).search(copy)[1]
    together = CopyFinder(photographs, known, (), names).search(copy)[1]
    assert together[0] < apart[0] / 2


def test_many_photographs_of_one_object_lower_the_limit_once() -> None:
    again = [plant(KNOWN[:1], seed=seed) for seed in range(5)]
    photographs = np.concatenate([KNOWN[:50], UNSEEN, FURTHER, *again])
    names = [*map(str, range(250)), *["one object"] * 5]
    known = np.arange(len(photographs)) < 50
    finder = CopyFinder(photographs, known, (), names)
    own = np.arange(250, 255)
    assert (finder.search(photographs[own], own)[1] < 0.2).all()
    assert finder.limit > 0.2


def test_a_near_copy_has_no_weight(finder: CopyFinder) -> None:
    images = np.concatenate([plant(KNOWN[:6], ("horizontal",)), FURTHER[:6]])
    sure, weights, kept = WithoutCopies(KeepAll(), finder).verify(samples(images), {})
    assert weights.tolist() == [0.0] * 6 + [1.0] * 6
    assert kept.tolist() == [False] * 6 + [True] * 6
    assert sure.tolist() == [1.0] * 12


def test_near_copies_in_other_splits_are_named() -> None:
    splits = {"generator": KNOWN[:60], "audit": UNSEEN[:40], "feedback": UNSEEN[40:80]}
    splits["test"] = np.concatenate([FURTHER[:40], plant(KNOWN[50:53])])

    found = leakage.near_copies(target_of(**splits))
    assert {(f"test-{40 + i}", "test", f"generator-{50 + i}") for i in range(3)} == {*found}


def test_a_report_shows_the_closest_pairs(finder: CopyFinder, tmp_path: Path) -> None:
    images = np.concatenate([plant(KNOWN[:4], ("horizontal",)), FURTHER[:8]])
    ids = [f"{'p1' if i < 6 else 'p2'}-{i:04d}" for i in range(12)]
    drawn = Samples(images, np.zeros(12, np.int64), [{}] * 12, ids)
    prompts = [name[:2] for name in ids]
    shard = write_shard(drawn, prompts, prompts, list(range(12)), ["cell"])
    (tmp_path / "data.parquet").write_bytes(shard)
    found = copies_of([tmp_path / "data.parquet"], finder)
    assert found
    copies, picture = found
    assert copies.n_found == 4
    assert copies.suspicious
    assert {name: share.n for name, share in copies.prompts.items()} == {"p1": 6}
    assert {(p.image, p.photograph) for p in copies.pairs[:4]} == {
        (f"p1-{i:04d}", f"generator-{i}") for i in range(4)
    }
    page = build_report_html(ReportData("s", {}, "", [], copies=found))
    assert base64.b64encode(picture).decode() in page
    assert "4 of 12 images" in page
