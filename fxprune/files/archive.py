"""Load and save models; look into a file before loading, since loading can run what is in it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn
from torch.export.graph_signature import ConstantArgument

from fxprune.contexts import quiet
from fxprune.errors import FileError, UntrustedFileError, root_cause
from fxprune.files import containers, example_inputs
from fxprune.files.atomic import atomic_write
from fxprune.files.inspection import check_sums, inspect, untrusted


def inspect_pt2(path: str | os.PathLike[str]) -> None:
    """Check that a `.pt2` can be loaded by `load_exported` without running code from it.

    Raises `UntrustedFileError` with the reason when it cannot, and `FileError` when the file is
    missing, truncated or no such archive. Only `load_exported` reads the archive as it was
    inspected; `torch.export.load` falls back to an older format that is not.
    """
    with _opened(Path(path)) as file:
        inspect(file, Path(path))


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
        if trust:
            _import_containers(file, path)
        else:
            inspect(file, path)
        check_sums(file, path)
        file.seek(0)
        try:
            contents = load_pt2(file)
        except Exception as problem:  # torch raises whatever the damaged part makes it stumble on.
            raise _unreadable(path, problem) from problem
    program = contents.exported_programs.get("model")
    if program is None:
        found = ", ".join(contents.exported_programs) or "none"
        raise FileError(f"{path}: holds no program called 'model' (it holds {found})")
    extra = dict(contents.extra_files)
    try:
        example_inputs.put_back(program, extra.pop(example_inputs.RECORD, None))
        odd = example_inputs.strange(program)
    except Exception as problem:  # the containers in the file raise what they like
        raise FileError(
            f"{path}: its example inputs are damaged: {root_cause(problem, 200)}"
        ) from problem
    if odd is not None and not trust:
        raise untrusted(path, f"an example input is called {odd[:60]!r}")
    return program, extra


def _import_containers(file: IO[bytes], path: Path) -> None:
    """Import the containers of a trusted program that are not here yet.

    Raises FileError for one that cannot be imported.
    """
    try:
        program = json.loads(torch._C.PyTorchFileReader(file).get_record("models/model.json"))
        unknown = containers.missing(program)
    except Exception:  # what is damaged is told by what reads all of it
        unknown = []
    file.seek(0)
    for name in unknown:
        try:
            containers.imported(name)
        except Exception as problem:  # importing runs any code
            raise FileError(
                f"{path}: needs the type {name!r}: {root_cause(problem, 200)}; make it importable, "
                "or register it as a pytree"
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
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        # Through a handle, so that the temporary name does not become the archive's root.
        handle = _Patient(file)
        try:
            containers.register(program.call_spec.in_spec, program.call_spec.out_spec)
            stored, beside = example_inputs.storable(program)
            files: Any = {**extra, **beside}
            with quiet():  # torch warns of every weight that is not laid out row by row
                torch.export.save(stored, handle, extra_files=files)  # type: ignore[arg-type]
        except Exception as problem:  # torch.export.save raises errors of many types.
            if handle.fault is None:
                raise FileError(f"{path}: cannot be saved: {root_cause(problem, 200)}") from problem
        if handle.fault is not None:
            raise handle.fault


class _Patient(io.RawIOBase):
    """Write to a file and keep what the disk refuses: torch's writer ends the process over it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.fault: OSError | None = None

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = 0, /) -> int:
        return place  # torch goes back to the beginning when all is written

    def write(self, data: Any, /) -> int:
        if self.fault is None:
            try:
                self._file.write(data)
            except OSError as problem:
                self.fault = problem
        return len(data)


def _is_text(output: Any) -> bool:
    return isinstance(output, ConstantArgument) and isinstance(output.value, str)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to read, once: what was inspected is what is loaded."""
    try:
        file = path.open("rb")
    except OSError as problem:
        raise FileError(f"{path}: cannot be read: {problem.strerror}") from problem
    with file:
        yield file


def _unreadable(path: Path, problem: BaseException) -> FileError:
    return FileError(f"{path}: cannot be loaded: {root_cause(problem, 200)}")


def _what_instead(found: object) -> str:
    """Say what a file holds that is not a module, and what to do."""
    if isinstance(found, Mapping):
        if any(isinstance(value, nn.Module) for value in found.values()):
            return "is a checkpoint with a module in it; save the module alone"
        return "is a state dict (weights without a model); load it into the model and save that"
    return f"holds a {type(found).__name__}, not a module; save it with torch.save(model, path)"
