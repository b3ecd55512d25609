"""Progress: what is shown to whom, what is logged, and seconds that add up."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.loop import progress, progress_bar
from tests.support.command import Done

X = (torch.zeros(2, 8),)
SPEC = {"objective": {"macs": 0.5}, "schedule": {"name": "linear", "steps": 2}}


def net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )


class Terminal(io.StringIO):
    """A standard error that somebody looks at: pytest lays its own between fixture and test."""

    def pruned(self, monkeypatch: pytest.MonkeyPatch, **given: Any) -> str:
        """Prune while somebody looks on; return what was seen."""
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", self)
            fxprune.prune(net(), SPEC, X, **given)
        return self.getvalue()

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """Look on, and wait for nothing."""
    page = Terminal()
    monkeypatch.setattr(progress_bar, "PATIENCE", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    yield page
    assert not progress_bar._running  # whatever happened


def tune(module: nn.Module, step: int) -> None:
    time.sleep(0.2)


@pytest.mark.parametrize(
    ("wanted", "line", "solver"),
    [(None, False, False), (False, False, False), (True, True, False), ("verbose", True, True)],
)
def test_what_is_printed_in_a_log(
    wanted: Any, line: bool, solver: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    fxprune.prune(net(), SPEC, X, progress=wanted)
    said = capsys.readouterr().err
    assert ("fxprune: step 1: asked 0.7500" in said) is line
    assert ("fxprune: optimal: " in said) is solver
    assert "\x1b" not in said  # a log has no bars


def test_a_bar_shows_itself_in_a_terminal(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = terminal.pruned(monkeypatch, fine_tune=tune)
    assert "step 1/2: fine_tune" in said
    assert "step 2/2: fine_tune" in said
    assert "fxprune: step 1: asked" not in said  # lines are for those who ask for them


def test_lines_stand_above_the_bar(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    said = terminal.pruned(monkeypatch, fine_tune=tune, progress=True)
    assert "fxprune: step 1: asked 0.7500, achieved" in said
    assert "step 2/2: fine_tune" in said


@pytest.mark.parametrize("wanted", [False, [].append])
def test_no_bar_where_none_is_wanted(
    wanted: Any, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert terminal.pruned(monkeypatch, fine_tune=tune, progress=wanted) == ""


def test_what_is_quick_shows_no_bar(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_bar, "PATIENCE", 60.0)
    assert terminal.pruned(monkeypatch) == ""


def test_the_bar_goes_where_the_run_fails(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(module: nn.Module, step: int) -> None:
        time.sleep(0.2)
        raise ValueError("it does")

    with pytest.raises(fxprune.FxpruneError, match="it does"):
        terminal.pruned(monkeypatch, fine_tune=fails)
    seen = terminal.getvalue()
    time.sleep(0.3)
    assert seen
    assert terminal.getvalue() == seen  # nothing draws any more


def test_fine_tuning_shows_its_bar_under_that_of_the_run(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [(torch.zeros(2, 8),) for _ in range(3)]

    def loss(module: nn.Module, batch: Any) -> torch.Tensor:
        time.sleep(0.1)
        found: torch.Tensor = module(batch[0]).square().mean()
        return found

    said = terminal.pruned(monkeypatch, fine_tune=fxprune.FineTune(batches=batches, loss=loss))
    assert "fine-tuning 1" in said
    assert "step 2/2: fine_tune" in said


def test_all_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="fxprune"):
        fxprune.prune(net(), SPEC, X)
    mine = [one for one in caplog.records if one.name == "fxprune"]
    assert [one for one in mine if one.levelno == logging.INFO and "step 2" in one.getMessage()]
    assert [one for one in mine if one.levelno == logging.DEBUG and "optimal" in one.getMessage()]


def test_seconds_add_up_to_the_run() -> None:
    began = time.perf_counter()
    slim = fxprune.prune(net(), SPEC, X, fine_tune=tune, evaluate=lambda module: 1.0)
    spent = time.perf_counter() - began
    seconds = slim.report.seconds
    assert seconds["fine_tune"] >= 0.4
    assert {"capture", "couple", "score", "allocate", "shrink", "verify", "evaluate"} <= set(
        seconds
    )
    assert sum(seconds.values()) == pytest.approx(spent, abs=0.05)


def test_members_of_a_family_share_the_time_before_them() -> None:
    family = fxprune.prune_family(
        net(), {"objective": {"macs": 0.5}}, X, sweep=[0.8, 0.5], fine_tune=tune
    )
    for member in family.members:
        seconds = member.module.report.seconds
        assert seconds["capture"] > 0
        assert 0.2 <= seconds["fine_tune"] < 0.4  # its own alone


@pytest.mark.parametrize(
    ("words", "line", "solver"), [((), True, False), (("-q",), False, False), (("-v",), True, True)]
)
def test_the_command(
    words: tuple[str, ...],
    line: bool,
    solver: bool,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Done],
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.export.save(torch.export.export(net(), X), "net.pt2")
    done = command("prune", "net.pt2", "--macs", "0.5", "-o", "slim.pt2", *words)
    assert done.status == 0
    assert ("fxprune: step 1" in done.err) is line
    assert ("fxprune: optimal" in done.err) is solver


@pytest.mark.usefixtures("told_clock")
def test_every_stage_has_a_place_in_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    update = progress_bar.Bar.update

    def watched(bar: progress_bar.Bar, **now: Any) -> None:
        seen.add(now.get("stage", ""))
        update(bar, **now)

    monkeypatch.setattr(progress_bar.Bar, "update", watched)
    monkeypatch.setattr(progress_bar, "watched", lambda: True)
    spec = {"objective": {"latency": 0.9, "device": "torch-cpu"}, "repair": "means"}
    fxprune.prune(net(), spec, X, evaluate=lambda module: 1.0, fine_tune=tune)
    assert {"latency", "evaluate", "repair", "fine_tune"} <= seen
    assert seen - {"", "other"} <= set(progress_bar.STAGES)


def test_what_is_counted_says_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(float(n) for n in range(100))
    told: list[str] = []
    watch = progress.Progress(told.append)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(ticks) * 6.0)
    for done in range(4):
        watch.part("exports", done, 3)
    assert told == ["exports: 1 of 3, 12 s left", "exports: 2 of 3, 6 s left", "exports: 3 of 3"]


def test_the_bar_goes_forward_only(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = progress_bar.Bar()
    seen: list[float] = []
    for step in (1, 2, 3):
        for stage in ("latency", "capture", "score", "allocate", "couple", "verify"):
            bar.update(step=step, steps=3, stage=stage)
            seen.append(bar._fraction() or 0.0)
    assert seen == sorted(seen)
    assert 0.9 < seen[-1] < 1.0
    bar = progress_bar.Bar()
    bar.update(step=1, steps=1, stage="latency")
    assert bar._fraction() is None  # nobody knows
    bar.update(part=0.25, left=9.0)
    assert (bar._fraction(), bar._left()) == (0.25, 9.0)
    bar.update(stage="verify")
    assert bar._fraction() is None


def test_redirected_streams_come_back(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar that shows itself while the program has redirected its streams leaves them alone."""
    monkeypatch.setattr(progress_bar, "PATIENCE", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        patch.setattr(sys, "stdout", terminal)
        elsewhere = io.StringIO()
        with progress.shown("capture") as watch:
            with redirect_stderr(elsewhere), redirect_stdout(elsewhere):
                watch.stage("couple")
                time.sleep(0.4)
            watch.stage("score")
            print("a line of the program")
        assert sys.stderr is terminal
        assert sys.stdout is terminal
    assert elsewhere.getvalue() == ""
    assert "fxprune: couple" in terminal.getvalue()
    assert "a line of the program" in terminal.getvalue()


def test_what_is_no_run_shows_a_bar(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        fxprune.analyze(net(), X)
    assert "fxprune: couple" in terminal.getvalue()
