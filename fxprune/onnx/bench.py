"""Compare ONNX files in ONNX Runtime: time, memory, size, parameters and multiplications."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fxprune.errors import ExportError, FileError, InputError
from fxprune.onnx.costs import costs
from fxprune.onnx.reading import Shapes, generate, read, size
from fxprune.onnx.sessions import Array, open_session, run
from fxprune.onnx.turns import Timing, clock, timed


@dataclass(frozen=True)
class Facts:
    """Hold what one file is: bytes, nodes, parameters, MACs, and memory it takes to run.

    `macs_missing` counts the operators whose MACs cannot be told. `peak_bytes` is the highest
    memory of a process of its own that loads and runs the file, less what it held before.
    """

    path: str
    bytes: int
    nodes: int
    parameters: int
    macs: int
    macs_missing: int
    peak_bytes: int | None


def bench(
    paths: Sequence[str | os.PathLike[str]],
    *,
    threads: Sequence[int] = (1,),
    batch: int | None = None,
    shapes: Shapes | None = None,
    seconds: float = 2.0,
    repeats: int | None = None,
) -> list[Timing]:
    """Time ONNX files in turn on the same inputs, for each number of threads; the first is 1.0.

    Each file is run `repeats` times, or for about `seconds`. Inputs are made up from the files.
    Raises `FileError` for what is no ONNX file, `InputError` where inputs differ or lack sizes.
    """
    feeds = common_feeds(paths, batch, shapes)
    found: list[Timing] = []
    for count in threads:
        runs = [_runner(path, feeds, count) for path in paths]
        names = list(map(str, paths))
        found += timed(names, runs, count, batch, seconds, repeats, clock=clock(count))
    return found


def common_feeds(
    paths: Sequence[str | os.PathLike[str]], batch: int | None = None, shapes: Shapes | None = None
) -> dict[str, Array]:
    """Make inputs that all files take; raises `InputError` where they take different ones."""
    every = [generate(read(path, weights=False), str(path), batch, shapes) for path in paths]
    for path, feeds in zip(paths, every, strict=True):
        ours, theirs = _described(every[0]), _described(feeds)
        if ours != theirs:
            names = [n for n in {**ours, **theirs} if ours.get(n) != theirs.get(n)]
            told = [f"{n} is {d.get(n, 'missing')}" for n in names[:1] for d in (theirs, ours)]
            raise InputError(
                f"{path}: its inputs are not those of {paths[0]}: {told[0]}, there it is "
                f"{told[1].partition(' is ')[2]}; compare files that are called alike"
            )
    return every[0] if every else {}


def _described(feeds: Mapping[str, Array]) -> dict[str, str]:
    return {n: f"{a.dtype}[{','.join(map(str, a.shape))}]" for n, a in feeds.items()}


def _runner(
    path: str | os.PathLike[str], feeds: Mapping[str, Array], threads: int
) -> Callable[[], Any]:
    given = dict(feeds)
    try:
        session = open_session(path, threads)
        run(session, given)
    except ExportError as problem:
        raise FileError(f"{path}: {problem}") from problem
    return lambda: session.run(None, given)


def facts(path: str | os.PathLike[str], feeds: Mapping[str, Array], threads: int = 1) -> Facts:
    """Describe a file that takes these inputs; its memory is measured in a process of its own."""
    model = read(path, weights=False)
    found = costs(model, {name: array.shape for name, array in feeds.items()})
    return Facts(
        str(path),
        size(path, model),
        len(model.graph.node),
        found.parameters,
        found.macs,
        found.unknown,
        peak_bytes(path, feeds, threads),
    )


def peak_bytes(
    path: str | os.PathLike[str], feeds: Mapping[str, Array], threads: int = 1
) -> int | None:
    """Return by how much loading and running a file raises a process's highest memory.

    None where the process does not get to an end, as where memory is short.
    """
    script = Path(__file__).with_name("peak_process.py")
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "feeds.npz"
        np.savez(stored, *feeds.values())  # by position: a keyword could clash with savez's own
        # -P: the script's own folder holds modules that are no top-level names
        call = [sys.executable, "-P", str(script), os.path.abspath(path), str(stored)]
        call += [str(threads), *feeds]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip() else None
