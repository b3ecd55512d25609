"""Remember what kernels take: one JSON file, which people can share and several runs extend."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime as ort

from fxprune.errors import FileError, first_line
from fxprune.files import atomic_write, locked, make_folder

VERSION = 1
EVERY = 5.0  # seconds between two writings while more is being measured
Widths = tuple[int, ...]


def fingerprint(threads: int) -> str:
    """Return what tells a device from others: processor, ONNX Runtime, and how many threads."""
    return f"ort-cpu {ort.__version__}, {_processor()}, {threads} threads"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    said = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in said.items()}
    flags = sorted(set(named.get("flags", named.get("Features", "")).split()))
    name = named.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({hashlib.sha256(' '.join(flags).encode()).hexdigest()[:8]})"


def place() -> Path:
    """Return the file of the user's cache: `$FXPRUNE_CACHE/kernels.json`, else in `~/.cache`."""
    folder = os.environ.get("FXPRUNE_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(folder) if folder else base / "fxprune") / "kernels.json"


@dataclass
class Store:
    """Hold microseconds by family and widths for one device, read from a file and written to it.

    What others have written meanwhile is kept; a run that is killed loses a few seconds.
    """

    path: Path
    device: str
    times: dict[str, dict[str, float]] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    fresh: int = 0  # measured since the file was written
    written: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, path: Path, threads: int) -> Store:
        """Return what a file holds for this device; raises FileError for what is no such file."""
        store = cls(path, fingerprint(threads))
        found = store._read(store._whole())
        store.times = {key: dict(one["us"]) for key, one in found.items()}
        store.about = {key: one["about"] for key, one in found.items()}
        return store

    def get(self, family: str, widths: Widths) -> float | None:
        """Return the microseconds at some widths, None where they were never measured."""
        return self.times.get(family, {}).get(_key(widths))

    def put(self, family: str, about: str, widths: Widths, microseconds: float) -> None:
        """Remember a measurement; write the file now and then."""
        self.times.setdefault(family, {})[_key(widths)] = round(microseconds, 3)
        self.about[family] = about
        self.fresh += 1
        if time.monotonic() - self.written > EVERY:
            self.save()

    def save(self) -> None:
        """Write the file if there is anything new, with what others wrote since it was read."""
        if not self.fresh:
            return
        make_folder(self.path.parent)
        with locked(self.path):  # between reading and writing another's times would be lost
            whole = self._whole()
            mine = self._read(whole)
            for family, times in self.times.items():
                before = mine.get(family, {}).get("us", {})
                mine[family] = {"about": self.about[family], "us": before | times}
            whole["devices"][self.device] = mine
            with atomic_write(self.path) as temporary:
                text = json.dumps(whole, indent=0, sort_keys=True)
                temporary.write_text(text, encoding="utf-8")
        self.fresh, self.written = 0, time.monotonic()

    def _whole(self) -> dict[str, Any]:
        if not self.path.exists():
            return {"version": VERSION, "devices": {}}
        try:
            whole: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            version, devices = whole["version"], whole["devices"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
            raise FileError(
                f"{self.path}: is no table of kernel times ({first_line(problem)}); move it away"
            ) from None
        if version != VERSION:
            raise FileError(
                f"{self.path}: is of version {version}, and {VERSION} is read; move it away"
            )
        if not isinstance(devices, dict):
            raise FileError(f"{self.path}: its devices are no table; move it away")
        return whole

    def _read(self, whole: dict[str, Any]) -> dict[str, Any]:
        """Return what there is of this device; raises FileError where that is damaged."""
        found = whole["devices"].get(self.device, {})
        if not isinstance(found, dict):
            raise FileError(f"{self.path}: {self.device} is no table; move it away")
        for key, one in found.items():
            if not _is_family(one):
                raise FileError(f"{self.path}: {key} is no table of kernel times; move it away")
        return found


def _is_family(one: Any) -> bool:
    if not isinstance(one, dict) or not isinstance(one.get("us"), dict):
        return False
    times = one["us"].values()
    return isinstance(one.get("about"), str) and all(
        isinstance(time, (int, float)) and 0.0 <= time < math.inf for time in times
    )


def _key(widths: Widths) -> str:
    return "x".join(map(str, widths))
