"""States to hold for a while: evaluation mode, silence, and the garbage collector paused."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Literal

import torch


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the collector: it would look through a growing graph again and again.

    It takes a fifth of the time of a capture, and finds little.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[bool]:
    """Hold the model in evaluation mode, and put every submodule's own mode back after."""
    modes = [(module, module.training) for module in model.modules()]
    was = model.training
    model.eval()
    try:
        yield was
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def quiet(stream: Literal["stdout", "stderr"] = "stderr") -> Iterator[None]:
    """Keep an exporter's warnings, logs and lines to itself: its errors are reported by us."""
    redirect = {"stdout": redirect_stdout, "stderr": redirect_stderr}[stream]
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextmanager
def unsolved() -> Iterator[None]:
    """Let `torch.export` leave its inequalities unsolved: it takes minutes to hours over some.

    What it solves them for are suggestions; the guards themselves stay.
    """
    try:
        from torch.fx.experimental.symbolic_shapes import DimConstraints

        solve = DimConstraints.solve
    except (AttributeError, ImportError):  # a torch without this private part
        yield
        return
    DimConstraints.solve = lambda self, *_: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        DimConstraints.solve = solve  # type: ignore[method-assign]
