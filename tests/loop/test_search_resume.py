"""A killed search goes on to the result of one that was not; processes share an optuna storage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from torch import nn

from fxprune.errors import CallbackError
from tests.loop.search_worker import search, value

ROOT = Path(__file__).parents[2]
HANGS = 1000  # seconds after which a process never ends
SEARCHES: dict[str, dict[str, Any]] = {
    "sensitivity": {"name": "sensitivity", "round_to": 1},
    "annealing": {"name": "simulated-annealing", "trials": 40, "round_to": 1},
    "tpe": {"name": "optuna", "trials": 30, "round_to": 1},
    "cma-es": {"name": "optuna", "sampler": "cma-es", "trials": 30, "round_to": 1},
    "netadapt": {"name": "netadapt", "round_to": 1},
}


class Asked:
    """Evaluate, and be interrupted at one evaluation of all."""

    def __init__(self, interrupt: int = 0) -> None:
        self.count = 0
        self._interrupt = interrupt

    def __call__(self, module: nn.Module) -> float:
        self.count += 1
        if self.count == self._interrupt:
            raise KeyboardInterrupt
        return value(module)


def worker(folder: Path, name: str, allocation: dict[str, Any], kill: int = 0) -> Any:
    arguments = [str(folder), name, json.dumps(allocation), str(kill)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.loop.search_worker", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def states(storage: str) -> list[str]:
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    return [trial.state.name for trial in study.get_trials()]


@pytest.mark.parametrize("at", [1, 9, 24])
@pytest.mark.parametrize("name", SEARCHES)
def test_an_interrupted_search_resumes_from_its_scores(name: str, at: int, tmp_path: Path) -> None:
    whole, before, after = Asked(), Asked(interrupt=at), Asked()
    wanted = search(SEARCHES[name], whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        search(SEARCHES[name], before, tmp_path / "cut")
    assert search(SEARCHES[name], after, tmp_path / "cut") == wanted
    # the one that was interrupted is asked again, and so is the result, for the history
    assert (before.count - 1) + after.count == whole.count
    again = Asked()
    assert search(SEARCHES[name], again, tmp_path / "cut") == wanted
    assert again.count == 0


@pytest.mark.parametrize("sampler", ["tpe", "cma-es"])
def test_an_interrupted_study_resumes_from_its_storage(sampler: str, tmp_path: Path) -> None:
    """No checkpoint: all that is left of the first run is in the storage."""
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    allocation = {**SEARCHES[sampler], "trials": 20}
    whole, before, after = Asked(), Asked(interrupt=13), Asked()
    wanted = search(allocation, whole)
    with pytest.raises(KeyboardInterrupt):
        search(allocation | {"storage": storage}, before)
    assert "RUNNING" not in states(storage)
    assert search(allocation | {"storage": storage}, after) == wanted
    assert states(storage).count("COMPLETE") == 20
    assert after.count < whole.count


def test_a_killed_process_leaves_a_study_that_goes_on(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    allocation = {**SEARCHES["cma-es"], "trials": 24}
    wanted = search(allocation, Asked())
    killed = worker(tmp_path, "killed", allocation | {"storage": storage}, kill=11)
    assert killed.wait(HANGS) == -9
    killed.stdout.close()
    assert states(storage)[-1] == "RUNNING"
    assert search(allocation | {"storage": storage}, Asked()) == wanted
    found = states(storage)
    assert (found.count("COMPLETE"), found.count("FAIL"), len(found)) == (24, 1, 25)


def test_two_processes_share_a_study(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    allocation = {**SEARCHES["tpe"], "trials": 40, "storage": storage}
    jobs = [worker(tmp_path, name, allocation) for name in ("a", "b")]
    plans = [json.loads(job.communicate(timeout=HANGS)[0]) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert plans[0] == plans[1]
    assert states(storage).count("COMPLETE") == 40
    shares = [len((tmp_path / f"asked.{name}").read_text().splitlines()) for name in ("a", "b")]
    assert min(shares) > 1, "each had a part"
    assert sum(shares) <= 40 + 2  # and each scored the result for its own history


def test_a_trial_of_another_machine_is_waited_for_until_it_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    allocation = {**SEARCHES["tpe"], "trials": 4, "storage": storage}
    with pytest.raises(CallbackError):
        search(allocation, lambda module: 1 / 0)
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    running = optuna.trial.create_trial(
        state=optuna.trial.TrialState.RUNNING, user_attrs={"worker": "elsewhere:1:0"}
    )
    study.add_trial(running)
    monkeypatch.setattr("fxprune.allocators.optuna_search.PATIENCE", 1.0)
    search(allocation, Asked())
    found = states(storage)
    assert (found.count("COMPLETE"), found.count("RUNNING")) == (4, 0)


def test_a_torn_line_of_scores_is_asked_again(tmp_path: Path) -> None:
    allocation = SEARCHES["annealing"]
    with pytest.raises(KeyboardInterrupt):
        search(allocation, Asked(interrupt=9), tmp_path)
    scores = tmp_path / "scores.jsonl"
    torn = scores.read_text()[:-9]
    scores.write_text(torn)
    with pytest.raises(KeyboardInterrupt):
        search(allocation, Asked(interrupt=4), tmp_path)
    lines = scores.read_text().splitlines()
    assert len(lines) == 8 - 1 + 3
    assert all(len(json.loads(line)) == 2 for line in lines)
    assert search(allocation, Asked(), tmp_path) == search(allocation, Asked())
