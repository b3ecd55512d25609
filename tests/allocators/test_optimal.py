"""The optimal allocation: against every choice of tiny nets, and against the other rankings."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

import fxprune
from fxprune.allocators import Bounds, make
from fxprune.allocators.optimal import allocator
from fxprune.allocators.optimal.lattice import Axes, Listed, lattice
from fxprune.allocators.optimal.tables import tabulate
from fxprune.allocators.optimal.values import Importance
from fxprune.errors import ObjectiveError, SpecError
from tests.allocators.fake_problem import PRICES, Fake, precious
from tests.support.optimal_problems import NETS, TINY, chain, every, kept, problem

TOLERANCE = 0.01
SUM = {"measure": "sum", "normalize": "mean"}  # worth is what `worth` below counts


# ---- against all choices -------------------------------------------------------------------------


@pytest.mark.parametrize("goal", [0.75, 0.5, 0.35])
@pytest.mark.parametrize("objective", ["macs", "params", "bytes", "ratio"])
@pytest.mark.parametrize("net", TINY)
def test_no_choice_keeps_more(net: str, objective: str, goal: float) -> None:
    given = problem(net, {objective: goal}, round_to=1)
    share = 1.0 - goal if objective == "ratio" else goal
    if min(choice.achieved for choice in every(given)) > share * (1 + TOLERANCE):
        with pytest.raises(ObjectiveError, match="can lose 0"):
            make("optimal", SUM | {"gap": 0.0}).choose(given)
        return
    choice = make("optimal", SUM | {"gap": 0.0}).choose(given)
    top = choice.achieved if given.near(choice) else share
    rivals = [c for c in every(given) if (1 - TOLERANCE) * share <= c.achieved <= top + 1e-9]
    if objective == "ratio":
        least = min(c.achieved for c in every(given) if c.achieved >= share - 1e-9)
        assert choice.achieved == pytest.approx(least)
        rivals = [c for c in rivals if c.achieved >= share - 1e-9]
    assert choice.alive.sum() < len(choice.alive)
    if rivals:
        assert given.near(choice)
        assert kept(given, choice) >= max(kept(given, c) for c in rivals) - 1e-6


@pytest.mark.parametrize("net", TINY)
def test_shares_of_targets_are_kept_at_best(net: str) -> None:
    """It is minus the sum of weighted squares of lost over kept, over all choices there are."""
    given = problem(net, {"macs": 0.5}, round_to=1)
    choice = make("optimal", {"gap": 0.0}).choose(given)
    importance = Importance.of(given, "auto", "auto")
    rivals = [c for c in every(given) if 0.495 <= c.achieved <= max(0.5, choice.achieved) + 1e-9]
    assert given.near(choice) or not rivals
    assert (
        importance.kept(choice.alive)
        >= max((importance.kept(c.alive) for c in rivals), default=-9e9) - 1e-6
    )
    alive = choice.alive
    by_hand = 0.0
    for target, scores in zip(given.targets, given.scores, strict=True):
        kept = scores[alive[target.units]].sum() / scores.sum()
        read = {name for name, _ in target.footprint if name.endswith("weight")}
        by_hand -= len(read) * ((1 - kept) / kept) ** 2
    assert importance.kept(alive) == pytest.approx(by_hand)


@pytest.mark.parametrize("net", ["chain", "residual"])
def test_scores_below_zero_leave_first_and_the_goal_is_met(net: str) -> None:
    given = problem(net, {"macs": 0.5}, round_to=1)
    for scores in given.scores:
        scores -= np.median(scores)
    choice = make("optimal", {"measure": "sum", "normalize": "none", "gap": 0.0}).choose(given)
    rivals = [c for c in every(given) if 0.495 <= c.achieved <= max(0.5, choice.achieved) + 1e-9]
    assert given.near(choice)
    best = max(kept(given, c, "none") for c in rivals)
    assert kept(given, choice, "none") == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("objective", ["macs", "params", "bytes"])
@pytest.mark.parametrize("net", TINY)
def test_terms_sum_to_the_cost(net: str, objective: str) -> None:
    """Sizes of axes are those of the cost at each single change, and tables are exact there."""
    given = problem(net, {objective: 0.5}, round_to=1)
    listed = Listed(given, given.moves(1), Importance.of(given, "mean", "sum"))
    anchor = tuple(len(moves) // 2 for moves in listed.moves)
    grid = lattice(listed, anchor, 1.0, 32)
    assert not grid.thinned
    assert not grid.narrowed
    tables, axes = tabulate(grid), Axes(grid, given.cost.axes, len(given.cost.whole()))
    alive = given.choice(listed.made(anchor)).alive
    assert [axes.base(a) for a in range(len(given.cost.axes))] == given.cost.counts(alive)
    for k, options in enumerate(grid.options):
        for n in range(len(options)):
            places = grid.anchor.copy()
            places[k] = n
            for j in {k, 0, len(places) - 1}:  # a second target may leave the anchor
                both = places.copy()
                both[j] = places[j] if j == k else 0
                made = listed.made(grid.counts(both))
                assert tables.of(both) == pytest.approx(given.choice(made).achieved, rel=1e-6)


# ---- against other allocations -------------------------------------------------------------------


@pytest.mark.parametrize(("objective", "goal"), [("macs", 0.5), ("params", 0.3), ("ratio", 0.5)])
@pytest.mark.parametrize("net", ["resnet18", "vit"])
def test_more_is_kept_than_by_rankings_at_equal_cost(net: str, objective: str, goal: float) -> None:
    given = problem(net, {objective: goal})
    said: list[str] = []
    object.__setattr__(given, "say", said.append)
    choice = make("optimal", SUM | {"seconds": 12.0}).choose(given)
    assert given.near(choice)
    for name in ("global", "uniform"):
        other = make(name, {}).choose(given)
        if name == "global" or objective != "ratio":
            more = 1.0 if objective == "ratio" else 1.1
            assert kept(given, choice) >= more * kept(given, other) - 1e-9
    assert any("global keeps" in text for text in said)
    if objective != "ratio":
        wide = [target for target in given.targets if len(target) >= 16]
        assert wide
        assert all(int(choice.alive[target.units].sum()) % 8 == 0 for target in wide)


class Solver:
    """Tell the time that integer programs take: each takes all that it is given."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now, self._solve = 0.0, allocator.best
        patch.setattr(allocator, "monotonic", lambda: self.now)
        patch.setattr(allocator, "best", self.best)

    def best(self, grid: Any, tables: Any, bracket: Any, seconds: float, gap: float) -> Any:
        self.now += seconds
        return self._solve(grid, tables, bracket, seconds, gap)


def test_what_keeps_more_is_returned_whoever_found_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is solved in no time: the best ranking is what remains."""
    given = problem("resnet18", {"macs": 0.5})
    monkeypatch.setattr(allocator, "monotonic", count().__next__)
    choice = make("optimal", SUM | {"seconds": 1e-9}).choose(given)
    others = [make(name, {}).choose(given) for name in ("global", "uniform")]
    assert kept(given, choice) == max(kept(given, other) for other in others)
    assert given.near(choice)


@pytest.mark.parametrize("objective", [{"activations": 0.6}, {"latency": 0.5}])
def test_objectives_without_tables_and_with_an_overhead(objective: dict[str, Any]) -> None:
    extra = {"overhead": 0.1} if "latency" in objective else {}
    given = problem("residual", objective | extra, round_to=1)
    choice, other = (make(*one).choose(given) for one in (("optimal", SUM), ("global", {})))
    if given.near(other):
        assert given.near(choice)
        assert kept(given, choice) >= kept(given, other) - 1e-9
    assert (given.objective.terms(given.cost) is None) == ("activations" in objective)


def test_an_objective_of_its_own_is_looked_up() -> None:
    """Prices 1, 1.5, 1 and 0.5 a unit, scores alike: what is dear goes first."""
    fake: Fake = precious(bounds=Bounds(round_to=1))
    given = fake.problem()
    choice = make("optimal", SUM).choose(given)
    gone = fake.gone(choice)
    assert fake.spent(choice) == pytest.approx(0.7, rel=0.01)
    # of uniform scores each target loses what is worth less than a multiple of its price (Lagrange)
    price = np.array(PRICES)
    assert gone == pytest.approx(0.3 * price.sum() / (price**2).sum() * price, abs=0.05)
    assert np.argsort(gone)[[0, -1]].tolist() == [3, 1]


# ---- bounds, steps, errors -----------------------------------------------------------------------

BOUNDS: dict[str, tuple[dict[str, Any], Callable[[int, int], bool]]] = {
    "min_keep": ({"min_keep": 4}, lambda kept, size: kept >= 4),
    "max_ratio": ({"max_ratio": 0.5}, lambda kept, size: kept >= 0.5 * size),
    "min_ratio": ({"min_ratio": 0.25, "round_to": 1}, lambda kept, size: kept <= 0.75 * size),
    "round_to": ({"round_to": 16}, lambda kept, size: kept % 16 == 0 or kept == size),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_are_kept(name: str) -> None:
    bounds, holds = BOUNDS[name]
    given = problem("vit", {"params": 0.45}, **bounds)
    choice = make("optimal", SUM).choose(given)
    assert given.near(choice)
    for target in given.targets:
        assert holds(int(choice.alive[target.units].sum()), len(target)), target.name


def test_wide_targets_come_down_to_single_moves() -> None:
    """Few options at first do not cost much: lattices grow finer around what was found."""
    given = problem("vit", {"macs": 0.5}, round_to=1)
    few, many = (make("optimal", SUM | {"options": n}).choose(given) for n in (4, 32))
    assert given.near(few)
    assert kept(given, few) >= 0.995 * kept(given, many)


def test_steps_are_of_the_original() -> None:
    spec = {
        "objective": {"macs": 0.4},
        "allocation": {"name": "optimal", "min_keep": 9, "round_to": 2},
        "schedule": {"name": "linear", "steps": 2},
    }
    model, shape = NETS["resnet18"]
    report = fxprune.prune(model().eval(), spec, (torch.randn(shape),)).report
    assert [step.goal for step in report.steps] == pytest.approx([0.7, 0.4])
    assert [step.achieved for step in report.steps] == pytest.approx([0.7, 0.4], rel=0.01)
    assert min(target.kept for target in report.targets) >= 9
    assert report.macs_after / report.macs_before == pytest.approx(0.4, rel=0.01)


@pytest.mark.parametrize("goal", [1.0, 0.0001])
def test_ends(goal: float) -> None:
    given = problem("residual", {"macs": goal})
    if goal == 1.0:
        assert make("optimal", SUM).choose(given).alive.all()
        return
    with pytest.raises(ObjectiveError, match=r"can go down to 0\.\d+"):
        make("optimal", SUM).choose(given)


@pytest.mark.parametrize("wrong", [{"options": 1}, {"seconds": 0.0}, {"gap": 1.0}])
def test_wrong_options_are_said(wrong: dict[str, Any]) -> None:
    spec = {"objective": {"macs": 0.5}, "allocation": {"name": "optimal", **wrong}}
    with pytest.raises(SpecError, match=next(iter(wrong))):
        fxprune.prune(chain(), spec, (torch.randn(2, 5),))


# ---- size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.1, 4.0, 30.0])
@pytest.mark.parametrize("net", ["resnet18", "vit"])
def test_the_search_ends_when_its_seconds_are_over(
    net: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, solver = problem(net, {"macs": 0.5}), Solver(monkeypatch)
    choice = make("optimal", SUM | {"seconds": seconds}).choose(given)
    assert solver.now <= seconds + 0.5 * len(given.steps)  # which each rounding has at the least
    assert given.near(choice)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_large_nets_are_solved_in_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = getattr(torchvision.models, name)
    monkeypatch.setitem(NETS, name, (net, (2, 3, 32, 32)))
    given, solver = problem(name, {"macs": 0.5}), Solver(monkeypatch)
    choice = make("optimal", SUM).choose(given)
    assert solver.now < 90  # if each program takes all the time that it is given
    assert given.near(choice)
    assert kept(given, choice) > 1.1 * kept(given, make("global", {}).choose(given))
