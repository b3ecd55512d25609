"""The latency benchmark on a tiny network, and its verdicts on rows that are made up."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import latency

pytestmark = pytest.mark.usefixtures("told_clock")


def tiny() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 1)]
    return nn.Sequential(*layers).eval(), (torch.randn(2, 3, 24, 24),)


def row(**changes: Any) -> dict[str, Any]:
    near = {"ratio": 0.5, "ratio_low": 0.49, "ratio_high": 0.51, "said_met": True, "macs": 0.5}
    times = {"requested": 5.0, "predicted": 5.1, "measured": 4.9, "tries": 2}
    spent = {"solve_s": 1.0, "total_s": 9.0, "params": 0.6}
    return {"model": "m", "kept": 0.5, "allocation": "uniform", **near, **times, **spent, **changes}


def test_a_cell_is_measured() -> None:
    found = latency.measure(tiny, 0.6, "uniform", seconds=0.05)
    assert found["requested"] > 0
    assert 0.0 < found["ratio_low"] <= found["ratio"] <= found["ratio_high"]
    assert found["pruned_ms"] < found["original_ms"] * 2
    assert 0.0 < found["macs"] < 1.0
    assert found["tries"] >= 1
    assert 0.0 < found["solve_s"] < found["total_s"]
    assert found["rounds"] >= 15
    cell = {"model": "tiny", "kept": 0.6, "allocation": "uniform"} | found
    assert len(latency.cells(cell)) == len(latency.HEADINGS)
    assert json.loads(json.dumps(cell)) == cell


def test_by_macs_no_latency_is_promised() -> None:
    found = latency.measure(tiny, 0.6, "macs", seconds=0.05)
    assert found["macs"] == pytest.approx(0.6, rel=0.01)
    assert "requested" not in found
    cell = {"model": "tiny", "kept": 0.6, "allocation": "macs"} | found
    assert len(latency.cells(cell)) == len(latency.HEADINGS)
    assert [text for _, text in latency.verdicts([cell])] == [
        f"by MACs alone: conversion {latency.conversion(cell):.3f} on the geometric mean"
    ]


def test_the_second_call_is_only_timed() -> None:
    found = latency.measure(tiny, 0.6, "uniform", seconds=0.05, again=True)
    assert set(found) == {"total_s", "solve_s", "tries"}


def test_what_is_refused_is_a_row() -> None:
    found = latency.measure(tiny, 0.6, "simulated-annealing", seconds=0.05)
    assert "needs an evaluator" in found["failed"]


def test_a_repeated_cell_has_a_cache_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[bool, Any]] = []

    def apart(script: str, cell: Any, timeout: float, cache: Any = None) -> Any:
        asked.append((bool(cell.get("again")), cache))
        return {"total_s": 9.0 - 8.0 * bool(cell.get("again"))}

    monkeypatch.setattr(latency, "apart", apart)
    assert latency.both({"model": "m"}, 1.0, repeat=True)["again_s"] == 1.0
    (first, cache), (second, same) = asked
    assert (first, second) == (False, True)
    assert cache == same is not None
    assert latency.both({"model": "m"}, 1.0, repeat=False) == {"total_s": 9.0}
    assert asked[-1] == (False, None)


OFF = {"ratio": 0.55, "ratio_low": 0.54, "ratio_high": 0.56}
WIDE = {"ratio": 0.53, "ratio_low": 0.50, "ratio_high": 0.56}
VERDICTS: dict[str, tuple[list[dict[str, Any]], list[bool]]] = {
    "all met": ([row()] * 10, [True, True, True]),
    "nine of ten": ([row()] * 9 + [row(**OFF, said_met=False)], [True, True, True]),
    "eight of ten": ([row()] * 8 + [row(**OFF, said_met=False)] * 2, [False, True, True]),
    "one silent": ([row()] * 9 + [row(**OFF)], [True, False, True]),
    "too fast and silent": (
        [row()] * 9 + [row(ratio=0.4, ratio_low=0.39, ratio_high=0.41)],
        [True, False, True],
    ),
    "noise is not silence": ([row()] * 9 + [row(**WIDE)], [True, True, True]),
    "a failure is a miss": ([row()] * 8 + [row(failed="x")] * 2, [False, True, True]),
    "slow for its MACs": ([row(macs=0.4)] * 10, [True, True, False]),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdicts(name: str) -> None:
    rows, expected = VERDICTS[name]
    found = list(latency.verdicts(rows))
    assert [met for met, _ in found] == expected
    text = latency.markdown(rows)
    assert text.count("\n- PASS: ") + text.count("\n- FAIL: ") == 3


def test_each_allocation_has_its_own_verdicts() -> None:
    found = list(latency.verdicts([row(), row(allocation="optimal", macs=0.25)]))
    assert [text.partition(":")[0] for _, text in found] == ["uniform"] * 3 + ["optimal"] * 3
    assert found[5] == (False, "optimal: conversion 2.000 on the geometric mean")


def test_a_miss_is_shown() -> None:
    place = latency.HEADINGS.index("met")
    told = [latency.cells(one)[place] for one in (row(), row(**OFF), row(**OFF, said_met=0))]
    assert told == ["yes", "SILENTLY NO", "no"]
    assert latency.cells(row(failed="why"))[3] == "failed: why"


def test_every_model_is_there() -> None:
    assert len(latency.MODELS) == 9
    model, inputs = latency.MODELS["mobilenet_v2"]()
    again, _ = latency.MODELS["mobilenet_v2"]()
    assert not model.training
    assert inputs[0].shape == (2, 3, 224, 224)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )
