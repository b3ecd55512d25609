"""Callback files: the functions that the command line gives `prune`, and batches in files."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fxprune.cli.examples import read_examples
from fxprune.errors import CalibrationError, CallbackError, FileError, FxpruneError, first_line

NAMES = ("calibrate", "loss", "evaluate", "fine_tune")


def read_functions(path: Path) -> dict[str, Any]:
    """Run a Python file and return what it defines of calibrate, loss, evaluate and fine_tune.

    Raises FileError where there is no such file, CallbackError where it fails or defines none, or
    something unusable under its name.
    """
    if path.suffix != ".py":
        raise FileError(f"{path}: a Python file is needed, whose name ends in .py")
    if not path.is_file():
        raise FileError(f"{path}: there is no such file")
    try:
        defined = runpy.run_path(str(path), run_name="callbacks")
    except FxpruneError:
        raise
    except Exception as error:  # it is the user's own program
        said = f"{type(error).__name__}: {first_line(error)}"
        raise CallbackError(f"{path}: it raised {said}") from error
    found = {name: defined[name] for name in NAMES if defined.get(name) is not None}
    if not found:
        raise CallbackError(f"{path}: defines none of {', '.join(NAMES)}; define one at its top")
    for name, value in found.items():
        _check(f"{path}: {name}", name, value)
    return found


def _check(place: str, name: str, value: Any) -> None:
    kind = type(value).__name__
    if name != "calibrate":
        if not callable(value):
            raise CallbackError(f"{place}: a function is needed, not {kind}")
        return
    if isinstance(value, (torch.Tensor, Mapping, str)) or not hasattr(value, "__iter__"):
        raise CallbackError(
            f"{place}: an iterable of batches is needed, not {kind}; give a list or a data loader"
        )


def read_batches(path: Path, size: int) -> list[Any]:
    """Return the batches in a file of tensors, each `size` slices of their leading axes.

    A file of one tensor gives tensors, of several dicts by their names. Raises FileError or
    CalibrationError.
    """
    if path.suffix not in (".safetensors", ".npz"):
        raise FileError(f"{path}: batches are read from .safetensors or .npz")
    if size < 1:
        raise CalibrationError(f"--batch: {size}: 1 or more is needed")
    tensors: dict[str, torch.Tensor] = read_examples(path)
    lengths = {name: len(one) if one.ndim else 0 for name, one in tensors.items()}
    if not lengths or 0 in lengths.values():
        raise CalibrationError(f"{path}: holds no tensors that can be cut along a leading axis")
    count = next(iter(lengths.values()))
    for name, length in lengths.items():
        if length != count:
            first = next(iter(lengths))
            raise CalibrationError(
                f"{path}: {first} holds {count} examples and {name} {length}; make them as many"
            )
    cuts = [slice(start, start + size) for start in range(0, count, size)]
    if len(tensors) == 1:
        return [one[cut] for one in tensors.values() for cut in cuts]
    return [{name: one[cut] for name, one in tensors.items()} for cut in cuts]


def given(functions: Path | None, batches: Path | None, size: int) -> dict[str, Any]:
    """Return the arguments for `prune` that the command line's two files hold.

    Raises CalibrationError where both bring batches.
    """
    found = read_functions(functions) if functions is not None else {}
    if batches is None:
        return found
    if "calibrate" in found:
        raise CalibrationError(
            f"--calibrate: {functions} defines calibrate too; leave one of the two out"
        )
    return {**found, "calibrate": read_batches(batches, size)}
