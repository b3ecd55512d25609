"""What code can reach by name is put back; what belongs to libraries is left alone."""

from __future__ import annotations

import functools
import logging
import threading
from typing import Any

import torch
from torch import nn

from fxprune.capture.untouched import Held

COUNT, UNSEEN = 0, [0]
TABLE: list[int] = []


@functools.cache
def squared(x: int) -> int:
    return x * x


def counted() -> None:
    global COUNT, LATE
    COUNT += 1
    LATE = 1  # type: ignore[name-defined]


class Store:
    entries: list[int] = []  # noqa: RUF012  of the class, on purpose
    total = 0

    @classmethod
    def add(cls) -> None:
        cls.entries.append(1)
        cls.total += 1
        cls.late = 1  # type: ignore[attr-defined]

    @property
    def noted(self) -> int:
        TABLE.append(1)
        return 1


class Net(nn.Module):
    def forward(self, x: Any) -> Any:
        counted()
        Store.add()
        return x * squared(3) * Store().noted


def test_what_functions_of_functions_name_is_put_back() -> None:
    held = Held(Net())
    Net()(1)
    assert (COUNT, Store.total, Store.entries, TABLE, squared.cache_info().currsize) == (
        *(1, 1, [1], [1], 1),
    )
    told = held.put_back()
    assert (COUNT, Store.total, Store.entries, TABLE, squared.cache_info().currsize) == (
        *(0, 0, [], [], 0),
    )
    assert "LATE" not in globals()
    assert not hasattr(Store, "late")
    assert any(place.endswith("COUNT") for place in told)


def test_what_is_not_reached_is_left_alone() -> None:
    class Watched(threading.Thread):
        seen: list[int]

    net, thread = Net(), Watched()
    net.thread, net.log = thread, logging.getLogger("test of reached code")
    thread.seen = []
    held = Held(net)
    UNSEEN.append(1)
    thread.seen.append(1)
    net.log.setLevel(7)
    assert held.put_back() == []
    assert (UNSEEN, thread.seen, net.log.level) == ([0, 1], [1], 7)
    UNSEEN.pop()


def test_a_cache_that_nothing_was_added_to_stays() -> None:
    squared(4)
    held = Held(Net())
    squared(4)
    held.put_back()
    assert squared.cache_info().currsize == 1
    squared.cache_clear()


def test_a_cycle_ends() -> None:
    net = nn.Linear(1, 1)
    net.itself = [net]  # type: ignore[assignment]
    held = Held(net)
    net.itself.append(torch.ones(1))
    assert held.put_back() == ["itself"]
