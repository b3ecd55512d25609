"""Latency as the objective: measured, corrected, and said where it is missed."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import ObjectiveError, SpecError
from fxprune.latency import devices
from fxprune.objectives.latency import Latency, milliseconds
from fxprune.report import Report
from tests.support.noise import noise
from tests.support.told_clock import ToldClock


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 96, 3, padding=1)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(96, 32, 1)).eval()


X = (noise(2, 3, 16, 16),)


pytestmark = pytest.mark.usefixtures("told_clock")


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize(("power", "floor"), [(1.0, 0.0), (0.6, 0.0), (1.3, 0.0), (1.0, 0.02)])
@pytest.mark.parametrize("goal", [0.8, 0.5])
def test_what_is_measured_is_what_was_asked(
    told_clock: ToldClock, goal: float, power: float, floor: float, allocation: str
) -> None:
    told_clock.power, told_clock.floor = power, floor
    spec = {"allocation": allocation, "objective": {"latency": goal, "device": "clock"}}
    latency = fxprune.prune(network(), spec, X).report.latency
    assert latency.met
    assert latency.ratio == pytest.approx(goal, rel=0.03)
    assert latency.measured == pytest.approx(latency.requested, rel=0.03)
    assert latency.requested == pytest.approx(goal * latency.original)


def test_a_time_is_asked_for_as_such(told_clock: ToldClock) -> None:
    whole = sum(p.numel() for p in network().parameters()) * 1e-3
    spec = {"objective": {"latency": f"{0.6 * whole:.4f} ms", "device": "clock"}}
    latency = fxprune.prune(network(), spec, X).report.latency
    assert latency.requested == pytest.approx(0.6 * whole, rel=1e-3)
    assert latency.met


@pytest.mark.parametrize("goal", ["500 s", 1.0])
def test_what_is_fast_enough_stays_as_it_is(told_clock: ToldClock, goal: str | float) -> None:
    slim = fxprune.prune(network(), {"objective": {"latency": goal, "device": "clock"}}, X)
    assert slim.report.latency.met
    assert slim.report.macs_after == slim.report.macs_before
    assert any("nothing has to be removed" in note for note in slim.report.notes)


HALVED = {"name": "uniform", "max_ratio": 0.5, "round_to": 1}


def test_what_is_foretold_out_of_reach_may_be_met(told_clock: ToldClock) -> None:
    """Half of the channels leave 0.27 of the MACs; measured, they take less time than that."""
    told_clock.power = 1.3
    spec = {"allocation": HALVED, "objective": {"latency": 0.22, "device": "clock"}}
    with pytest.raises(ObjectiveError, match=r"can go down to 0\.2[67]\d, "):
        fxprune.prune(network(), spec | {"objective": {"macs": 0.22}}, X)
    latency = fxprune.prune(network(), spec, X).report.latency
    assert latency.ratio == pytest.approx(0.22, rel=0.03)


def test_what_is_measured_out_of_reach_is_refused(told_clock: ToldClock) -> None:
    told_clock.power = 0.6
    spec = {"allocation": HALVED, "objective": {"latency": 0.22, "device": "clock"}}
    with pytest.raises(ObjectiveError, match=r"down to 0\.\d+ of the original, as measured, and"):
        fxprune.prune(network(), spec, X)


def test_a_miss_is_said(told_clock: ToldClock) -> None:
    """Half of the time is overhead: no network of fewer channels takes a third of it."""
    whole = sum(p.numel() for p in network().parameters()) * 1e-6
    told_clock.floor = whole
    report = fxprune.prune(network(), {"objective": {"latency": 0.45, "device": "clock"}}, X).report
    assert not report.latency.met
    assert any("NOT MET" in note for note in report.notes)
    assert "NOT MET" in str(report)
    assert Report.from_json(report.to_json()) == report


def test_a_schedule_measures_its_last_step(told_clock: ToldClock) -> None:
    spec = {
        "schedule": {"name": "linear", "steps": 3},
        "objective": {"latency": 0.5, "device": "clock"},
    }
    slim = fxprune.prune(network(), spec, X)
    assert slim.report.latency.met
    assert len(slim.report.steps) == 3


@pytest.mark.parametrize("device", ["ort-cpu", "torch-cpu"])
def test_the_devices_that_are_there(device: str) -> None:
    spec = {"objective": {"latency": 0.6, "device": device, "threads": 1, "batch": 1}}
    latency = fxprune.prune(network(), spec, X).report.latency
    assert latency.device == device
    assert 0 < latency.low <= latency.measured <= latency.high
    assert latency.ratio == pytest.approx(latency.measured / latency.original)
    assert latency.ratio == pytest.approx(0.6, rel=0.03)


class Slow:
    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def __call__(self) -> None:
        self.log.append(self.name)


def test_runs_are_timed_in_turn() -> None:
    log: list[str] = []
    devices.interleaved([Slow(log, "a"), Slow(log, "b")], rounds=4, seconds=0.0)
    assert log[-8:] == ["a", "b"] * 4


def test_sessions_are_opened_anew_in_turn_a_few_times() -> None:
    log: list[str] = []

    class Session:
        def __init__(self, name: str) -> None:
            log.append(name)

        def run(self, names: None, feeds: dict[str, Any]) -> list[Any]:
            return []

    runs = [devices.SessionRun({}, partial(Session, name)) for name in "ab"]
    assert log == []
    devices.interleaved(runs, rounds=4, seconds=0.0, openings=3)
    assert log == ["a", "b"] * 3


def test_times() -> None:
    assert [milliseconds(text) for text in ("8 ms", "0.5s", "250us")] == [8.0, 500.0, 0.25]


def test_a_correction_goes_between_what_was_seen() -> None:
    goal = Latency(0.5).corrected([(0.5, 0.7), (0.3, 0.4)])
    assert goal.uncorrected(0.5) == pytest.approx(0.3 + 0.2 / 3, rel=1e-6)
    assert Latency(0.5).corrected([(0.5, 0.6)]).uncorrected(0.5) == pytest.approx(0.5 * 0.5 / 0.6)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no device": ({"latency": 0.5, "device": "gpu"}, r'objective.device: unknown device "gpu"'),
    "no time": ({"latency": "soon"}, "objective.latency: 'soon': a share .* such as \"8 ms\""),
    "no unit of time": ({"latency": "8 parsecs"}, "'8 parsecs': a share of the original"),
    "a list": ({"latency": [0.5]}, "objective.latency: .*a valid number"),
    "too much": ({"latency": 1.5}, "objective.latency: 1.5"),
    "no threads": ({"latency": 0.5, "threads": 0}, "objective.threads: 0"),
    "an option": ({"latency": 0.5, "treads": 1}, 'did you mean "threads"'),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_meant(name: str) -> None:
    objective, said = WRONG[name]
    with pytest.raises(SpecError, match=said) as raised:
        fxprune.prune(network(), {"objective": objective}, X)
    assert "\n" not in str(raised.value)


def test_a_fixed_batch_is_refused() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Any:
            return self.two(self.one(x.reshape(2, 8)).relu())

    spec = {"objective": {"latency": 0.5, "device": "torch-cpu", "batch": 3}}
    with pytest.raises(SpecError, match=r"objective\.batch: 3"):
        fxprune.prune(Fixed(), spec, (torch.randn(2, 8),))
