"""Load and save models; look into a file before loading, since loading can run what is in it."""

from __future__ import annotations

import io
import json
import math
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn
from torch.export.graph_signature import ConstantArgument

from . import named_tuples
from .errors import FileError, UntrustedFileError, root_cause
from .files import atomic_write
from .untrusted import reasons

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


def inspect_pt2(path: str | os.PathLike[str]) -> None:
    """Check that a `.pt2` can be loaded by `load_exported` without running code from it.

    Raises `UntrustedFileError` with the reason when it cannot, and `FileError` when the file is
    missing, truncated or no such archive. Only `load_exported` reads the archive as it was
    inspected; `torch.export.load` falls back to an older format that is not.
    """
    with _opened(Path(path)) as file:
        _inspect(file, Path(path))


def load_exported(
    path: str | os.PathLike[str], *, trust: bool = False
) -> tuple[torch.export.ExportedProgram, dict[str, str]]:
    """Load a `.pt2` and its extra files, after `inspect_pt2` unless `trust` is set.

    Raises `FileError`, or `UntrustedFileError` for what only `trust` (`--trust`) may load.
    """
    # Imported here: it brings half of the compiler, which nothing else at start-up needs.
    from torch.export.pt2_archive._package import load_pt2

    path = Path(path)
    with _opened(path) as file:
        if not trust:
            _inspect(file, path)
            file.seek(0)
        _name_tuples(file, path, trust)
        try:
            contents = load_pt2(file)
        except Exception as problem:  # torch raises whatever the damaged part makes it stumble on.
            raise _unreadable(path, problem) from problem
    program = contents.exported_programs.get("model")
    if program is None:
        found = ", ".join(contents.exported_programs) or "none"
        raise FileError(f"{path}: holds no program called 'model' (it holds {found})")
    return program, dict(contents.extra_files)


def _name_tuples(file: IO[bytes], path: Path, trust: bool) -> None:
    """See that every named tuple of a program is known here; import those that are not, if trusted.

    Raises UntrustedFileError, or FileError for one that cannot be imported.
    """
    try:
        program = json.loads(torch._C.PyTorchFileReader(file).get_record("models/model.json"))
        unknown = named_tuples.missing(program)
    except Exception:  # what is damaged is told by what reads all of it
        unknown = []
    file.seek(0)
    for name in unknown:
        if not trust:
            raise _untrusted(path, f"models/model.json: the named tuple {name!r} is not imported")
        try:
            named_tuples.imported(name)
        except Exception as problem:  # importing runs any code
            raise FileError(
                f"{path}: needs the named tuple {name!r}: {root_cause(problem, 200)}; make it "
                "importable"
            ) from problem


def load_pickled_module(path: str | os.PathLike[str], *, trust: bool = False) -> nn.Module:
    """Load a module that was pickled with `torch.save(model, path)`, onto the CPU.

    Raises `UntrustedFileError` without `trust`, since unpickling runs code from the file, and
    `FileError` for a file that holds no module (a state dict, a checkpoint, TorchScript).
    """
    path = Path(path)
    with _opened(path) as file:
        if not trust:
            raise UntrustedFileError(
                f"{path}: a pickled model runs code when it is loaded; "
                "give --trust (trust=True) if you know who made it, or save it as .pt2"
            )
        try:
            found = torch.load(file, map_location="cpu", weights_only=False)
        except (ModuleNotFoundError, AttributeError) as problem:
            raise FileError(
                f"{path}: needs the code of its model: {root_cause(problem, 200)}; "
                "make it importable"
            ) from problem
        except Exception as problem:  # A pickle raises what it likes.
            raise _unreadable(path, problem) from problem
    if isinstance(found, torch.jit.ScriptModule):
        raise FileError(f"{path}: is TorchScript; save the nn.Module itself, or export it to .pt2")
    if isinstance(found, nn.Module):
        return found
    raise FileError(f"{path}: {_what_instead(found)}")


def save_exported(
    program: torch.export.ExportedProgram,
    path: str | os.PathLike[str],
    extra: Mapping[str, str],
) -> None:
    """Write a program and extra text files as one `.pt2`, atomically.

    Raises `FileError` when the file cannot be written or the program cannot be serialized.
    """
    texts = [s.arg for s in program.graph_signature.output_specs if _is_text(s.arg)]
    if texts:  # torch writes it, and fails to read the file back
        raise FileError(
            f"{path}: cannot be saved: the model returns the text {texts[0].value!r}, which a .pt2 "
            "cannot hold; return it from a wrapper around the model"
        )
    with atomic_write(path) as temporary:
        try:
            named_tuples.register(program.call_spec.in_spec, program.call_spec.out_spec)
            # Through a handle, so that the temporary name does not become the archive's root.
            with temporary.open("wb") as file:
                torch.export.save(program, file, extra_files=dict(extra))
        except OSError:
            raise
        except Exception as problem:  # torch.export.save raises errors of many types.
            raise FileError(f"{path}: cannot be saved: {root_cause(problem, 200)}") from problem


def _is_text(output: Any) -> bool:
    return isinstance(output, ConstantArgument) and isinstance(output.value, str)


def _inspect(file: IO[bytes], path: Path) -> None:
    reader = _open_archive(file, path)
    names = set(reader.get_all_records())
    _check_records(reader, path, os.fstat(file.fileno()).st_size)
    for name in ("models/model.json", *(config for _, config in _CONFIGS)):
        if name in names:
            for reason in reasons(_parse(reader, name, path)):
                raise _untrusted(path, f"{name}: {reason}")
    for folder, config in _CONFIGS:
        if config in names:
            _check_payloads(reader, path, folder, _parse(reader, config, path))
    for name in ("sample_inputs", "weights", "constants"):
        if f"data/{name}/model.pt" in names:
            _check_pickle(bytes(reader.get_record(f"data/{name}/model.pt")), path, name)


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
            raise _untrusted(path, f"holds compiled native code ({name[:60]!r})")
        if "_obj_" in name:
            raise _untrusted(path, f"holds a pickled object ({name[:60]!r})")
        unsafe = ".." in name.split("/") or "\\" in name or "//" in name
        if unsafe or not _RECORDS.fullmatch(name):
            raise _untrusted(path, f"holds {name[:60]!r}, which torch.export.save does not write")
    # The reader finds records without regard to case, and the first of two.
    if len({name.lower() for name in names}) < len(names):
        raise _untrusted(path, "holds two records of one name")
    _check_growth(reader, names, path, size)


def _check_growth(
    reader: torch._C.PyTorchFileReader, names: list[str], path: Path, size: int
) -> None:
    unpacked = sum(reader.get_record_size(name) for name in names)
    if unpacked > _GROWTH * size + _SLACK:
        raise _untrusted(path, f"unpacks {size:,} bytes to {unpacked:,} (a zip bomb?)")


def _check_payloads(
    reader: torch._C.PyTorchFileReader, path: Path, folder: str, config: Any
) -> None:
    """Check that each tensor is a raw record of the archive and asks for no more than it holds."""
    try:
        for name, meta in config["config"].items():
            record = folder + meta["path_name"]
            if not re.fullmatch(r"(weight|tensor)_\d+", meta["path_name"]):
                raise _untrusted(path, f"{name[:60]!r} is stored as {meta['path_name'][:60]!r}")
            elements = math.prod(size["as_int"] for size in meta["tensor_meta"]["sizes"])
            if elements > _GROWTH * reader.get_record_size(record) + _SLACK:
                raise _untrusted(path, f"{name[:60]!r} is larger than what is stored of it")
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
        raise _untrusted(path, f"its {name} need unpickling ({why[0][:120]})") from problem


def _parse(reader: torch._C.PyTorchFileReader, name: str, path: Path) -> Any:
    try:
        return json.loads(bytes(reader.get_record(name)))
    except (ValueError, RecursionError, RuntimeError, OSError) as problem:
        raise FileError(
            f"{path}: is damaged: {name} is no JSON: {root_cause(problem, 200)}"
        ) from problem


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to read, once: what was inspected is what is loaded."""
    try:
        file = path.open("rb")
    except OSError as problem:
        raise FileError(f"{path}: cannot be read: {problem.strerror}") from problem
    with file:
        yield file


def _untrusted(path: Path, reason: str) -> UntrustedFileError:
    return UntrustedFileError(
        f"{path}: not loaded: {reason}; "
        "give --trust (trust=True) if you know who made it, for loading it may run code"
    )


def _unreadable(path: Path, problem: BaseException) -> FileError:
    return FileError(f"{path}: cannot be loaded: {root_cause(problem, 200)}")


def _what_instead(found: object) -> str:
    """Say what a file holds that is not a module, and what to do."""
    if isinstance(found, Mapping):
        if any(isinstance(value, nn.Module) for value in found.values()):
            return "is a checkpoint with a module in it; save the module alone"
        return "is a state dict (weights without a model); load it into the model and save that"
    return f"holds a {type(found).__name__}, not a module; save it with torch.save(model, path)"
