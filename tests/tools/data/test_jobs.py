from __future__ import annotations

import json
from pathlib import Path

import pytest

from memory.errors import SessionError
from tools.data.jobs import job_id, round_folder, run_once, write_missing


def test_a_job_is_named_by_its_call() -> None:
    name = job_id("night", 2, "train_dstm", {"steps": 3, "seed": 0})
    assert name == job_id("night", 2, "train_dstm", {"seed": 0, "steps": 3})
    assert len(name) == 16
    others = {
        job_id("day", 2, "train_dstm", {"steps": 3, "seed": 0}),
        job_id("night", 3, "train_dstm", {"steps": 3, "seed": 0}),
        job_id("night", 2, "generate_batch", {"steps": 3, "seed": 0}),
        job_id("night", 2, "train_dstm", {"steps": 4, "seed": 0}),
    }
    assert len(others | {name}) == 5


def test_round_folders_sort_by_number() -> None:
    assert round_folder(Path("s"), 3) == Path("s/rounds/003")


def test_work_is_done_once(tmp_path: Path) -> None:
    calls = []

    def work() -> dict[str, int]:
        calls.append(json.loads((tmp_path / "job/job.json").read_bytes()))
        return {"made": len(calls)}

    assert run_once(tmp_path / "job", {"n": 1}, work) == {"made": 1}
    assert run_once(tmp_path / "job", {"n": 1}, work) == {"made": 1}
    assert calls == [{"n": 1}]


def test_interrupted_work_is_done_again(tmp_path: Path) -> None:
    def killed() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_once(tmp_path, {}, killed)
    assert not (tmp_path / "result.json").exists()
    assert run_once(tmp_path, {}, lambda: 5) == 5


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(SessionError, match=r"result\.json.*Delete this file"):
        run_once(tmp_path, {}, lambda: 5)


def test_only_missing_files_are_made(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.bin" for i in range(4)]
    made: list[int] = []
    done: list[int] = []

    def make(index: int) -> bytes:
        if index == 2 and 2 not in made:
            made.append(index)
            raise KeyboardInterrupt
        made.append(index)
        return bytes([index])

    with pytest.raises(KeyboardInterrupt):
        write_missing(paths, make, done.append)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.bin", "1.bin"]
    write_missing(paths, make, done.append)
    assert made == [0, 1, 2, 2, 3]
    assert done == [1, 2, 1, 2, 3, 4]
    assert [p.read_bytes() for p in paths] == [b"\0", b"\1", b"\2", b"\3"]
