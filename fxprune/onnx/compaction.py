"""Run passes over a model, each compared in ONNX Runtime with what the model gave before."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from fxprune.errors import ExportError, FileError, FxpruneError, PassError, root_cause
from fxprune.files import atomic_write, check_writable
from fxprune.onnx.check import relative_error
from fxprune.onnx.limits import LIMIT, RTOL
from fxprune.onnx.passes import compaction
from fxprune.onnx.passes.fold import FRESH_EVERY_RUN
from fxprune.onnx.program import FACT, OnnxPass, OnnxProgram
from fxprune.onnx.reading import Shapes, batches, generate, inputs, read
from fxprune.onnx.sessions import Array, open_session, run

Feeds = Mapping[str, Array]
ROUNDS = 3
"""Times that the pipeline is run at most: what one pass makes, an earlier one may use."""


@dataclass(frozen=True)
class Step:
    """Say what one pass did: nodes before and after, and the largest relative error seen."""

    name: str
    before: int
    after: int
    error: float
    seconds: float


@dataclass(frozen=True)
class Compacted:
    """Hold a compacted model, the steps that changed it, and notes on what was not done."""

    model: onnx.ModelProto
    steps: tuple[Step, ...]
    notes: tuple[str, ...]


def compact(
    model: onnx.ModelProto,
    feeds: Sequence[Feeds],
    passes: Sequence[OnnxPass] | None = None,
    *,
    rtol: float = RTOL,
    threads: int = 1,
) -> Compacted:
    """Return the model made smaller, with the numbers, inputs, outputs and metadata it had.

    `feeds` are inputs to compare on, best of two batch sizes. After each pass that changes the
    model, ONNX Runtime runs it without optimisations of its own; where that differs by more than
    `rtol`, or the model grew or is called otherwise, the pass is undone and a note says so.
    """
    reason = _unfit(model)
    if reason is not None:
        return Compacted(model, (), (f"nothing was compacted: {reason}",))
    try:
        judge = _Judge(model, feeds, rtol, threads)
    except ExportError as problem:
        return Compacted(model, (), (f"nothing was compacted: {problem}",))
    program, steps, notes = OnnxProgram(model), list[Step](), dict[str, str]()
    chosen = list(compaction() if passes is None else passes)
    for _ in range(ROUNDS):
        done = len(steps)
        for one in (one for one in chosen if one.name not in notes):
            program, step, note = _passed(program, one, judge)
            steps += [step] if step else []
            notes |= {one.name: note} if note else {}
        if len(steps) == done:
            break
    return Compacted(program.model, tuple(steps), tuple(notes.values()))


def _passed(
    program: OnnxProgram, one: OnnxPass, judge: _Judge
) -> tuple[OnnxProgram, Step | None, str | None]:
    """Run one pass; return the program after it, and what it did or why it was undone."""
    if FACT not in one.requires:
        raise PassError(f"{one.name}: not a pass over ONNX graphs; see fxprune passes: onnx_…")
    began = time.perf_counter()
    try:
        after = one(program)
    except FxpruneError:
        raise
    except Exception as problem:  # the optimisers that passes call raise what they like
        return program, None, f"{one.name}: left out: it fails: {root_cause(problem, 200)}"
    if after is program:
        return program, None, None
    error, fault = judge(after.model)
    if fault is not None:
        return program, None, f"{one.name}: undone: {fault}"
    sizes = len(program.model.graph.node), len(after.model.graph.node)
    return after, Step(one.name, *sizes, error, time.perf_counter() - began), None


class _Judge:
    """Compare models with what one gave in the beginning."""

    def __init__(
        self, model: onnx.ModelProto, feeds: Sequence[Feeds], rtol: float, threads: int
    ) -> None:
        self._model, self._feeds, self._rtol, self._threads = model, feeds, rtol, threads
        data = model.SerializeToString()
        self._bytes = len(data)
        self._wanted = self._run(data)

    def __call__(self, model: onnx.ModelProto) -> tuple[float, str | None]:
        """Return the largest relative error, and what is wrong with a model if anything is."""
        if _called(model) != _called(self._model):
            return 0.0, "the inputs or outputs of the model changed"
        data = model.SerializeToString()
        if len(data) > self._bytes:
            return 0.0, f"the model grew from {self._bytes:,} to {len(data):,} bytes"
        try:
            found = self._run(data)
        except ExportError as problem:
            return float("inf"), str(problem)
        worst = 0.0
        for feed, ours, theirs in zip(self._feeds, self._wanted, found, strict=True):
            for entry, a, b in zip(model.graph.output, ours, theirs, strict=True):
                error = relative_error(a, b)
                worst = max(worst, error)
                if not error <= max(self._rtol, _resolution(a)):
                    at = ", ".join("x".join(map(str, one.shape)) for one in feed.values())
                    return worst, f"output {entry.name} changed by {error:.2g} (inputs {at})"
        return worst, None

    def _run(self, data: bytes) -> list[list[Array]]:
        session = open_session(data, self._threads, optimized=False)
        return [run(session, feed) for feed in self._feeds]


def _resolution(values: Array) -> float:
    """Return four steps of a float type: half precision cannot be nearer than that."""
    return 4 * float(np.finfo(values.dtype).eps) if values.dtype.kind == "f" else 0.0


def _called(model: onnx.ModelProto) -> list[bytes]:
    """Return how a model is called: names, types and sizes, symbols included."""
    entries = (*model.graph.input, *model.graph.output)
    return [e.name.encode() + e.type.SerializeToString(deterministic=True) for e in entries]


def _unfit(model: onnx.ModelProto) -> str | None:
    """Say why a model cannot be compacted soundly; None where it can."""
    graph = model.graph
    if len(inputs(model)) != len(graph.input):
        held = next(e.name for e in graph.input if e not in inputs(model))
        return f"input {held} has a default value, which a caller may replace"
    if any(e.type.WhichOneof("value") != "tensor_type" for e in (*graph.input, *graph.output)):
        return "an input or output is no tensor"
    if graph.sparse_initializer or model.training_info:
        return "it holds sparse weights or training steps"
    fresh = sorted({node.op_type for node in graph.node} & FRESH_EVERY_RUN)
    return (
        f"{fresh[0]} draws other numbers in every run, so nothing can be compared"
        if fresh
        else None
    )


@dataclass(frozen=True)
class FileSummary:
    """Say what became of a file: bytes and nodes before and after, steps and notes."""

    path: Path
    bytes_before: int
    bytes_after: int
    nodes_before: int
    nodes_after: int
    steps: tuple[Step, ...]
    notes: tuple[str, ...]


def compact_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    passes: Sequence[OnnxPass] | None = None,
    *,
    shapes: Shapes | None = None,
    rtol: float = RTOL,
) -> FileSummary:
    """Compact an ONNX file into another (or the same), compared on made-up inputs.

    Axes 0 of any size are tried with 1 and 2; other free axes need `shapes`. Raises `FileError`
    for what is no ONNX file, `InputError` where no inputs can be made up.
    """
    check_writable(target)
    model = read(source)
    if model.ByteSize() > LIMIT:
        raise FileError(f"{source}: holds more than {LIMIT:,} bytes; one file cannot hold it")
    sizes = (1, 2) if batches(model) else (None,)
    feeds = [generate(model, str(source), size, shapes, seed=k) for k, size in enumerate(sizes)]
    found = compact(model, feeds, passes, rtol=rtol, threads=os.cpu_count() or 1)
    with atomic_write(target) as temporary:
        onnx.save_model(found.model, os.fspath(temporary), format="protobuf")
        after = temporary.stat().st_size
    nodes = len(model.graph.node), len(found.model.graph.node)
    return FileSummary(Path(target), model.ByteSize(), after, *nodes, found.steps, found.notes)
