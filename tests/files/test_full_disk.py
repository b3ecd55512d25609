"""A disk that is full is said in one line, and nothing half-written stays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="limits on files are of POSIX")
ROOT = Path(__file__).parents[2]


def test_every_writer(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.files.full_disk", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(found) == 9
    for one in found:
        file = one["name"].partition(" ")[0]
        assert one["said"].startswith(f"FileError: {tmp_path / file}: cannot be written: "), one
        assert "File too large; free some space" in one["said"]
        assert one["same"], one


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
def test_a_device_that_is_full() -> None:
    from fxprune.errors import FileError
    from fxprune.files import atomic_write

    with (
        pytest.raises(FileError, match=r"/dev/full: cannot be written: No space left"),
        atomic_write("/dev/full") as temporary,
    ):
        temporary.write_bytes(b"much")
