"""Figures of the long-tail experiment from a table of slices, and the tails of its seeds."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks import solar_groups
from benchmarks.fashion_mnist import CLASSES, N_RARE_GROUPS, group_counts, tail
from benchmarks.long_tail import FIGURES, Groups, figures_of, groups_of, write_results
from memory.records import slice_key
from tools.targets import SPLITS


def test_a_tail_has_a_ratio_of_100_and_its_order_is_the_seeds() -> None:
    first, second = tail(0), tail(1)
    assert [*first.values()] == sorted(first.values(), reverse=True)
    assert (max(first.values()), min(first.values())) == (1000, 10)
    assert set(first) == set(second) == set(CLASSES)
    assert [*first] != [*second]


def test_rare_groups_are_the_seeds_and_come_last() -> None:
    counts = group_counts(0)
    groups = groups_of("conditions", 0)
    assert len(groups.all) == 4 * len(CLASSES)
    assert {counts[key] for key in groups.few} == {min(counts.values())}
    assert len(groups.few) == N_RARE_GROUPS and groups.few != groups_of("conditions", 1).few


def test_rare_groups_of_solar_cells_are_rare_beside_the_other_severity() -> None:
    drawn = set()
    for seed in range(20):
        counts = solar_groups.group_counts(seed)
        groups = groups_of("solar", seed)
        assert len(groups.all) == 9 and len(groups.few) == 2
        for key in groups.few:
            one, other = solar_groups.SEVERITIES
            swapped = key.replace(one, "?").replace(other, one).replace("?", other)
            assert (counts[key], counts[swapped]) == (4, 48)
        drawn.add(groups.few[0] + groups.few[1])
    assert len(drawn) > 5


def test_solar_groups_divide_the_photographs_anew_by_seed(elpv_cache: Path) -> None:
    first, second = (solar_groups.build(elpv_cache, seed) for seed in (0, 1))
    ids = {name: set(first.split(name).ids) for name in SPLITS}
    assert len(set().union(*ids.values())) == sum(map(len, ids.values()))
    assert ids["test"] != set(second.split("test").ids)
    keys = [
        slice_key({name: a[name] for name in ("severity", "wafer", "brightness")})
        for name in ("generator", "audit")
        for a in first.split(name).attributes
    ]
    counts = solar_groups.group_counts(0)
    assert {key: keys.count(key) for key in counts} == counts


def test_rare_figures_of_streets_are_those_of_two_classes_and_of_dusk(tmp_path: Path) -> None:
    groups = groups_of("camvid", 0)
    assert len(groups.all) == len(groups.many) + 2 == 11
    lines = ["arm,seed,round,split,slice,n,score"]
    for number, score in ((0, 0.2), (1, 0.5)):
        lines += [f"uniform,0,{number},test,{key},75,{score}" for key in groups.all]
        lines += [f"uniform,0,{number},test,light=dusk,20,{score + 0.3}"]
    path = tmp_path / "compare-slices.csv"
    path.write_text("\n".join(lines), "utf-8")
    assert dict(figures_of(path, groups))["uniform"] == pytest.approx(
        {"all": 0.5, "few": 0.6, "many": 0.5, "worst_five": 0.5}
    )
    assert dict(figures_of(path, groups, number=0))["uniform"]["few"] == pytest.approx(0.3)


def test_figures_are_those_of_classes_on_the_test_split_in_the_last_round(tmp_path: Path) -> None:
    keys = [f"class={name}" for name in "abcdef"]
    scores = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.3, "e": 0.2, "f": 0.4}
    lines = ["arm,seed,round,split,slice,n,score"]
    lines += [f"uniform,0,2,test,class={name},100,{score}" for name, score in scores.items()]
    lines += [f"uniform,0,1,test,class={name},100,0" for name in scores]
    lines += [f"uniform,0,2,feedback,class={name},100,1" for name in scores]
    lines += ["uniform,0,2,test,brightness=dark class=a,10,0"]
    path = tmp_path / "compare-slices.csv"
    path.write_text("\n".join(lines), "utf-8")
    ((arm, figures),) = figures_of(path, Groups(keys, keys[-3:], keys[:3]))
    assert arm == "uniform"
    assert figures == pytest.approx(
        {"all": 0.55, "few": 0.3, "many": 0.8, "worst_five": (0.2 + 0.3 + 0.4 + 0.7 + 0.8) / 5}
    )


def test_seeds_of_an_earlier_command_with_the_same_arms_stay_in_the_table(tmp_path: Path) -> None:
    def arms(score: float, *names: str) -> dict[str, dict[str, float]]:
        return {name: dict.fromkeys(FIGURES, score) for name in names}

    write_results("tail", {0: arms(0.2, "real"), 1: arms(0.8, "real", "uniform")}, tmp_path)
    write_results("tail", {2: arms(0.4, "real", "uniform")}, tmp_path)
    with (tmp_path / "long-tail-tail.csv").open(newline="") as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["1", "1", "2", "2"]
    with (tmp_path / "long-tail-tail-arms.csv").open(newline="") as file:
        assert [(row["all"], row["seeds"]) for row in csv.DictReader(file)] == [("0.600", "2")] * 2
