"""Compare a module with the ONNX file made of it, and ONNX files with each other."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils import _pytree as pytree

from ..errors import ExportError
from .feeds import Inputs
from .turns import in_turn

Array = NDArray[Any]
TINY = 1e-6
"""Outputs smaller than this count as zero when an error is made relative."""


def session_options(
    threads: int = 1, *, optimized: bool = True, fading: bool = False
) -> ort.SessionOptions:
    """Return the options of a session of ONNX Runtime that writes no log lines.

    Not `optimized`, it runs the graph as it is written, node by node. `fading` is for made-up
    weights: numbers may become so small from layer to layer that arithmetic would be slow.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Threads that wait for work would take the cores from the session that runs next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.set_denormal_as_zero", "1" if fading else "0")
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Weights packed for speed take longer to pack than a run or two gains.
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def open_session(
    model: str | os.PathLike[str] | bytes, threads: int = 1, *, optimized: bool = True
) -> ort.InferenceSession:
    """Open an ONNX model (a path or its bytes) in ONNX Runtime on the CPU, without log lines.

    Raises `ExportError` when ONNX Runtime refuses the model.
    """
    options = session_options(threads, optimized=optimized)
    source = model if isinstance(model, bytes) else os.fspath(model)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # ONNX Runtime's exception types share no public base class.
        raise ExportError(f"ONNX Runtime cannot load the model: {_line(problem)}") from problem


def feeds_for(
    session: ort.InferenceSession, names: Sequence[object], inputs: Inputs
) -> dict[str, Array]:
    """Name each leaf of the inputs as the exported program does; keep those the session reads."""
    leaves = pytree.tree_leaves(inputs)
    named = {name: leaf for name, leaf in zip(names, leaves, strict=True) if isinstance(name, str)}
    return {entry.name: to_array(named[entry.name]) for entry in session.get_inputs()}


def to_array(value: Any) -> Array:
    """Turn a tensor or number into an array; raise `ExportError` where numpy lacks the dtype."""
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    try:
        array: Array = value.detach().cpu().numpy()
    except TypeError as problem:
        raise ExportError(
            f"{value.dtype} cannot be compared with ONNX Runtime; export the module in single or "
            "half precision, or save it as .pt2"
        ) from problem
    return array


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Put a module in eval mode without gradients; restore its modes and buffers afterwards."""
    modes = {part: part.training for part in module.modules()}
    # A forward may write a buffer (a step counter): the caller's module must not notice.
    buffers = {buffer: buffer.detach().clone() for buffer in module.buffers()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(modes[module])
        for part, mode in modes.items():
            part.training = mode
        with torch.no_grad():
            for buffer, before in buffers.items():
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


def relative_error(ours: Array, theirs: Array) -> float:
    """Return max |ours - theirs| / max |ours|; infinite where shapes or infinities differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    if ours.size == 0:
        return 0.0
    wide = np.complex128 if ours.dtype.kind == "c" else np.float64
    a, b = ours.astype(wide), theirs.astype(wide)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    gap = np.abs(a[finite] - b[finite]).max() / max(np.abs(a[finite]).max(), TINY)
    return float("inf") if np.isnan(gap) else float(gap)


def run(session: ort.InferenceSession, feeds: Mapping[str, Array]) -> list[Array]:
    """Run one session; raise `ExportError` with ONNX Runtime's reason when it fails."""
    try:
        outputs: list[Array] = session.run(None, dict(feeds))
    except Exception as problem:  # ONNX Runtime's exception types share no public base class.
        raise ExportError(f"ONNX Runtime cannot run the model: {_line(problem)}") from problem
    return outputs


def compare_latency(
    paths: Sequence[str | os.PathLike[str] | bytes],
    feeds: Mapping[str, Array],
    *,
    threads: int = 1,
    repeats: int = 30,
) -> list[float]:
    """Return the median milliseconds of each model on the same feeds.

    All models stay open in this process and take turns, so that a busy machine slows all alike;
    three warm-up runs are not counted. Raises `ExportError` when one cannot be loaded or run.
    """
    sessions = [open_session(path, threads) for path in paths]
    runs = [partial(run, session, feeds) for session in sessions]
    return [1000 * statistics.median(times) for times in in_turn(runs, rounds=repeats)]


def _line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:300]
