"""The file of kernel times: several processes extend it, and none loses what another wrote."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fxprune.errors import FileError
from fxprune.files import locked
from fxprune.latency.kernels import Store, store


def test_one_that_writes_while_another_does_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes between the reading and the writing of the first."""
    file, write = tmp_path / "k.json", store.atomic_write
    one, two = (Store.open(file, 1) for _ in range(2))
    one.put("a", "Conv", (8, 8), 1.0)
    two.put("b", "Gemm", (4,), 2.0)
    second = threading.Thread(target=two.save)

    @contextmanager
    def meanwhile(path: Path) -> Iterator[Path]:
        monkeypatch.setattr(store, "atomic_write", write)
        second.start()
        second.join(timeout=0.2)  # it would be through by now, were there nothing to wait for
        with write(path) as temporary:
            yield temporary

    monkeypatch.setattr(store, "atomic_write", meanwhile)
    one.save()
    second.join()
    found = Store.open(file, 1)
    assert found.get("a", (8, 8)) == 1.0
    assert found.get("b", (4,)) == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["k.json"]


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    def extend(number: int) -> None:
        for width in range(20):
            mine = Store.open(tmp_path / "k.json", 1)
            mine.put(f"family {number}", "Conv", (width,), 1.0)
            mine.save()

    writers = [threading.Thread(target=extend, args=(number,)) for number in range(4)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    found = Store.open(tmp_path / "k.json", 1)
    assert {name: len(times) for name, times in found.times.items()} == {
        f"family {number}": 20 for number in range(4)
    }


def test_a_lock_goes_with_its_holder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path / "x"):
        raise RuntimeError
    with locked(tmp_path / "x"):
        assert [path.name for path in tmp_path.iterdir()] == [".x.lock"]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileError, match="cannot be written"), locked(tmp_path / "no" / "x"):
        pytest.fail("the body ran")


HELD: dict[str, Any] = {"about": "Conv", "us": {"8": 1.0}}
WRONG: dict[str, Any] = {
    "no devices": {"version": 1},
    "devices in a list": {"version": 1, "devices": []},
    "a family without times": {"family": {"about": "Conv"}},
    "a family without a word": {"family": {"us": {}}},
    "a family that is a text": {"family": "Conv"},
    "times that are texts": {"family": {**HELD, "us": {"8": "1"}}},
    "times that are no numbers": {"family": {**HELD, "us": {"8": float("nan")}}},
    "times that are negative": {"family": {**HELD, "us": {"8": -1.0}}},
    "a device that is a list": [],
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_table_is_refused_and_left(name: str, tmp_path: Path) -> None:
    file, data = tmp_path / "k.json", WRONG[name]
    mine = Store.open(file, 1)
    if "version" not in data:
        data = {"version": 1, "devices": {mine.device: data}}
    file.write_text(json.dumps(data))
    with pytest.raises(FileError, match=r"k\.json: .*move it away"):
        Store.open(file, 1)
    mine.put("other", "Conv", (8,), 1.0)
    with pytest.raises(FileError, match=r"k\.json: .*move it away"):
        mine.save()
    assert file.read_text() == json.dumps(data)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    mine = Store(tmp_path / "file" / "k.json", "device")
    mine.put("family", "Conv", (8,), 1.0)
    with pytest.raises(FileError, match="cannot be written"):
        mine.save()
