"""Time several things in turn, a b c a b c …, so that what else the machine does hits all alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

Run = Callable[[], Any]
WARM = 3
"""Runs of each before the first that counts: caches, memory arenas and clocks settle."""


def clock(threads: int) -> Callable[[], float]:
    """Return the clock for runs of so many threads: that of the thread where one does all the work.

    On a machine that has nothing else to do it shows what a clock on the wall shows; elsewhere it
    stands still while the system lets others run, which no pruning makes faster or slower.
    """
    return time.thread_time if threads == 1 else time.perf_counter


def in_turn(
    runs: Sequence[Run],
    *,
    rounds: int = 5,
    seconds: float = 0.0,
    warm: int = WARM,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Return the seconds of every run of each: at least `rounds` of each, for at least `seconds`.

    The lists are parallel: times at one index were taken right after each other, so that a ratio
    of two of them says more than a ratio of medians.
    """
    for _ in range(warm):
        for run in runs:
            run()
    taken: list[list[float]] = [[] for _ in runs]
    collecting = gc.isenabled()
    gc.disable()  # a collection would be counted with whichever run it happens to hit
    try:
        began = clock()
        while len(taken[0]) < rounds or clock() - began < seconds:
            for run, times in zip(runs, taken, strict=True):
                start = clock()
                run()
                times.append(clock() - start)
    finally:
        if collecting:
            gc.enable()
    return taken
