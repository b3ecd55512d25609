"""Time several things in turn, a b c a b c …, so that other work of the machine slows all alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Run = Callable[[], Any]
ROUNDS = 15
"""Runs of each file at least, where the caller does not say how many."""
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


@dataclass(frozen=True)
class Timing:
    """Hold the median milliseconds of a file and the middle half of all its runs.

    `ratio` is the median of its time over that of the first file in the same round, and
    `ratio_low` and `ratio_high` are the middle half of those.
    """

    path: str
    threads: int
    batch: int | None
    median_ms: float
    low_ms: float
    high_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int


def timed(
    names: Sequence[str],
    runs: Sequence[Run],
    threads: int = 1,
    batch: int | None = None,
    seconds: float = 2.0,
    repeats: int | None = None,
    **options: Any,
) -> list[Timing]:
    """Time runs in turn and compare each with the first; `options` go to `in_turn`."""
    if repeats is not None:
        taken = in_turn(runs, rounds=repeats, **options)
    else:
        taken = in_turn(runs, rounds=ROUNDS, seconds=seconds * len(runs), **options)
    return [
        _timing(n, times, taken[0], threads, batch) for n, times in zip(names, taken, strict=True)
    ]


def _timing(
    name: str, times: list[float], first: list[float], threads: int, batch: int | None
) -> Timing:
    low, median, high = _quartiles([1000 * one for one in times])
    pairs = [a / b if b else 1.0 for a, b in zip(times, first, strict=True)]
    below, ratio, above = _quartiles(pairs)
    return Timing(name, threads, batch, median, low, high, ratio, below, above, len(times))


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high
