"""Progress: what a run is doing, shown where somebody looks on, logged, and timed.

In a terminal or a notebook a bar shows by itself what takes more than two seconds. Lines go to the
logger `fxprune`, and to standard error where they are asked for. The time of a run is divided among
its stages, so that the report's seconds add up to the run's.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from threading import RLock, Timer
from typing import Any, Literal

from fxprune import distributed

Say = Callable[[str], None]
Wanted = bool | Say | Literal["verbose"] | None
PATIENCE = 2.0  # seconds before a bar is shown
LOG = logging.getLogger("fxprune")
LOG.addHandler(logging.NullHandler())
STAGES = (
    *("capture", "couple", "select", "score", "allocate", "shrink", "gate", "restore", "impose"),
    *("eliminate", "verify", "latency", "repair", "fine_tune", "evaluate"),
)
_running: list[Bar] = []  # the bar of the run that is going on where somebody looks on


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
        elif self._bar is not None:
            self._bar.update(said=text)

    def _tell(self, text: str, line: bool) -> None:
        if self._call is not None:
            self._call(text)
        if self._bar is not None:
            self._bar.update(said=text)
        if line and not (self._bar is not None and self._bar.line(text)):
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
        if self._bar is not None and name:
            self._bar.update(stage=name)

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


class Bar:
    """Show a bar of rich on standard error, or in a notebook, once the patience is over."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._timer: Timer | None = None
        self._rich: Any = None
        self._task: Any = None
        self._is: dict[str, Any] = {"step": 0, "steps": 1, "stage": "", "said": ""}

    def begin(self) -> None:
        """Wait, and then show the bar; where nobody looks on, never."""
        if not watched() or _running:
            return
        _running.append(self)
        self._timer = Timer(PATIENCE, self.show)
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        """Take the bar away."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            if self in _running:
                _running.remove(self)
            if self._rich is not None:
                self._rich.stop()
            self._timer = self._rich = None

    def show(self) -> None:
        """Show the bar now, unless the run is over."""
        with self._lock:
            if self._timer is None or self._rich is not None:
                return
            self._rich = bars()
            self._task = self._rich.add_task("", total=1, said="")
            self._rich.start()
            self.update()

    def update(self, **now: Any) -> None:
        """Show what is so now: step, steps, stage, or what was said."""
        with self._lock:
            self._is |= now
            if self._rich is None:
                return
            step, steps = int(self._is["step"]), int(self._is["steps"])
            stage = str(self._is["stage"])
            place = STAGES.index(stage) if stage in STAGES else 0
            done = max(0, step - 1) * len(STAGES) + place
            label = f"step {step}/{steps}: {stage}" if step else stage
            total, said = steps * len(STAGES), str(self._is["said"])
            self._rich.update(self._task, description=label, total=total, completed=done, said=said)

    def line(self, text: str) -> bool:
        """Print a line above the bar; return whether there is one."""
        with self._lock:
            if self._rich is None:
                return False
            self._rich.console.print(f"fxprune: {text}", markup=False, highlight=False)
            return True

    @contextmanager
    def inside(self, name: str, total: int | None) -> Iterator[Callable[[str], None]]:
        """Show a second bar under this one; what it gives advances it by one."""
        self.show()
        task = self._rich.add_task(name, total=total, said="")
        try:
            yield lambda text: self._rich.update(task, advance=1, said=text)
        finally:
            self._rich.remove_task(task)


def current() -> Bar | None:
    """Return the bar of the run that is going on, if one is or may be shown."""
    return next(iter(_running), None)


def console() -> Any:
    """Return where bars are shown."""
    from rich.console import Console

    return Console(stderr=True)


def watched() -> bool:
    """Tell whether anybody looks on: a terminal, or a notebook."""
    if sys.stderr.isatty():
        return True
    return "IPython" in sys.modules and bool(console().is_jupyter)


def bars() -> Any:
    """Return bars of rich, none of them shown yet."""
    from rich import progress

    columns = (
        progress.TextColumn("fxprune: {task.description}"),
        progress.BarColumn(bar_width=24),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[said]}", table_column=_narrow()),
    )
    return progress.Progress(*columns, console=console(), transient=True)


def _narrow() -> Any:
    from rich.table import Column

    return Column(no_wrap=True, overflow="ellipsis")
