"""A device on which time is told by the number of parameters, and a network to time on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fxprune import devices, family
from fxprune.onnx.bench import Timing

BATCHES = [torch.randn(4, 3, 8, 8) for _ in range(2)]


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


def told_clock(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the device "clock" for a test; return the list of what is built on it."""
    built: list[str] = []
    real = family.timed

    def made(module: nn.Module, signature: Any, threads: int, batch: int) -> Any:
        size = sum(one.numel() for one in module.parameters())
        built.append(f"{size}, {threads}, {batch}")
        return lambda: size * 1e-6

    def pair(runs: Any, *_: Any, **__: Any) -> list[devices.Timing]:
        return [devices.Timing(t := run() * 1e3, t * 0.99, t * 1.01) for run in runs]

    def together(
        names: list[str], runs: Any, threads: int, batch: int, seconds: float, clock: Any
    ) -> list[Timing]:
        times = [run() for run in runs]
        if not isinstance(times[0], float):
            return real(names, runs, threads, batch, repeats=5)
        ratios = [time / times[0] for time in times]
        rows = zip(names, [1e3 * time for time in times], ratios, strict=True)
        return [Timing(n, threads, batch, t, t, t, r, r - 0.01, r + 0.01, 9) for n, t, r in rows]

    monkeypatch.setitem(devices.DEVICES, "clock", made)
    monkeypatch.setattr("fxprune.stopwatch.interleaved", pair)
    monkeypatch.setattr(family, "timed", together)
    return built
