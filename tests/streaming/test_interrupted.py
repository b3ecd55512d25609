"""What is interrupted goes on to the same bytes; a full disk is said in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import fxprune
from fxprune.errors import CheckpointError, FileError
from fxprune.streaming import unfinished
from tests.support.checkpoints import IDS, SPEC, build, decoder, stored, sums, written

resource = pytest.importorskip("resource", reason="limits on files are of POSIX")
ROOT = Path(__file__).parents[2]
MOMENTS = 6


def test_killed_and_resumed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.streaming.killed", tmp_path, str(MOMENTS)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == MOMENTS
    for one in found:
        assert (one["status"], one["again"]) == (9, 0)
        assert one["same"]
        assert one["source"]
        assert not one["whole"]
        assert one["left"] == ["half", "whole"]
    assert {len(one["done"]) for one in found} == {0, 1, 2, 3}  # the moments lie all the way


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    source = written(tmp_path / "whole", stored(decoder()), 1)
    before, hard = sums(source), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    fxprune.prune_checkpoint(source, SPEC, tmp_path / "other", build, IDS)
    sizes = [path.stat().st_size for path in (tmp_path / "other").glob("*.safetensors")]
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes) - 1, hard))
    try:
        with pytest.raises(FileError) as told:
            fxprune.prune_checkpoint(source, SPEC, tmp_path / "half", build, IDS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert "cannot be written: File too large; free some space there" in str(told.value)
    assert "the same call goes on from there" in str(told.value)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "half").exists()
    assert sums(source) == before
    fxprune.prune_checkpoint(source, SPEC, tmp_path / "half", build, IDS)
    assert sums(tmp_path / "half") == sums(tmp_path / "other")


def test_too_little_room_is_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = written(tmp_path / "whole", stored(decoder()))
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(unfinished.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(FileError, match=r"kB are needed there, and 1 kB are free"):
        fxprune.prune_checkpoint(source, SPEC, tmp_path / "half", build, IDS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spec": {**SPEC, "metric": "l1"}}, "spec differ"),
        ({"inputs": IDS[:, :4]}, "inputs differ"),
        ({"touch": True}, "shards differ"),
    ],
)
def test_the_beginnings_of_another_run_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], said: str
) -> None:
    source = written(tmp_path / "whole", stored(decoder()))
    given = {"spec": SPEC, "inputs": IDS} | {k: v for k, v in change.items() if k != "touch"}

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(unfinished.Unfinished, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            fxprune.prune_checkpoint(source, SPEC, tmp_path / "half", build, IDS)
    before = sums(tmp_path / ".half.unfinished")
    if "touch" in change:
        (source / "model-00001-of-00003.safetensors").touch()
    with pytest.raises(CheckpointError, match=said):
        fxprune.prune_checkpoint(source, given["spec"], tmp_path / "half", build, given["inputs"])
    assert sums(tmp_path / ".half.unfinished") == before
