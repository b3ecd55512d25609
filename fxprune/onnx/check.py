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
from torch import nn
from torch.utils import _pytree as pytree

from fxprune.errors import ExportError
from fxprune.onnx.feeds import Inputs
from fxprune.onnx.sessions import Array, open_session, run
from fxprune.onnx.turns import clock, in_turn

TINY = 1e-6
"""Outputs smaller than this count as zero when an error is made relative."""


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


def compare_latency(
    paths: Sequence[str | os.PathLike[str] | bytes],
    feeds: Mapping[str, Array],
    *,
    threads: int = 1,
    repeats: int = 30,
) -> list[float]:
    """Return the median milliseconds of each model on the same feeds.

    All models are open in this process and take turns, so that a busy machine slows all alike;
    three warm-up runs are not counted. Raises `ExportError` when one cannot be loaded or run.
    """
    sessions = [open_session(path, threads) for path in paths]
    runs = [partial(run, session, feeds) for session in sessions]
    taken = in_turn(runs, rounds=repeats, clock=clock(threads))
    return [1000 * statistics.median(times) for times in taken]
