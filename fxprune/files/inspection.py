"""Look into a `.pt2` before it is loaded, since loading can run what is in it."""

from __future__ import annotations

import io
import json
import math
import os
import re
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from fxprune.errors import FileError, UntrustedFileError, root_cause
from fxprune.files.untrusted import reasons

_RECORDS = re.compile(
    r"models/model\.json|data/sample_inputs/model\.pt|data/(weights|constants)/model\.pt"
    r"|data/weights/(model_weights_config\.json|weight_\d+)"
    r"|data/constants/(model_constants_config\.json|tensor_\d+)"
    r"|extra/.+|archive_format|archive_version|byteorder|\.\w+|\.data/\w+"
)
_CONFIGS = (
    ("data/weights/", "data/weights/model_weights_config.json"),
    ("data/constants/", "data/constants/model_constants_config.json"),
)
_GROWTH, _SLACK = 4, 2**20
"""An archive may unpack to 4 times its size and 1 MiB: torch stores its records uncompressed."""


def inspect(file: IO[bytes], path: Path) -> None:
    """Raise `UntrustedFileError` for an archive that would run code, `FileError` for none."""
    try:
        _inspect(file, path)
    except FileError:
        raise
    except Exception as problem:  # the reader raises what a damaged part makes it stumble on
        raise FileError(f"{path}: is truncated or damaged: {root_cause(problem, 200)}") from problem


def _inspect(file: IO[bytes], path: Path) -> None:
    reader = _open_archive(file, path)
    names = set(reader.get_all_records())
    _check_records(reader, path, os.fstat(file.fileno()).st_size)
    for name in ("models/model.json", *(config for _, config in _CONFIGS)):
        if name in names:
            for reason in reasons(_parse(reader, name, path)):
                raise untrusted(path, f"{name}: {reason}")
    for folder, config in _CONFIGS:
        if config in names:
            _check_payloads(reader, path, folder, _parse(reader, config, path))
    for name in ("sample_inputs", "weights", "constants"):
        if f"data/{name}/model.pt" in names:
            _check_pickle(bytes(reader.get_record(f"data/{name}/model.pt")), path, name)


def check_sums(file: IO[bytes], path: Path) -> None:
    """Raise `FileError` where a record is not what was written: torch's reader does not look."""
    try:
        damaged = zipfile.ZipFile(file).testzip()
    except Exception as problem:  # a damaged zip raises what it likes
        raise FileError(f"{path}: cannot be loaded: {root_cause(problem, 200)}") from problem
    if damaged is not None:
        name = damaged.partition("/")[2]
        raise FileError(f"{path}: cannot be loaded: {name[:60]!r} in it is damaged; copy it anew")


def _open_archive(file: IO[bytes], path: Path) -> torch._C.PyTorchFileReader:
    """Open the zip with torch's own reader: two readers may see two contents in one file."""
    magic = file.read(4)
    file.seek(0)
    if magic[:2] != b"PK":
        raise FileError(f"{path}: is not a .pt2 archive (torch.export.save writes one)")
    try:
        reader = torch._C.PyTorchFileReader(file)
        named = "archive_format" in reader.get_all_records()
        if not named or reader.get_record("archive_format") != b"pt2":
            raise FileError(f"{path}: is a zip file, but not a .pt2 archive of torch.export.save")
    except (RuntimeError, OSError, ValueError) as problem:
        if _is_old(file):
            raise FileError(
                f"{path}: has the layout of an older torch; load it there and save it again"
            ) from problem
        raise FileError(f"{path}: is truncated or damaged: {root_cause(problem, 200)}") from problem
    return reader


def _is_old(file: IO[bytes]) -> bool:
    """Tell whether the zip has the layout that torch wrote before 2.8."""
    try:
        file.seek(0)
        return "serialized_exported_program.json" in zipfile.ZipFile(file).namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def _check_records(reader: torch._C.PyTorchFileReader, path: Path, size: int) -> None:
    """Allow only the records that torch.export.save writes, and no zip bomb."""
    names = list(reader.get_all_records())
    for name in names:
        if name.startswith("data/aotinductor/") or name.endswith((".so", ".o", ".cubin")):
            raise untrusted(path, f"holds compiled native code ({name[:60]!r})")
        if "_obj_" in name:
            raise untrusted(path, f"holds a pickled object ({name[:60]!r})")
        unsafe = ".." in name.split("/") or "\\" in name or "//" in name
        if unsafe or not _RECORDS.fullmatch(name):
            raise untrusted(path, f"holds {name[:60]!r}, which torch.export.save does not write")
    # The reader finds records without regard to case, and the first of two.
    if len({name.lower() for name in names}) < len(names):
        raise untrusted(path, "holds two records of one name")
    _check_growth(reader, names, path, size)


def _check_growth(
    reader: torch._C.PyTorchFileReader, names: list[str], path: Path, size: int
) -> None:
    unpacked = sum(reader.get_record_size(name) for name in names)
    if unpacked > _GROWTH * size + _SLACK:
        raise untrusted(path, f"unpacks {size:,} bytes to {unpacked:,} (a zip bomb?)")


def _check_payloads(
    reader: torch._C.PyTorchFileReader, path: Path, folder: str, config: Any
) -> None:
    """Check that each tensor is a raw record of the archive and asks for no more than it holds."""
    try:
        for name, meta in config["config"].items():
            record = folder + meta["path_name"]
            if not re.fullmatch(r"(weight|tensor)_\d+", meta["path_name"]):
                raise untrusted(path, f"{name[:60]!r} is stored as {meta['path_name'][:60]!r}")
            elements = math.prod(size["as_int"] for size in meta["tensor_meta"]["sizes"])
            if elements > _GROWTH * reader.get_record_size(record) + _SLACK:
                raise untrusted(path, f"{name[:60]!r} is larger than what is stored of it")
    except (KeyError, TypeError, AttributeError, RuntimeError) as problem:
        raise FileError(f"{path}: is damaged: the list of {folder} is malformed") from problem


def _check_pickle(data: bytes, path: Path, name: str) -> None:
    """Check that a pickle loads with torch's restricted unpickler, as torch itself tries first."""
    if not data:
        return
    try:
        if data[:2] == b"PK":
            inner = torch._C.PyTorchFileReader(io.BytesIO(data))
            _check_growth(inner, list(inner.get_all_records()), path, len(data))
        torch.load(io.BytesIO(data), weights_only=True)
    except UntrustedFileError:
        raise
    except Exception as problem:  # The unpickler raises what the pickle makes it stumble on.
        why = str(problem).split("WeightsUnpickler error:")[-1].strip().splitlines() or [""]
        raise untrusted(path, f"its {name} need unpickling ({why[0][:120]})") from problem


def _parse(reader: torch._C.PyTorchFileReader, name: str, path: Path) -> Any:
    try:
        return json.loads(bytes(reader.get_record(name)))
    except (ValueError, RecursionError, RuntimeError, OSError) as problem:
        raise FileError(
            f"{path}: is damaged: {name} is no JSON: {root_cause(problem, 200)}"
        ) from problem


def untrusted(path: Path, reason: str) -> UntrustedFileError:
    """Return the error for what only a trusted file may hold."""
    return UntrustedFileError(
        f"{path}: not loaded: {reason}; "
        "give --trust (trust=True) if you know who made it, for loading it may run code"
    )
