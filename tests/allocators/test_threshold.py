"""Allocation by a threshold, and the order of very many scores."""

from __future__ import annotations

import numpy as np
import pytest

from fxprune.allocators import Bounds, make
from fxprune.targets.ordering import ascending
from tests.allocators.fake_problem import precious


@pytest.mark.parametrize("single", [True, False])
def test_many_scores_are_sorted_as_a_stable_sort_does(single: bool) -> None:
    random = np.random.default_rng(0)
    scores = random.standard_normal(1 << 17) * 10.0 ** random.integers(-40, 30, 1 << 17)
    scores[random.integers(0, len(scores), 999)] = 0.0
    scores[random.integers(0, len(scores), 999)] = -0.0
    scores[random.integers(0, len(scores), 99)] = np.inf
    scores[random.integers(0, len(scores), 9999)] = 0.5
    if single:
        scores = scores.astype(np.float32).astype(np.float64)
    assert np.array_equal(ascending(scores), np.argsort(scores, kind="stable"))


# ---- a threshold ---------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [-1.0, 0.2, 0.5, 0.731, 2.0])
def test_a_threshold_takes_what_lies_under_it(threshold: float) -> None:
    fake = precious(sizes=(7, 40, 2000, 3))  # one of more units than there are moves
    problem = fake.problem()
    choice = make("threshold", {"threshold": threshold}).choose(problem)
    for units, score in zip(fake.units, problem.scores, strict=True):
        left = score > threshold
        if not left.any():
            left[np.argmax(score)] = True  # no target becomes empty
        assert np.array_equal(choice.alive[units], left)
    assert f"threshold of {threshold:g}" in choice.note


def test_a_threshold_keeps_to_bounds() -> None:
    fake = precious(bounds=Bounds(min_keep=20, max_ratio=0.5, round_to=4))
    choice = make("threshold", {"threshold": 0.9}).choose(fake.problem())
    assert fake.gone(choice).tolist() == [0.5] * 4
    fake = precious(bounds=Bounds(min_ratio=0.25, round_to=1))
    choice = make("threshold", {"threshold": 0.0}).choose(fake.problem())
    assert fake.gone(choice).tolist() == [0.25] * 4


def test_a_threshold_that_may_move_meets_the_goal() -> None:
    fake = precious(goal=0.4, bounds=Bounds(round_to=1))
    problem = fake.problem()
    choice = make("threshold", {"threshold": 0.2, "adjust": True}).choose(problem)
    assert fake.spent(choice) == pytest.approx(0.4, rel=0.01)
    assert not choice.note
    assert "threshold: 0.2 keeps" in fake.said[-1]
    gone = [score[~choice.alive[u]] for u, score in zip(fake.units, problem.scores, strict=True)]
    left = [score[choice.alive[u]] for u, score in zip(fake.units, problem.scores, strict=True)]
    line = max(map(max, gone))
    assert sum(int((score < line).sum()) for score in left) <= 2  # one ranking, to the last unit
