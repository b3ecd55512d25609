"""Progress: what a run is doing, shown where somebody looks on, logged, and timed.

In a terminal or a notebook a bar (`progress_bar.py`) shows by itself what takes more than two
seconds. Lines go to the logger `fxprune`, and to standard error where they are asked for. The time
of a run is divided among its stages, so that the report's seconds add up to the run's.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Literal

from fxprune import distributed
from fxprune.loop.progress_bar import Bar, duration

Say = Callable[[str], None]
Wanted = bool | Say | Literal["verbose"] | None
SELDOM = 5.0  # seconds between lines on how far a part is
LOG = logging.getLogger("fxprune")
LOG.addHandler(logging.NullHandler())


class Progress:
    """Tell what a run is doing: `say` what happens, `detail` how, `stage` where the time goes."""

    def __init__(self, wanted: Wanted = None) -> None:
        first = distributed.first()
        self._call = wanted if callable(wanted) else None
        self._lines = first and (wanted is True or wanted == "verbose")
        self._verbose = wanted == "verbose"
        self._bar = Bar() if first and not callable(wanted) and wanted is not False else None
        self._prefix, self._around = "", "other"
        self._spent: dict[str, float] = {}
        self._at, self._stage = time.perf_counter(), "other"
        self._part, self._part_began, self._part_told = "", 0.0, 0.0

    def __enter__(self) -> Progress:
        """Begin to measure, and to wait for the moment when a bar is shown."""
        self._at, self._stage, self._spent = time.perf_counter(), "other", {}
        if self._bar is not None:
            self._bar.begin()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.end()

    def again(self, prefix: str) -> Progress:
        """Return the same for a member of a family: its lines begin alike, its time is shared."""
        self.stage(self._stage)
        other = copy(self)
        other._spent, other._prefix = dict(self._spent), prefix
        return other

    # ---- what is told ----------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Tell what happened, in one line."""
        text = self._prefix + text
        LOG.info(text)
        self._tell(text, self._lines)

    def detail(self, text: str) -> None:
        """Tell how it is going, for whoever wants to know everything."""
        text = self._prefix + text
        LOG.debug(text)
        if self._call is not None or self._verbose:
            self._tell(text, self._verbose)

    def show(self, text: str) -> None:
        """Show what is going on beside the bar, and nowhere else."""
        if self._bar is not None:
            self._bar.update(said=text)

    def part(self, text: str, done: int, total: int) -> None:
        """Tell how much is done of what is counted: a bar of it, and seldom a line.

        It is called with 0 first; the time that is left is what the rest takes at the same pace.
        """
        now = time.perf_counter()
        if text != self._part or not done:
            self._part, self._part_began, self._part_told = text, now, now
        left = (now - self._part_began) / done * (total - done) if done else None
        said = f"{self._prefix}{text}: {done} of {total}"
        if self._bar is not None:
            self._bar.update(said=said, part=done / max(1, total), left=left)
        if done < total and now - self._part_told < SELDOM:
            return
        self._part_told = now
        told = f"{said}, {duration(left)} left" if left and done < total else said
        LOG.debug(told)
        if done and self._call is not None:
            self._call(told)
        elif done and self._lines:
            self._print(told)

    def _tell(self, text: str, line: bool) -> None:
        if self._call is not None:
            self._call(text)
        if self._bar is not None:
            self._bar.update(said=text, part=None, left=None)
        if line:
            self._print(text)

    def _print(self, text: str) -> None:
        if self._bar is None or not self._bar.line(text):
            print(f"fxprune: {text}", file=sys.stderr, flush=True)

    # ---- where the time goes ---------------------------------------------------------------------

    def step(self, number: int, count: int) -> None:
        """Tell which step of how many begins."""
        if self._bar is not None:
            self._bar.update(step=number, steps=count)

    def stage(self, name: str) -> None:
        """Tell which stage begins; nothing is what lies between stages."""
        now = time.perf_counter()
        self._spent[self._stage] = self._spent.get(self._stage, 0.0) + now - self._at
        self._at, self._stage = now, name or self._around
        shown = name if self._around == "other" else self._around
        if self._bar is not None and shown:
            self._bar.update(stage=shown)

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """Count the time of a block as a stage of its own."""
        before, self._around = (self._stage, self._around), name
        self.stage(name)
        try:
            yield
        finally:
            stage, self._around = before
            self.stage(stage)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage, which add up to the time since the run began."""
        self.stage(self._stage)
        return {name: spent for name, spent in self._spent.items() if spent > 0.0}


@contextmanager
def shown(name: str) -> Iterator[Progress]:
    """Show a bar over a call that is no run, such as an analysis, where it takes long."""
    with Progress() as watch:
        watch.stage(name)
        yield watch
