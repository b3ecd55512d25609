"""Bring the networks of equal_latency.py, and all that every tool's result is put through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

import accuracy
import fashion
import fxprune
import stamps
from fxprune.loop.fine_tuning import recalibrate

UNLABELLED = 320  # pictures on which norms are estimated and MobileNetV2 is tuned
BATCH = 16  # of those pictures


@dataclass(frozen=True)
class Task:
    """Hold a trained network, how it is tested, its norms estimated anew, and how it is tuned."""

    model: nn.Module
    inputs: tuple[Any, ...]
    test: Callable[[nn.Module], float]
    estimate: Callable[[nn.Module], None]
    tune: Callable[[nn.Module], None]


def fashion_task(name: str, steps: int) -> Task:
    """Return a network of Fashion-MNIST; it is tuned on labelled images."""
    data = {split: fashion.load_data(split) for split in ("train", "test")}
    return of_bench(accuracy.Bench.of(name, fashion.trained(name)[0], **data, steps=steps))


def of_bench(bench: accuracy.Bench) -> Task:
    """Return the task of a network with its images."""
    loss = accuracy.loss
    tune = fxprune.FineTune(
        batches=bench.train,
        loss=loss,
        optimizer=accuracy.OPTIMIZERS.get(bench.name, accuracy.OPTIMIZERS["resnet20"]),
        recalibrate=False,
    )
    return Task(
        bench.model,
        (bench.calibrate[0].images[:2],),
        lambda module: fashion.accuracy(module, bench.test),
        lambda module: recalibrate(module, bench.calibrate, loss),
        tune,
    )


def photo_task(steps: int) -> Task:
    """Return MobileNetV2; it is tuned towards the outputs of the original, without labels."""
    model, data = stamps.mobilenet(), stamps.photos()
    batches = list(stamps.others(UNLABELLED).split(BATCH))

    def run(module: nn.Module, images: torch.Tensor) -> torch.Tensor:
        return module(images).mean()  # counts nothing beside the distance to the teacher

    tune = fxprune.FineTune(
        batches=[batches[k % len(batches)] for k in range(steps)],
        loss=run,
        lr=3e-3,
        teacher=model,
        distillation=1.0,
        recalibrate=False,
    )
    return Task(
        model,
        (batches[0][:2],),
        lambda module: stamps.accuracy(module, data),
        lambda module: recalibrate(module, batches, run),
        tune,
    )


TASKS: dict[str, Callable[[int], Task]] = {
    "resnet20": partial(fashion_task, "resnet20"),
    "vit": partial(fashion_task, "vit"),
    "mobilenet_v2": photo_task,
}
