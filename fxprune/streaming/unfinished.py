"""What is done of a checkpoint, in a folder beside the one that will hold it all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from fxprune._version import __version__
from fxprune.errors import CheckpointError, FileError, FxpruneError
from fxprune.files.atomic import atomic_write, make_folder, sweep, unwritable
from fxprune.files.shards import INDEX, Shards, read_json
from fxprune.graphs import tensors_of
from fxprune.plan import Plan
from fxprune.report import Report
from fxprune.spec import Spec
from fxprune.streaming.meter import amount
from fxprune.streaming.writing import Kept

OURS = "fxprune"  # the folder with what is ours, which no reader of weights looks into
BELONGS = "begun.json"  # says what a folder is the beginning of
# files of weights, which would still be those of the whole model
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")
LISTS = (INDEX, ".bin.index.json")


@dataclass(frozen=True)
class Unfinished:
    """Hold the folder of a run that is not over, and the one that it becomes."""

    folder: Path
    final: Path

    @classmethod
    def beside(cls, final: Path) -> Unfinished:
        """Return the place for the beginnings of a folder; raises FileError where that is there."""
        if final.exists() or final.is_symlink():
            raise FileError(f"{final}: is there already; name another folder, or remove it")
        if not final.parent.is_dir():
            raise FileError(f"{final}: there is no folder {final.parent}; make it first")
        return cls(final.with_name(f".{final.name}.unfinished"), final)

    # ---- the plan --------------------------------------------------------------------------------

    def begin(
        self, shards: Shards, spec: Spec, model: nn.Module, inputs: object, copied: Sequence[str]
    ) -> None:
        """Make the folder, or take it up; raises CheckpointError where it is of another call."""
        shapes = {name: list(tensor.shape) for name, tensor in tensors_of(model).items()}
        mine: dict[str, Any] = {
            "version": __version__,
            "shards": shards.stamp(),
            "spec": spec.to_dict(),
            "model": shapes,
            "inputs": inputs,
            "copied": list(copied),
        }
        mine = json.loads(json.dumps(mine))
        make_folder(self.folder / OURS)
        for folder in (self.folder, self.folder / OURS):
            sweep(folder)
        place = self.folder / OURS / BELONGS
        if not place.exists():
            with atomic_write(place) as file:
                file.write_text(json.dumps(mine), encoding="utf-8")
            return
        theirs = read_json(place)
        others = [key for key, value in mine.items() if theirs.get(key) != value]
        if others:
            raise CheckpointError(
                f"{self.folder}: holds the beginnings of another run ({', '.join(others)} differ); "
                "remove it, or name another folder for this one"
            )

    def planned(self) -> tuple[Plan, Report] | None:
        """Return the plan that was made, and its report, if there is one."""
        if not self._report.exists():  # the last that is written of a plan
            return None
        report = Report.from_json(self._report.read_text(encoding="utf-8"))
        return Plan.load(self._plan), report

    def keep(self, plan: Plan, report: Report) -> None:
        """Write a plan and its report, without times, which no other run would have."""
        plan.save(self._plan)
        with atomic_write(self._report) as file:
            file.write_text(replace(report, seconds={}).to_json(), encoding="utf-8")

    @property
    def _plan(self) -> Path:
        return self.folder / OURS / "plan.json"

    @property
    def _report(self) -> Path:
        return self.folder / OURS / "report.json"

    # ---- the shards ------------------------------------------------------------------------------

    def has(self, shard: str, size: int) -> bool:
        """Tell whether a shard is there: they are written whole or not at all."""
        place = self.folder / shard
        return place.is_file() and place.stat().st_size == size

    def check_space(self, needed: int) -> None:
        """Raise FileError where the disk has less room than is needed."""
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise FileError(
                f"{self.final}: {amount(needed)} are needed there, and {amount(free)} are free; "
                "free some space, or choose another disk"
            )

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """Keep what is done where a file cannot be written; where nothing is planned, nothing."""
        try:
            yield
        except FxpruneError as error:
            if not self._report.exists():
                shutil.rmtree(self.folder, ignore_errors=True)
                raise
            if not isinstance(error, FileError):
                raise
            said = f"{error}. What is done stays in {self.folder}: the same call goes on from there"
            raise type(error)(said) from error

    def finish(self, shards: Shards, kept: Kept) -> None:
        """Write the index and what else lies beside the weights, and give the folder its name."""
        if shards.index is not None and shards.listed is not None:
            with atomic_write(self.folder / shards.index) as file:
                text = json.dumps(_listed(shards, kept), indent=2, sort_keys=True)
                file.write_text(text + "\n", encoding="utf-8")
        for path in sorted(shards.folder.iterdir()):
            if path.is_file() and not path.name.endswith((*WEIGHTS, *LISTS)):
                with atomic_write(self.folder / path.name) as file:
                    shutil.copyfile(path, file)
        (self.folder / OURS / BELONGS).unlink(missing_ok=True)
        try:
            os.rename(self.folder, self.final)
        except OSError as problem:
            raise unwritable(self.final, problem) from problem


def _listed(shards: Shards, kept: Kept) -> dict[str, Any]:
    """Return what stands in the index, with the counts of the smaller tensors."""
    listed = dict(shards.listed or {})
    counts = {"total_size": 0, "total_parameters": 0}
    for name, entry in shards.entries.items():
        axes = kept.get(name)
        shape = entry.shape if axes is None else tuple(map(len, axes))
        size = entry.bytes_of(shape)
        counts["total_size"] += size
        counts["total_parameters"] += size // entry.dtype.itemsize
    before = listed.get("metadata")
    if isinstance(before, dict):
        listed["metadata"] = {key: counts.get(key, value) for key, value in before.items()}
    return listed
