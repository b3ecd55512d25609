"""What the tests of guards ask: do two agree under every choice, and does the solver end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from signal import ITIMER_VIRTUAL, SIGVTALRM, setitimer, signal
from typing import Any

import numpy as np

from fxprune.guards import Guards, Ids


def survives(alive: Any, g: Ids) -> Any:
    return alive[g].all(axis=1) if g.shape[1] else np.ones(len(g), dtype=bool)


def equal(guards: Guards, a: Ids, b: Ids, choices: int = 64) -> bool:
    """Tell whether two guards agree under `choices` random choices of what is kept."""
    random = np.random.default_rng(0)
    for share in np.linspace(0.2, 0.95, choices):
        alive = random.random(guards.size) < share
        alive[0] = True
        if (survives(alive, guards.normal(a)) != survives(alive, guards.normal(b))).any():
            return False
    return True


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail what does not end; seconds of this process count, not those that others take from it."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"still solving after {seconds} s")

    before = signal(SIGVTALRM, late)
    setitimer(ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        setitimer(ITIMER_VIRTUAL, 0)
        signal(SIGVTALRM, before)
