"""The means of the speed benchmark: what counts in which."""

from __future__ import annotations

from typing import Any

import pytest

import speed

DONE = {"capture": 1.0, "analysis": 0.5, "rewrite": 0.5}


def pair(name: str, rival: dict[str, Any], problem: str = "") -> Any:
    def run(seconds: dict[str, float], **more: Any) -> dict[str, Any]:
        return {"seconds": seconds, "peak": 1.0, "before": 1, "problem": "", **more}

    ours = speed.Side([run(DONE, problem=problem)])
    return speed.Pair(name, ours, speed.Side([run({}) | rival]))


FAIR = pair("fair", {"seconds": {"init": 1.0, "step": 1.0}})  # a ratio of 1
LATE = pair("late", {"problem": "not done after 200 s", "limit": 200.0})  # of 0.01
BROKEN = pair("broken", {"problem": "does not run any more"})
OURS = pair("ours", {"problem": "not done after 200 s", "limit": 200.0}, "crashed")


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([FAIR], []),
        ([FAIR, LATE], ["counted: 0.10 of Torch-Pruning's on the geometric mean of 2 models"]),
        ([LATE], ["counted: 0.01 of Torch-Pruning's on the geometric mean of 1 models"]),
        ([FAIR, BROKEN], ["in no mean, since Torch-Pruning's result is of no use: broken"]),
        ([FAIR, OURS], []),
    ],
)
def test_remarks(pairs: list[Any], expected: list[str]) -> None:
    said = list(speed.remarks(pairs))
    assert len(said) == len(expected)
    assert all(text in one for text, one in zip(expected, said, strict=True)), said


def test_timeouts_count_in_no_verdict() -> None:
    (_, first), *_ = list(speed.verdicts([FAIR, LATE]))[1:]
    assert "1.00 of Torch-Pruning's on the geometric mean of 1 models" in first


def test_the_table_says_what_the_verdicts_say() -> None:
    text = speed.markdown([FAIR, LATE])
    assert "| fair | 0.0 | 1.00 | 0.50 | 0.50 | 2.00 |" in text
    assert "| not done after 200 s |" in text
    assert "\n- PASS: total with capture: 1.00 of Torch-Pruning's" in text
    assert "\n- total with capture, timeouts counted: 0.10 of" in text
