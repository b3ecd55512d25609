"""Devices: where a latency is measured, and how, so that noise hits all that are compared alike.

A device is a function `(module, signature, threads, batch) -> run`, where calling `run()` once runs
the module on one batch. Others are found as entry points of the group `fxprune.devices`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxprune import onnx
from fxprune.contexts import evaluating
from fxprune.errors import SpecError, shown, unknown
from fxprune.onnx.turns import clock, in_turn
from fxprune.plugins import Table
from fxprune.signature import Signature

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession

Run = Callable[[], Any]
Clock = Callable[[], float]  # seconds
Device = Callable[[nn.Module, Signature, int, int], Run]
ROUNDS = 15  # at least so many runs of each, and for at least so long
SECONDS = 1.0
OPENINGS = 3  # of each, among which the rounds and the seconds are divided


@dataclass(frozen=True)
class Timing:
    """Hold the median of the milliseconds of one run, and the middle half of all of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Return the timing of runs that took so many seconds each."""
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(median * 1e3, low * 1e3, high * 1e3)


def device(name: str, where: str = "objective.device") -> Device:
    """Return a device by name; raises SpecError where there is none of that name."""
    found = DEVICES.get(name)
    if found is None:
        raise SpecError(f"{where}: {unknown('device', name, DEVICES)}")
    return found


def clock_of(name: str, threads: int) -> Clock:
    """Return the clock for a device, of which others than these may not compute here at all."""
    return clock(threads) if name in OURS else time.perf_counter


def interleaved(
    runs: Sequence[Run],
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    clock: Clock = time.perf_counter,
    openings: int = OPENINGS,
) -> list[Timing]:
    """Time runs in turn, a b c a b c …, each warm; return the timing of each.

    Other work of the machine slows all of them alike, so that their ratios can be trusted further
    than the times themselves. All are re-opened a few times: where in memory the weights of a
    session lie changes the time of a small network by a few per cent, and a session opened during
    an export is placed badly.
    """
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(openings):
        fresh = [reopened(run) for run in runs]
        found = in_turn(
            fresh,
            rounds=-(-rounds // openings),
            seconds=seconds * len(runs) / openings,
            clock=clock,
        )
        for times, more in zip(taken, found, strict=True):
            times += more
    return [Timing.of(times) for times in taken]


def batch_of(signature: Signature, wanted: int | None) -> int:
    """Return the batch size to time: what is wanted, else 1, or that of a model which has but one.

    Raises SpecError where a model of a fixed batch is to have another.
    """
    if any(signature.dynamic):
        return wanted or 1
    leaves = pytree.tree_leaves((signature.args, signature.kwargs))
    sizes = [len(one) for one in leaves if isinstance(one, torch.Tensor) and one.ndim]
    fixed = sizes[0] if sizes else 1
    if wanted not in (None, fixed):
        raise SpecError(
            f"objective.batch: {wanted}: the model was captured with a fixed batch of {fixed}; "
            "leave batch out, or give that one"
        )
    return fixed


def inputs_of(signature: Signature, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return example inputs of a batch size, copies that a forward may write to."""
    given = (signature.args, signature.kwargs)
    args, kwargs = signature.resized(batch) if any(signature.dynamic) else given
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (args, kwargs))
    return args, kwargs


def ort_cpu(module: nn.Module, signature: Signature, threads: int, batch: int) -> Run:
    """Run the exported ONNX file in ONNX Runtime on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        shapes = signature.dynamic_shapes(module, batch_only=True)
        args, kwargs = signature.args, signature.kwargs
        written = onnx.export(module, path, args, kwargs, dynamic_shapes=shapes)
        return _session_run(path.read_bytes(), written.inputs, signature, threads, batch)


def resized_run(model: ModelProto, signature: Signature, threads: int, batch: int) -> Run:
    """Run a graph whose weights were made up: numbers that fade away must not make it slow."""
    names = [entry.name for entry in model.graph.input]
    return _session_run(model.SerializeToString(), names, signature, threads, batch, fading=True)


@dataclass(frozen=True, eq=False)
class SessionRun:
    """Run a session of ONNX Runtime on its inputs, opened when it is first run."""

    feeds: dict[str, Any]
    opened: Callable[[], InferenceSession]

    @cached_property
    def session(self) -> InferenceSession:
        """Return the session."""
        return self.opened()

    def __call__(self) -> Any:
        """Run once."""
        return self.session.run(None, self.feeds)


def reopened(run: Run) -> Run:
    """Return a run as fresh as one that is made now, where its device knows how."""
    return replace(run) if isinstance(run, SessionRun) else run


def _session_run(
    model: bytes,
    names: Sequence[str],
    signature: Signature,
    threads: int,
    batch: int,
    fading: bool = False,
) -> SessionRun:
    opened = partial(onnx.open_session, model, threads, fading=fading)
    inputs = inputs_of(signature, batch)
    leaves = [one for one in pytree.tree_leaves(inputs) if isinstance(one, torch.Tensor)]
    feeds = {
        name: np.ascontiguousarray(leaf.detach().cpu().numpy())
        for name, leaf in zip(names, leaves, strict=True)
    }
    return SessionRun(feeds, opened)


def torch_cpu(module: nn.Module, signature: Signature, threads: int, batch: int) -> Run:
    """Run the module in PyTorch on the CPU."""
    args, kwargs = inputs_of(signature, batch)

    def run() -> Any:
        with _threads(threads), evaluating(module), torch.inference_mode():
            return module(*args, **kwargs)

    return run


def torch_compile(module: nn.Module, signature: Signature, threads: int, batch: int) -> Run:
    """Run the module on the CPU as `torch.compile` makes it, with inputs of this one shape."""
    compiled = torch.compile(module, dynamic=False)
    args, kwargs = inputs_of(signature, batch)

    def run() -> Any:
        with _threads(threads), evaluating(module), torch.no_grad():
            return compiled(*args, **kwargs)

    return run


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _wrong(made: Any) -> str:
    return "" if callable(made) else f"a device is a function, not {shown(made)}"


DEVICES: Table[Device] = Table("fxprune.devices", _wrong)
DEVICES.update({"ort-cpu": ort_cpu, "torch-cpu": torch_cpu, "torch.compile": torch_compile})
OURS = frozenset(DEVICES.own)
