"""Two processes with a share of the batches each take the decisions of one that has them all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fxprune import distributed
from tests.loop.distributed_job import BROKEN, EQUAL, disagreeing, kept, scored

ROOT = Path(__file__).parents[2]
SAID = {
    "empty": ("CalibrationError", "calibrate: there is no batch in it"),
    "no number": ("CalibrationError", "loss: batch 0: the loss is nan"),
    "refused": ("CalibrationError", "loss: batch 0: it raised RuntimeError: "),
    "untrained": ("CallbackError", "fine_tune: it raised OSError: the data are gone"),
}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what each of two gloo processes wrote."""
    folder = tmp_path_factory.mktemp("job")
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.loop.distributed_job", str(folder), str(rank), "2"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [one.communicate(timeout=1000)[1] for one in started]
    finally:
        for one in started:
            one.kill()
    assert [one.returncode for one in started] == [0, 0], said
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("case", EQUAL)
def test_two_processes_plan_as_one(case: str, job: list[dict[str, Any]]) -> None:
    whole = kept(case)
    for one in job:
        assert one["kept"][case] == whole
    share = kept(case, 1, 2)
    if case not in ("movement", "admm"):  # which learn from the rows that fine_tune takes
        assert share != whole  # else this shows nothing


def test_scores_are_means_over_all_batches(job: list[dict[str, Any]]) -> None:
    for one in job:
        for found, wanted in zip(one["scores"], scored(), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_processes_whose_weights_differ_decide_as_the_first(job: list[dict[str, Any]]) -> None:
    assert disagreeing(1) != disagreeing(0)
    assert [one["disagreeing"] for one in job] == [disagreeing(0)] * 2


@pytest.mark.parametrize("case", BROKEN)
def test_what_one_process_lacks_all_raise(case: str, job: list[dict[str, Any]]) -> None:
    kind, words = SAID[case]
    (one, said), (other, cause) = (each["failures"][case] for each in job)
    assert words in cause
    assert said == f"process 1 of the job: {cause}"
    assert one == other
    assert kind == one  # at once: a wait in vain would have ended with another error


def test_alone_everything_is_as_it_is() -> None:
    assert not distributed.many()
    assert distributed.first()
    assert distributed.mean(3.0) == 3.0
    with pytest.raises(ZeroDivisionError):
        distributed.together(lambda: 1 / 0)
