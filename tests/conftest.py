"""What every test shares: one thread, seeded generators, repeatable hypothesis runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.support import told_clock as time_is
from tests.support.command import Done, called

torch.set_num_threads(1)

settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("ci")


def drawn() -> tuple[bytes, bytes, int]:
    """Return where the generators stand that all share."""
    _, key, position, *_ = np.random.get_state()
    return torch.random.get_rng_state().numpy().tobytes(), key.tobytes(), position


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Refuse a module that draws random numbers when it is imported.

    They would depend on what was imported before it, and so would what its tests see.
    """
    before = drawn()
    report = yield
    if report.passed and drawn() != before:
        report.outcome = "failed"
        report.longrepr = (
            f"{collector.nodeid}: it, or what it imports first, draws random numbers when it is "
            "imported; take them from tests/support/noise.py, or draw them in the test"
        )
    return report


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed every generator before each test, so that a test passes or fails alone as in a crowd."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return 0


@pytest.fixture(autouse=True)
def no_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse to time anything for real."""
    time_is.refused(monkeypatch)


@pytest.fixture
def told_clock(
    no_real_time: None, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> time_is.ToldClock:
    """Let what is timed take what is told, and keep told times out of the user's own cache."""
    monkeypatch.setenv("FXPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
    return time_is.told(monkeypatch)


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Call the command line."""
    return partial(called, monkeypatch, capfd)
