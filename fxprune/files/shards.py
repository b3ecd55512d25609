"""Read a checkpoint of safetensors, in one file or in shards, one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from fxprune.errors import FileError, first_line, root_cause

INDEX = ".safetensors.index.json"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Entry:
    """Hold where a tensor is stored, its type as the file says it, and its shape."""

    shard: str
    stored: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    def bytes_of(self, shape: tuple[int, ...]) -> int:
        """Return how many bytes a tensor of this type takes that has another shape."""
        size = self.dtype.itemsize
        for one in shape:
            size *= one
        return size


@dataclass(frozen=True, eq=False)
class Shards:
    """Hold what is in a folder of weights: no more than the headers of its files is read.

    `index` is the name of the file that lists the shards, nothing where there is one file of
    weights, and `listed` what stands in it. `metadata` is that of each shard.
    """

    folder: Path
    names: tuple[str, ...]
    entries: Mapping[str, Entry]
    metadata: Mapping[str, dict[str, str] | None]
    index: str | None = None
    listed: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, folder: Path) -> Shards:
        """Open a folder; raises FileError for a shard that is missing, damaged or ambiguous."""
        if not folder.is_dir():
            raise FileError(f"{folder}: there is no such folder")
        index = _single(folder, INDEX)
        if index is None:
            single = _single(folder, SUFFIX)
            if single is None:
                raise FileError(
                    f"{folder}: holds no weights: *{INDEX} and its shards, or one *{SUFFIX}, are "
                    "needed"
                )
            return cls._opened(folder, [single.name], None, None)
        listed = read_json(index)
        weights = listed.get("weight_map")
        if not isinstance(weights, dict) or not all(map(_is_file_name, weights.values())):
            raise FileError(f"{index}: is no index of weights: its weight_map is missing or wrong")
        found = cls._opened(folder, sorted(set(weights.values())), index.name, listed)
        for name, shard in weights.items():
            if name not in found.entries or found.entries[name].shard != shard:
                raise FileError(
                    f"{folder / shard}: lacks {name}, which {index.name} says is there; fetch both "
                    "again"
                )
        return found

    @classmethod
    def _opened(
        cls, folder: Path, names: list[str], index: str | None, listed: dict[str, Any] | None
    ) -> Shards:
        entries: dict[str, Entry] = {}
        metadata: dict[str, dict[str, str] | None] = {}
        for shard in names:
            found, metadata[shard] = _header(folder / shard, shard)
            for name, entry in found.items():
                if name in entries:
                    raise FileError(f"{folder}: {entries[name].shard} and {shard} both hold {name}")
                entries[name] = entry
        return cls(folder, tuple(names), entries, metadata, index, listed)

    def tensor(self, name: str) -> torch.Tensor:
        """Return a stored tensor: its bytes are read where they are looked at, and not kept."""
        path = self.folder / self.entries[name].shard
        try:
            with safe_open(path, "pt") as file:
                tensor: torch.Tensor = file.get_tensor(name)
        except Exception as error:  # safetensors raises what a damaged file makes it stumble on
            raise _damaged(path, error) from error
        return tensor

    def of_shard(self, shard: str) -> dict[str, Entry]:
        """Return the tensors in a shard, in the order in which they lie there."""
        return {name: entry for name, entry in self.entries.items() if entry.shard == shard}

    def bytes(self) -> int:
        """Return the bytes of all tensors."""
        return sum(entry.bytes_of(entry.shape) for entry in self.entries.values())

    def stamp(self) -> list[Any]:
        """Return what changes where a file is replaced: names, sizes and times of change."""
        files = [self.index] if self.index else []
        stats = [(name, (self.folder / name).stat()) for name in (*files, *self.names)]
        return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def read_json(path: Path) -> dict[str, Any]:
    """Return the table in a JSON file; raises FileError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise FileError(f"{path}: cannot be read: {problem.strerror}") from problem
    except (ValueError, RecursionError) as problem:
        raise FileError(f"{path}: is damaged: {root_cause(problem, 200)}") from problem
    if not isinstance(data, dict):
        raise FileError(f"{path}: a table is needed, not {type(data).__name__}")
    return data


def _single(folder: Path, suffix: str) -> Path | None:
    """Return the one file of a folder with a suffix, if there is any; raises FileError for more."""
    found = sorted(path for path in folder.iterdir() if path.name.endswith(suffix))
    if len(found) > 1:
        listed = ", ".join(path.name for path in found[:3])
        raise FileError(
            f"{folder}: {listed}: which of {len(found)} files is meant? Leave one there, or the "
            "index of all"
        )
    return found[0] if found else None


def _is_file_name(name: object) -> bool:
    """Tell the name of a file in the same folder from a path that leads elsewhere."""
    return isinstance(name, str) and name.endswith(SUFFIX) and Path(name).name == name


def _header(path: Path, shard: str) -> tuple[dict[str, Entry], dict[str, str] | None]:
    if not path.is_file():
        raise FileError(f"{path}: is missing; fetch it again")
    entries: dict[str, Entry] = {}
    try:
        with safe_open(path, "pt") as file:
            for name in file.offset_keys():
                tensor, stored = file.get_tensor(name), file.get_slice(name).get_dtype()
                entries[name] = Entry(shard, stored, tensor.dtype, tuple(tensor.shape))
            return entries, file.metadata()
    except Exception as error:  # safetensors raises what a damaged file makes it stumble on
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> FileError:
    return FileError(f"{path}: is damaged: {first_line(error)[:200]}; fetch it again")
