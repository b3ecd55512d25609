"""The bar of a run: which step and stage, how far it is where that is counted, the time left.

It is drawn on the standard error that was there when the run began. A timer shows it, so that what
it may touch then is only its own: the standard streams of a program that has redirected them
meanwhile are not.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock, Timer, get_ident
from typing import Any

PATIENCE = 2.0  # seconds before a bar is shown
WIDE = 100  # columns from which on a bar is long
STAGES = (
    *("imports", "capture", "couple", "select", "score", "allocate", "shrink", "gate", "restore"),
    *("impose", "eliminate", "verify", "latency", "repair", "fine_tune", "evaluate"),
)
_running: list[Bar] = []  # the bar of the run that is going on where somebody looks on


class Bar:
    """Show a bar of rich on standard error, or in a notebook, once the patience is over."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._timer: Timer | None = None
        self._rich: Any = None
        self._console: Any = None
        self._task: Any = None
        self._thread = get_ident()
        self._proxies: dict[str, tuple[Any, Any]] = {}
        self._is: dict[str, Any] = {"step": 0, "steps": 1, "stage": "", "said": ""}
        self._far = 0.0
        self._began = 0.0  # when the first step did

    def begin(self) -> None:
        """Wait, and then show the bar; where nobody looks on, never."""
        if not watched() or _running:
            return
        _running.append(self)
        self._console, self._thread = console(), get_ident()
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
            for name, (proxy, given) in self._proxies.items():
                if getattr(sys, name) is proxy:
                    setattr(sys, name, given)
            if self._rich is not None:
                self._rich.stop()
            self._timer = self._rich = None
            self._proxies = {}

    def show(self) -> None:
        """Show the bar now, unless the run is over."""
        with self._lock:
            if self._timer is None or self._rich is not None:
                return
            self._rich = bars(self._console)
            self._task = self._rich.add_task("", total=None, said="", left="")
            self._rich.start()
            self.update()

    def update(self, **now: Any) -> None:
        """Show what is so now: step, steps, stage, what was said, and the part that is done."""
        with self._lock:
            if now.get("step") == 1:
                self._began = time.perf_counter()
            if now.get("stage", self._is["stage"]) != self._is["stage"]:
                now = {"said": "", "part": None, "left": None} | now
            self._is |= now
            if self._rich is None:
                return
            self._lay()
            step, stage = int(self._is["step"]), str(self._is["stage"])
            label = f"step {step}/{self._is['steps']}: {stage}" if step else stage
            far, said = self._fraction(), str(self._is["said"])
            self._rich.update(
                self._task,
                description=label,
                total=None if far is None else 1.0,
                completed=min(far or 0.0, 0.999),  # a bar that is full counts no seconds
                said=said,
                left=f"{duration(left)} left" if (left := self._left()) else "",
            )

    def _fraction(self) -> float | None:
        """Return how far the run is, or the part that is counted; None where nobody knows."""
        step, steps = int(self._is["step"]), int(self._is["steps"])
        if steps == 1:
            part: float | None = self._is.get("part")
            return part
        place = STAGES.index(self._is["stage"]) if self._is["stage"] in STAGES else 0
        self._far = max(self._far, (max(0, step - 1) + place / len(STAGES)) / steps)
        return self._far

    def _left(self) -> float | None:
        """Return the seconds that are left: of all steps, by those behind, or of what is counted.

        Steps are taken to be as long as each other.
        """
        step, steps = int(self._is["step"]), int(self._is["steps"])
        if steps == 1 or step < 2:
            left: float | None = self._is.get("left")
            return left
        spent = time.perf_counter() - self._began
        return max(0.0, spent / self._far * (1.0 - self._far)) if self._far else None

    def _lay(self) -> None:
        """Let what the program prints stand above the bar, from its own thread only."""
        if self._proxies or get_ident() != self._thread:
            return
        from rich.file_proxy import FileProxy

        for name in ("stdout", "stderr"):
            given = getattr(sys, name)
            if given.isatty():
                self._proxies[name] = FileProxy(self._console, given), given
                setattr(sys, name, self._proxies[name][0])

    def line(self, text: str) -> bool:
        """Print a line above the bar; return whether there is one."""
        with self._lock:
            if self._rich is None:
                return False
            self._console.print(f"fxprune: {text}", markup=False, highlight=False)
            return True

    @contextmanager
    def inside(self, name: str, total: int | None) -> Iterator[Callable[[str], None]]:
        """Show a second bar under this one; what it gives advances it by one."""
        self.show()
        task, advance = counting(self._rich, name, total)
        try:
            yield advance
        finally:
            self._rich.remove_task(task)


def counting(shows: Any, name: str, total: int | None) -> tuple[Any, Callable[[str], None]]:
    """Add a counted bar to bars; return it, and what advances it by one, saying something."""
    task, began, done = shows.add_task(name, total=total, said="", left=""), time.perf_counter(), 0

    def advance(text: str) -> None:
        nonlocal done
        done += 1
        pace = (time.perf_counter() - began) / done
        left = f"{duration(pace * (total - done))} left" if total and done < total else ""
        shows.update(task, advance=1, said=text, left=left)

    return task, advance


def duration(seconds: float) -> str:
    """Return seconds as a person says them.

    >>> duration(4.2), duration(75), duration(7300)
    ('4 s', '1 min 15 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{max(1, whole)} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def current() -> Bar | None:
    """Return the bar of the run that is going on, if one is or may be shown."""
    return next(iter(_running), None)


def console() -> Any:
    """Return where bars are shown: the standard error of now, whatever stands there later."""
    from rich.console import Console

    return Console(file=sys.stderr)


def watched() -> bool:
    """Tell whether anybody looks on: a terminal, or a notebook."""
    if sys.stderr.isatty():
        return True
    return "IPython" in sys.modules and bool(console().is_jupyter)


def bars(place: Any = None) -> Any:
    """Return bars of rich, none of them shown yet; what is said takes the room that is left."""
    from rich import progress
    from rich.table import Column

    place = console() if place is None else place

    def column(kind: Any, *args: Any, **options: Any) -> Any:
        return kind(*args, table_column=Column(no_wrap=True), **options)

    columns = (
        column(progress.TextColumn, "fxprune: {task.description}"),
        column(progress.BarColumn, bar_width=24 if place.width >= WIDE else 10),
        column(progress.TimeElapsedColumn),
        column(progress.TextColumn, "{task.fields[left]}"),
        progress.TextColumn(
            "{task.fields[said]}",
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            markup=False,
        ),
    )
    return progress.Progress(
        *columns,
        console=place,
        transient=True,
        expand=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
