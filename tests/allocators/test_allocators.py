"""Every allocation meets its objective within its bounds; searches come near a known optimum."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fxprune.allocators import Bounds, make
from fxprune.allocators.annealing import SimulatedAnnealing
from fxprune.errors import ObjectiveError, SpecError
from tests.allocators.fake_problem import GOAL, SIZES, Fake, Shares, optimum, precious, quadratic

SEARCHES: dict[str, dict[str, Any]] = {
    "sensitivity": {"name": "sensitivity"},
    "simulated-annealing": {"name": "simulated-annealing"},
    "tpe": {"name": "optuna", "sampler": "tpe", "trials": 60},
    "cma-es": {"name": "optuna", "sampler": "cma-es", "trials": 100},
    "netadapt": {"name": "netadapt", "step": 0.03},
}
# how much more than the least may be lost: sensitivity looks at each target by itself, and NetAdapt
# weighs what a step loses, and not what it saves
SLACK = {
    "sensitivity": 1.6,
    "simulated-annealing": 1.1,
    "tpe": 1.4,
    "cma-es": 1.1,
    "netadapt": 1.2,
}


def options(name: str, **changes: Any) -> dict[str, Any]:
    return {k: v for k, v in (SEARCHES[name] | changes).items() if k != "name"}


def made(name: str, **changes: Any) -> Any:
    return make(SEARCHES[name]["name"], options(name, **changes))


# ---- a known optimum -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEARCHES)
def test_searches_spare_the_precious_target(name: str) -> None:
    fake = precious()
    problem = fake.problem()
    uniform = quadratic(fake.gone(make("uniform", {}).choose(problem)))
    choice = made(name).choose(problem)
    found, best = quadratic(fake.gone(choice)), optimum()
    assert uniform < 3 * best
    assert found >= SLACK[name] * best
    assert fake.spent(choice) == pytest.approx(GOAL, rel=0.01)
    assert choice.achieved == pytest.approx(fake.spent(choice))
    assert 1 <= len(fake.said) <= 40


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize(
    "bounds",
    [Bounds(min_keep=40), Bounds(max_ratio=0.4), Bounds(round_to=8), Bounds(min_ratio=0.125)],
    ids=["min_keep", "max_ratio", "round_to", "min_ratio"],
)
def test_searches_keep_bounds(name: str, bounds: Bounds) -> None:
    fake = precious(bounds=bounds)
    changes = {"trials": 12} if "trials" in SEARCHES[name] or "ann" in name else {}
    choice = made(name, **changes).choose(fake.problem())
    gone = fake.gone(choice)
    kept = np.round((1 - gone) * SIZES)
    assert kept.min() >= bounds.min_keep
    assert bounds.min_ratio <= gone.min()
    assert gone.max() <= bounds.max_ratio
    if bounds.round_to != "auto":
        assert not (kept % bounds.round_to).any()
    assert fake.spent(choice) == pytest.approx(GOAL, rel=0.02)


@pytest.mark.parametrize("name", ["simulated-annealing", "tpe", "cma-es"])
def test_a_seed_says_it_all(name: str) -> None:
    fakes = [precious() for _ in range(3)]
    for fake, seed in zip(fakes, (1, 1, 2), strict=True):
        made(name, seed=seed, trials=25).choose(fake.problem())
    assert fakes[0].asked == fakes[1].asked
    assert fakes[0].asked != fakes[2].asked
    assert fakes[0].asked[0] == fakes[2].asked[0]  # all start with equal rates


@pytest.mark.parametrize("name", SEARCHES)
def test_one_target_leaves_nothing_to_search(name: str) -> None:
    fake = Fake((64,), (1.0,), quadratic, 0.5)
    choice = made(name).choose(fake.problem())
    assert fake.gone(choice).tolist() == [0.5]
    assert fake.asked == []


@pytest.mark.parametrize("name", SEARCHES)
def test_no_target_reaches_nothing(name: str) -> None:
    fake = Fake((), (), quadratic, 0.5)
    with pytest.raises(ObjectiveError, match="no priced"):
        made(name).choose(fake.problem())


@pytest.mark.parametrize("name", SEARCHES)
def test_a_goal_out_of_reach_costs_no_long_search(name: str) -> None:
    fake = precious(goal=0.1, bounds=Bounds(max_ratio=0.5))
    with pytest.raises(ObjectiveError, match=r"can go down to 0\.500"):
        made(name).choose(fake.problem())


# ---- simulated annealing -------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e-4])
def test_bad_moves_are_accepted_at_first_and_not_at_last(scale: float) -> None:
    """NNI's temperature of 100 accepts 95 % of bad moves on scores from 0 to 1, to the end."""
    early: list[bool] = []
    late: list[bool] = []
    for seed in range(12):
        fake = precious(value=lambda gone: scale * quadratic(gone))
        for step in SimulatedAnnealing(trials=150, seed=seed).walk(fake.problem()):
            if step.gain < 0 and 0 <= step.cool < 0.12:
                early.append(step.accepted)
            if step.gain < 0 and step.cool > 0.75:
                late.append(step.accepted)
    assert min(len(early), len(late)) > 40
    assert 0.35 < np.mean(early) < 0.75
    assert np.mean(late) < 0.12


def test_the_scale_of_scores_changes_nothing() -> None:
    walks = []
    for scale in (1.0, 1024.0):  # a power of two: rounding does not differ
        fake = precious(value=lambda gone, scale=scale: scale * quadratic(gone))
        walk = SimulatedAnnealing(trials=80).walk(fake.problem())
        walks.append([(step.at.rates, step.accepted) for step in walk])
    assert walks[0] == walks[1]


def test_scores_without_any_difference_are_walked_over() -> None:
    fake = precious(value=lambda gone: 0.25)
    choice = SimulatedAnnealing(trials=12).choose(fake.problem())
    uniform = make("uniform", {}).choose(fake.problem())
    assert choice.alive.tolist() == uniform.alive.tolist()


# ---- sensitivity ---------------------------------------------------------------------------------


def test_sensitivity_takes_the_largest_shares_within_one_drop() -> None:
    """Both fall linearly, one from the start and one from half on: at one drop, half is between."""

    def value(gone: Shares) -> float:
        return float(-gone[0] - max(0.0, gone[1] - 0.5))

    fake = Fake((100, 100), (1.0, 1.0), value, goal=0.6, bounds=Bounds(round_to=1))
    gone = fake.gone(made("sensitivity").choose(fake.problem()))
    assert gone == pytest.approx([0.15, 0.65], abs=0.02)
    assert len(fake.asked) == 1 + 2 * 9


def test_sensitivity_holds_a_rise_for_luck() -> None:
    """A score that rises again with more gone is no invitation: the worst before it counts."""

    def value(gone: Shares) -> float:
        lucky = -1.0 if 0.15 < gone[0] < 0.75 else 0.0
        return lucky - 0.5 * float(gone[1])

    fake = Fake((100, 100), (1.0, 1.0), value, goal=0.7, bounds=Bounds(round_to=1))
    gone = fake.gone(made("sensitivity").choose(fake.problem()))
    assert gone[0] < 0.2
    assert gone[1] > 0.4


# ---- NetAdapt ------------------------------------------------------------------------------------


def test_netadapt_makes_the_least_proposal_of_the_best_target() -> None:
    fake = precious(bounds=Bounds(round_to=1), goal=0.9)
    problem = fake.problem()
    make("netadapt", {"step": 0.05, "decay": 1.0}).choose(problem)
    # the first iteration: each target alone, with the fewest units that save a twentieth
    whole = np.dot(PRICES_, SIZES)
    for k, asked in enumerate(fake.asked[:4]):
        units = np.ceil(0.05 * whole / PRICES_[k] - 1e-9)
        gone = np.zeros(4)
        gone[k] = units / SIZES[k]
        assert asked == pytest.approx(quadratic(gone))
    assert fake.said[0].startswith("netadapt: 0.9")
    assert "t0 shrunk" in fake.said[0] or "t2 shrunk" in fake.said[0]


PRICES_ = np.array([1.0, 1.5, 1.0, 0.5])


def test_netadapt_works_at_the_coarsest_rounding_that_can_meet_the_goal() -> None:
    fake = precious()
    problem = fake.problem()
    choice = made("netadapt").choose(problem)
    kept = np.round((1 - fake.gone(choice)) * SIZES)
    assert not (kept % 8).any()


# ---- what is missing, and what is another's ------------------------------------------------------


@pytest.mark.parametrize("missing", ["optuna", "cmaes"])
def test_a_missing_install_is_said(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    fake = precious()
    with pytest.raises(SpecError, match=rf"{missing} is not .* pip install fxprune\[search\]$"):
        made("cma-es").choose(fake.problem())
    assert fake.asked == []


def test_a_study_of_another_problem_is_refused(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    made("tpe", trials=2, storage=storage).choose(precious().problem())
    other = precious(sizes=(64, 64, 64, 32))
    with pytest.raises(SpecError, match=r"allocation.study: 'fxprune/0\.7' .*name another study"):
        made("tpe", trials=2, storage=storage).choose(other.problem())
    assert other.asked == []


def test_optuna_writes_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    made("tpe", trials=12).choose(precious().problem())
    assert capfd.readouterr() == ("", "")
