"""A family in one run: members are what prune makes, scored once, and the best are marked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import FxpruneError, ObjectiveError, SpecError
from fxprune.latency.kernels import KernelModel
from fxprune.loop import Family
from fxprune.loop.family_table import Member, Row, marked
from fxprune.loop.latency_contract import LatencyContract
from fxprune.metrics.magnitude import L2
from fxprune.objectives.latency import Latency
from tests.support.noise import noise
from tests.support.told_clock import BATCHES, ToldClock, network, train, worth

X = (noise(2, 3, 8, 8),)
SWEEP = [0.75, 0.5, 0.3]


@pytest.fixture(autouse=True)
def built(told_clock: ToldClock) -> list[str]:
    """Return what is built on the device "clock"."""
    return told_clock.built


# ---- members -------------------------------------------------------------------------------------

OBJECTIVES: dict[str, dict[str, Any]] = {
    "macs": {"macs": 0.9},
    "params": {"params": 0.9},
    "bytes": {"bytes": 0.9},
    "ratio": {"ratio": 0.1},
    "latency": {"latency": 0.9, "device": "clock", "threads": 2},
    "a time": {"latency": "1 ms", "device": "clock"},
}
SAME: dict[str, dict[str, Any]] = {
    **{name: {"objective": objective} for name, objective in OBJECTIVES.items()},
    "global": {"allocation": "global", "objective": {"macs": 0.9}},
    "optimal": {"allocation": "optimal", "objective": {"macs": 0.9}},
    "sensitivity": {
        "allocation": {"name": "sensitivity", "step": 0.3},
        "objective": {"macs": 0.9},
    },
    "isomorphic": {"allocation": "isomorphic", "objective": {"macs": 0.9}},
    "blocks": {
        "target": {"kind": "block", "tensor": "weight", "block": [2, 2], "axes": [0, 1]},
        "objective": {"ratio": 0.1},
    },
}


@pytest.mark.parametrize("name", SAME)
def test_a_member_is_what_prune_makes(name: str) -> None:
    spec = SAME[name]
    found = fxprune.prune_family(network(), spec, X, sweep=SWEEP, fine_tune=train, evaluate=worth)
    assert [one.goal for one in found.members] == SWEEP
    objective = next(iter(spec["objective"]))
    for goal, member in zip(SWEEP, found.members, strict=True):
        torch.manual_seed(0)
        alone = spec | {"objective": spec["objective"] | {objective: goal}}
        model = network()
        wanted = fxprune.prune(model, alone, X, fine_tune=train, evaluate=worth)
        torch.testing.assert_close(
            dict(member.module.state_dict()), dict(wanted.state_dict()), rtol=0, atol=0
        )
        assert member.module.plan == wanted.plan
        assert member.row.score == wanted.report.steps[-1].score
        assert member.row.achieved == pytest.approx(goal, rel=0.03)
        assert member.row.parameters == wanted.report.parameters_after
        assert member.row.macs == wanted.report.macs_after


def test_one_capture_and_one_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    score = L2.score
    capture = fxprune.loop.run_state.capture  # type: ignore[attr-defined]
    monkeypatch.setattr(L2, "score", lambda *a: calls.append("score") or score(*a))
    monkeypatch.setattr(
        "fxprune.loop.run_state.capture", lambda *a: calls.append("capture") or capture(*a)
    )
    spec = {"metric": "l2", "objective": {"macs": 0.5}}
    fxprune.prune_family(network(), spec, X, sweep=SWEEP)
    assert calls == ["capture", "score"]


def test_batches_are_read_once() -> None:
    """An iterator that can be read but once is enough for any number of members."""

    def once() -> Iterator[Tensor]:
        yield from BATCHES

    spec = {"metric": "apoz", "objective": {"macs": 0.5}}
    found = fxprune.prune_family(network(), spec, X, sweep=SWEEP, calibrate=once())
    wanted = fxprune.prune(network(), spec, X, calibrate=BATCHES)
    assert found.members[1].module.plan.kept.keys() == wanted.plan.kept.keys()
    assert found.members[1].module.plan == wanted.plan


def test_training_one_leaves_the_others_and_the_original() -> None:
    model = network()
    given = {name: value.clone() for name, value in model.state_dict().items()}
    found = fxprune.prune_family(model, {"objective": {"params": 0.9}}, X, sweep=[1.0, 0.99, 0.5])
    before = [worth(one.module) for one in found.members]
    with torch.no_grad():
        for value in found.members[0].module.parameters():
            value.zero_()
    assert [worth(one.module) for one in found.members[1:]] == before[1:]
    torch.testing.assert_close(dict(model.state_dict()), given, rtol=0, atol=0)


def test_a_schedule_that_trains_first_does_so_once() -> None:
    called: list[int] = []

    def tune(module: nn.Module, step: int) -> None:
        called.append(step)
        train(module, step)

    spec = {
        "metric": {"name": "slim", "penalty": 1e-3},
        "target": {"kind": "channel", "include": ["1"]},
        "allocation": "global",
        "schedule": {"name": "one-shot", "warmup": 2},
        "objective": {"macs": 0.9},
    }
    fxprune.prune_family(network(), spec, X, sweep=[0.9, 0.7], fine_tune=tune)
    assert called == [0, 1, 2, 2]


# ---- the table -----------------------------------------------------------------------------------


def test_the_table() -> None:
    spec = {"objective": {"macs": 0.5}}
    found = fxprune.prune_family(network(), spec, X, sweep=SWEEP, evaluate=worth, device="clock")
    first, *rows = found.table
    sizes = [
        sum(p.numel() for p in module.parameters())
        for module in (network(), *(one.module for one in found.members))
    ]
    assert [row.parameters for row in found.table] == sizes
    assert (first.goal, first.ratio, first.importance) == (None, 1.0, 1.0)
    assert first.score == pytest.approx(worth(network()), rel=1e-5)
    assert [row.ratio for row in rows] == pytest.approx([size / sizes[0] for size in sizes[1:]])
    assert 1.0 > rows[0].importance > rows[1].importance > rows[2].importance > 0.0
    assert [row.requested for row in rows] == [None] * 3
    assert found.timed_on == "clock, 1 thread, batch 1"
    data = json.loads(found.to_json())
    assert [Row(**row) for row in data["members"]] == rows
    assert data["front"] == {"cost": "latency / original", "worth": "score"}
    lines = str(found).splitlines()
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[0].split()[:3] == ["macs", "achieved", "parameters"]


@pytest.mark.parametrize("objective", ["macs", "ratio"])
def test_without_a_device_nothing_is_timed(objective: str, built: list[str]) -> None:
    found = fxprune.prune_family(network(), {"objective": {objective: 0.5}}, X, sweep=[0.6, 0.4])
    assert (built, found.timed_on) == ([], "")
    assert found.axes == (f"{objective} kept", "importance kept")
    assert "ms" not in str(found).splitlines()[0].split()


def test_a_latency_is_timed_on_its_own_device(built: list[str]) -> None:
    spec = {"objective": {"latency": 0.9, "device": "clock", "threads": 3, "batch": 2}}
    found = fxprune.prune_family(network(), spec, X, sweep=[0.8, 0.5])
    assert found.timed_on == "clock, 3 threads, batch 2"
    assert [one.met for one in found.latencies] == [True, True]  # type: ignore[union-attr]
    for row in found.table[1:]:
        assert row.milliseconds == pytest.approx(row.requested, rel=0.03)
    whole = sum(p.numel() for p in network().parameters())
    alone = built.index(f"{whole}, 3, 2")
    assert built[alone + 1 :].count(f"{whole}, 3, 2") == 1  # built once, and for the last turn


def test_a_device_that_runs_files() -> None:
    spec = {"objective": {"macs": 0.5}}
    found = fxprune.prune_family(network(), spec, X, sweep=[0.5], device="ort-cpu")
    assert found.table[1].ratio is not None


def test_kernels_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What foretells latencies is made for the smallest member and serves them all."""
    asked: list[float] = []
    model = KernelModel(cast(Any, None), [], [], [])  # which nothing looks into here
    told = lambda _, program, goal, say: asked.append(goal.goal) or model  # noqa: E731
    monkeypatch.setattr(LatencyContract, "kernels", told)
    monkeypatch.setattr(LatencyContract, "settled", lambda _, goal, *__: goal)
    monkeypatch.setattr(Latency, "timed", lambda self, kernels: self)
    spec = {"objective": {"latency": 0.9, "device": "clock"}}
    found = fxprune.prune_family(network(), spec, X, sweep=[0.8, 0.5])
    assert asked == [0.5]
    assert [one.met for one in found.latencies] == [True, True]  # type: ignore[union-attr]


FRONTS: dict[str, tuple[list[tuple[float, float]], list[bool]]] = {
    "all": ([(0.8, 0.9), (0.6, 0.8), (0.4, 0.5)], [True, True, True]),
    "one costs more for less": ([(0.8, 0.7), (0.6, 0.8), (0.4, 0.5)], [False, True, True]),
    "one costs as much for less": ([(0.6, 0.7), (0.6, 0.8)], [False, True]),
    "one costs more for as much": ([(0.8, 0.8), (0.6, 0.8)], [False, True]),
    "equals": ([(0.6, 0.8), (0.6, 0.8)], [True, True]),
    "slower and worse than the original": ([(1.1, 0.9), (0.5, 0.4)], [False, True]),
    "slower and better than the original": ([(1.1, 1.2), (0.5, 0.4)], [True, True]),
}


@pytest.mark.parametrize("name", FRONTS)
@pytest.mark.parametrize("timed", [True, False])
def test_the_front(name: str, timed: bool) -> None:
    points, expected = FRONTS[name]

    def row(goal: float | None, cost: float, worth: float) -> Row:
        one = Row(goal, goal, 1.0 if timed else cost, 1, 1, 1, 0.5 if timed else worth)
        return replace(one, ratio=cost, score=worth) if timed else one

    slim: Any = None
    members = tuple(Member(k, slim, row(k, *point)) for k, point in enumerate(points))
    found = marked(Family("macs", row(None, 1.0, 1.0), members))
    assert [one.row.pareto for one in found.members] == expected
    assert [one.goal for one in found.pareto] == [k for k, on in enumerate(expected) if on]


# ---- all that is refused -------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], Any, str]] = {
    "steps": ({"schedule": {"name": "agp", "steps": 3}}, SWEEP, "sweep: agp prunes in steps"),
    "nothing": ({}, [], r"sweep: \[\]: a list of goals is needed"),
    "a text": ({}, "0.5", "sweep: '0.5': a list of goals is needed"),
    "a number": ({}, 0.5, "sweep: 0.5: a list of goals is needed"),
    "texts": ({}, ["0.5"], 'sweep: "0.5" is not a number'),
    "too much": ({}, [0.5, 1.5], "sweep.macs: 1.5: input should be less than or equal to 1"),
    "nothing left": ({}, [0.0], "sweep.macs: 0.0: input should be greater than 0"),
    "no number": ({}, [float("nan")], "sweep.macs: nan"),
    "twice": ({}, [0.5, 0.8, 0.5], "sweep: 0.5 stands there twice"),
    "an option": ({"objective": {"macs": 0.5, "mac": 1}}, [0.5], 'unknown option of macs "mac"'),
    "all of them": ({"objective": {"ratio": 0.5}}, [1.0], "sweep.ratio: 1.0: input should be less"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_swept(name: str) -> None:
    given, sweep, said = REFUSED[name]
    spec = {"objective": {"macs": 0.5}, **given}
    with pytest.raises(SpecError, match=said) as raised:
        fxprune.prune_family(network(), spec, X, sweep=sweep)
    assert "\n" not in str(raised.value)


def test_a_goal_out_of_reach_says_which() -> None:
    with pytest.raises(ObjectiveError, match=r"sweep: 0\.0001: objective.macs: .* can go down to"):
        fxprune.prune_family(network(), {"objective": {"macs": 0.5}}, X, sweep=[0.5, 1e-4])


@pytest.mark.parametrize(
    ("objective", "device", "said"),
    [
        ({"latency": 0.5, "device": "clock"}, "ort-cpu", "device: ort-cpu: the objective is a"),
        ({"macs": 0.5}, "gpu", 'device: unknown device "gpu"'),
    ],
)
def test_devices_that_cannot_be(objective: Any, device: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        fxprune.prune_family(network(), {"objective": objective}, X, sweep=[0.5], device=device)


def test_callbacks_are_checked() -> None:
    call = {"objective": {"macs": 0.5}}
    with pytest.raises(FxpruneError, match="fine_tune: a function is needed, not int"):
        fxprune.prune_family(network(), call, X, sweep=[0.5], fine_tune=3)  # type: ignore[arg-type]


def test_public_names_are_few() -> None:
    assert len(fxprune.__all__) <= 20
    assert all(hasattr(fxprune, name) for name in fxprune.__all__)
