"""Tell how many bytes have been read or written, and how many that is a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from fxprune.loop.progress_bar import current

STEPS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


class Meter:
    """Count bytes, and show them under the bar of a run where there is one."""

    def __init__(self, verb: str, tensors: int, total: int) -> None:
        self._verb, self._tensors, self.total = verb, tensors, total
        self.bytes = 0
        self._began = time.perf_counter()
        self._tell: Callable[[str], None] = lambda text: None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the count for a while."""
        self._began = time.perf_counter()
        bar = current()
        if bar is None:
            yield
            return
        with bar.inside(self._verb, self._tensors) as self._tell:
            yield

    def seen(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count a tensor, and return it."""
        self.count(tensor.nbytes)
        return tensor

    def count(self, some: int) -> None:
        """Count the bytes of a tensor."""
        self.bytes += some
        self._tell(str(self))

    def __str__(self) -> str:
        seconds = time.perf_counter() - self._began
        speed = amount(self.bytes / seconds) if seconds else "0 B"
        return f"{amount(self.bytes)} of {amount(self.total)}, {speed}/s"


def amount(count: float) -> str:
    """Return a number of bytes as a person reads it.

    >>> amount(4_294_967_296)
    '4.29 GB'
    >>> amount(12)
    '12 B'
    """
    for unit, size in STEPS:
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"
