"""A clock on which time is told: it stands still but for what runs, which takes what it is told to.

Tests never look at a real clock, so that none depends on what else the machine does: timing is
refused in every test, and integer programs have no limit (`refused`). Those that time, or run
what does, ask for the fixture `told_clock`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime import InferenceSession
from torch import nn

from fxprune.allocators.optimal import allocator
from fxprune.latency import devices
from tests.support.noise import noise

CLOCKS = "fxprune.onnx.turns.time"  # whoever times runs asks there for a clock
KERNELS = "fxprune.latency.kernels.model.microseconds"
EACH = 1e-6  # seconds that a run takes for each weight
ANY = 1e-4  # and that a file takes in any case
LONG = 1e6  # seconds that an integer program has


class ToldClock:
    """Tell the time: a run takes a power of the number of weights, and a floor.

    On the device "clock" nothing runs at all; ONNX files, their kernels and the device "torch-cpu"
    run for real, and time is told for them too.
    """

    def __init__(self) -> None:
        self.now, self.power, self.floor = 0.0, 1.0, 0.0
        self.built: list[str] = []  # on the device "clock"

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds

    def idle(self, module: nn.Module, signature: Any, threads: int, batch: int) -> Any:
        """Be a device on which only time passes."""
        size = weights(module)
        self.built.append(f"{size}, {threads}, {batch}")
        return lambda: self.passes(self.floor + size**self.power * EACH)

    def torch_cpu(self, module: nn.Module, *given: Any) -> Callable[[], Any]:
        """Be the device "torch-cpu"."""
        run, size = devices.torch_cpu(module, *given), weights(module)

        def told() -> Any:
            self.passes(size * EACH)
            return run()

        return told

    def sessions(self) -> type[InferenceSession]:
        """Return a class of sessions whose runs take their time."""

        clock = self

        class Session(InferenceSession):
            def __init__(self, model: Any, *given: Any, **options: Any) -> None:
                super().__init__(model, *given, **options)
                self.takes = ANY + elements(model) * EACH

            def run(self, *given: Any) -> Any:
                clock.passes(self.takes)
                return super().run(*given)

        return Session


def weights(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


def elements(model: Any) -> int:
    """Return how many weights an ONNX model has: its bytes, or the file."""
    read = onnx.load_from_string if isinstance(model, bytes) else onnx.load
    return sum(int(np.prod(one.dims)) for one in read(model).graph.initializer)


def microseconds(made: onnx.ModelProto, feeds: Any, threads: int) -> float:
    """Say what the kernels of a small model take: so much for each weight and input."""
    return 1e6 * EACH * (elements(made.SerializeToString()) + sum(x.size for x in feeds.values()))


def told(patch: pytest.MonkeyPatch) -> ToldClock:
    """Let all that is timed take what is told."""
    made = ToldClock()
    patch.setattr(CLOCKS, SimpleNamespace(thread_time=made, perf_counter=made))
    patch.setattr(onnxruntime, "InferenceSession", made.sessions())
    patch.setitem(devices.DEVICES, "torch-cpu", made.torch_cpu)
    patch.setitem(devices.DEVICES, "clock", made.idle)
    patch.setattr(devices, "OURS", devices.OURS | {"clock"})
    patch.setattr(KERNELS, microseconds)
    return made


def refused(patch: pytest.MonkeyPatch) -> None:
    """Let nothing be timed, and nothing be cut off when time is up."""

    def never(*_: Any) -> NoReturn:
        raise AssertionError("a test timed something for real; ask for the fixture told_clock")

    patch.setattr(CLOCKS, SimpleNamespace(thread_time=never, perf_counter=never))
    patch.setattr(KERNELS, never)
    solved = allocator.best

    def best(grid: Any, tables: Any, bracket: Any, seconds: float, gap: float) -> Any:
        return solved(grid, tables, bracket, LONG, gap)

    patch.setattr(allocator, "monotonic", lambda: 0.0)
    patch.setattr(allocator, "best", best)


# ---- a network to time ---------------------------------------------------------------------------

BATCHES = [noise(4, 3, 8, 8, seed=k) for k in range(2)]


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(32, 48, 3), nn.ReLU(), nn.Conv2d(48, 4, 1)).eval()


def train(module: nn.Module, step: int) -> None:
    optimizer = torch.optim.SGD(module.parameters(), 1e-2)
    module(BATCHES[0]).square().mean().backward()  # the dropout draws random numbers
    optimizer.step()


def worth(module: nn.Module) -> float:
    with torch.no_grad():
        return float(module(BATCHES[0]).std())
