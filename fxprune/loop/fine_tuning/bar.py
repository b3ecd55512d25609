"""A bar that shows how far a fine-tuning is, where somebody looks on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fxprune import distributed
from fxprune.loop.progress_bar import bars, counting, current, watched

Advance = Callable[[str], None]  # by one batch, with what to say beside the bar


@contextmanager
def bar(name: str, total: int | None, shown: bool = True) -> Iterator[Advance]:
    """Show a bar on standard error if that is a terminal, from one process of a job only.

    `total` is the number of batches, None where it is unknown.
    """
    if not shown or not watched() or not distributed.first():
        yield lambda text: None
        return
    if (run := current()) is not None:  # of which this is a part
        with run.inside(name, total) as advance:
            yield advance
        return
    with bars() as shows:
        yield counting(shows, name, total)[1]
