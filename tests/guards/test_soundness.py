"""Soundness: after any steps, whatever was stated holds under every choice of what is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fxprune.guards import Guards, Ids, Reason, concat, outer
from tests.guards.guard_choices import equal, within

WHY = Reason("view_3", "an axis splits across an earlier split")


ACTIONS = ("unify", "split", "pin", "permute", "roll", "cat", "outer", "fresh")
Step = tuple[str, int, int, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(ACTIONS), *(st.integers(0, 2**16) for _ in range(3))), max_size=14
)


def factors(n: int) -> list[tuple[int, ...]]:
    pairs = [(k, n // k) for k in range(2, n) if n % k == 0]
    return [*pairs, *((2, 2, n // 4) for _ in range(n % 4 == 0 and n > 4))]


class Play:
    """Take random steps and remember what was stated."""

    def __init__(self, n: int) -> None:
        self.guards, self.n = Guards(), n
        self.pool = [self.guards.fresh(n) for _ in range(3)]
        self.equal: list[tuple[Ids, Ids]] = []
        self.pinned: list[Ids] = []

    def step(self, action: str, first: int, second: int, salt: int) -> None:
        g, h = self.pool[first % len(self.pool)], self.pool[second % len(self.pool)]
        sizes = factors(self.n)[salt % len(factors(self.n))]
        random = np.random.default_rng(salt)
        if action == "unify":
            self.guards.unify(g, h, WHY)
            self.equal.append((g, h))
        elif action == "split":
            parts = self.guards.split(g, sizes, [False] * len(sizes), WHY)
            self.equal.append((g, outer(parts)))
            self.pool.append(outer([parts[k] for k in random.permutation(len(parts))]))
        elif action == "pin":
            self.guards.pin(rows := g[random.random(self.n) < 0.15], WHY)
            self.pinned.append(rows)
        elif action == "fresh":
            self.pool.append(self.guards.fresh(self.n))
        else:
            self.pool.append(self.moved(action, g, h, sizes[0], random))

    def moved(self, action: str, g: Ids, h: Ids, size: int, random: np.random.Generator) -> Ids:
        if action == "permute":
            return g[random.permutation(self.n)]
        if action == "roll":
            return np.roll(g, size, axis=0)
        if action == "cat":
            return concat([g[:size], h[size:]])
        return outer([g[:size], h[: self.n // size]])


def play(n: int, steps: Sequence[Step]) -> Play:
    one = Play(n)
    with within(10):
        for step in steps:
            one.step(*step)
    return one


@settings(max_examples=100)
@given(st.sampled_from([4, 6, 8, 12, 24, 36]), STEPS)
def test_what_is_stated_holds_under_every_choice(n: int, steps: list[Step]) -> None:
    done = play(n, steps)
    for a, b in done.equal:
        assert equal(done.guards, a, b, choices=16)
    for rows in done.pinned:
        assert not done.guards.normal(rows).any()


@settings(max_examples=40)
@given(st.sampled_from([4, 12, 24]), STEPS)
def test_normal_forms_are_normal(n: int, steps: list[Step]) -> None:
    done = play(n, steps)
    for g in done.pool:
        normal = done.guards.normal(g)
        assert np.array_equal(done.guards.normal(normal), normal)
        assert not done.guards.pinned(normal[normal > 0]).any()
        for row in normal.tolist():
            free = [one for one in row if one]
            assert len(free) == len(set(free))
            assert row == free + [0] * (len(row) - len(free))


@settings(max_examples=100)
@given(st.sampled_from([4, 12, 24]), STEPS)
def test_remembered_forms_are_those_made_anew(n: int, steps: list[Step]) -> None:
    done = play(n, steps)
    for g in done.pool:
        for known, anew in zip(done.guards.normal(g), done.guards._normalised(g), strict=True):
            assert set(known[known > 0]) == set(anew[anew > 0])


@settings(max_examples=40)
@given(st.sampled_from([4, 12, 24]), STEPS)
def test_every_pin_has_a_reason(n: int, steps: list[Step]) -> None:
    done = play(n, steps)
    for g in done.pool[:3]:
        normal = done.guards.normal(g)
        fixed = ~normal.any(axis=1) if normal.shape[1] else np.ones(n, dtype=bool)
        assert len(done.guards.why(g[fixed])) == int(fixed.sum())
        assert set(done.guards.why(g[fixed])) <= {WHY}
