"""A checkpoint is all of one moment: whenever a run is killed, the one before or the new one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import CheckpointError
from fxprune.loop import checkpoint
from fxprune.loop.checkpoint import Checkpoint, Saved

SPEC = {"schedule": {"name": "agp", "steps": 3}, "objective": {"macs": 0.5}}


class Killed(BaseException):
    """Stand in for a signal that no handler catches."""


def job(folder: Path, optimizer: type[torch.optim.Optimizer] = torch.optim.Adam) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    carried = optimizer(model.parameters(), lr=1e-3)  # type: ignore[call-arg]

    def tune(module: nn.Module, step: int) -> None:
        carried.zero_grad()
        module(torch.randn(8, 6)).pow(2).sum().backward()
        carried.step()

    x = (torch.randn(2, 6),)
    return fxprune.prune(model, SPEC, x, fine_tune=tune, optimizer=carried, checkpoint=folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return job(tmp_path_factory.mktemp("whole"))


def assert_same(one: Any, other: Any) -> None:
    assert one.plan == other.plan
    state = other.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())


def killing(call: Callable[..., Any], at: int, after: bool) -> Callable[..., Any]:
    """Return a function that does as another, and at one of its calls is killed."""
    calls = list[Any]()

    def counted(*given: Any, **named: Any) -> Any:
        calls.append(given)
        if len(calls) == at and not after:
            raise Killed
        found = call(*given, **named)
        if len(calls) == at:
            raise Killed
        return found

    return counted


PLACES = {
    "writing": (checkpoint, "save_file"),
    "moving": (os, "replace"),
    "flushing": (os, "fsync"),
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("place", PLACES)
def test_a_run_goes_on_wherever_it_was_killed(
    place: str, at: int, after: bool, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = PLACES[place]
    with monkeypatch.context() as patched:
        patched.setattr(module, name, killing(getattr(module, name), at, after))
        with pytest.raises(Killed):
            job(tmp_path)
    assert_same(job(tmp_path), whole)


DYING = """
import os, signal
from pathlib import Path
from fxprune.loop import checkpoint
from tests.loop.test_checkpoint import job
write, calls = checkpoint.save_file, []
def dying(*given):
    calls.append(given)
    if len(calls) == 2: os.kill(os.getpid(), signal.SIGKILL)
    write(*given)
checkpoint.save_file = dying
job(Path({folder!r}))
"""


def test_what_a_killed_process_half_wrote_is_cleared(whole: Any, tmp_path: Path) -> None:
    code = DYING.format(folder=str(tmp_path))
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2  # the moment before, and a beginning of the next
    assert_same(job(tmp_path), whole)
    assert [path.name for path in tmp_path.iterdir()] == ["schedule.safetensors"]


def test_the_optimizer_is_of_the_same_moment(tmp_path: Path) -> None:
    held = Checkpoint(tmp_path, "it")
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    for moment in (1, 2):
        parameter.sum().backward()
        optimizer.step()
        held.save(Saved(step=moment), optimizer)
    fresh = torch.optim.Adam([nn.Parameter(torch.ones(3))], lr=0.3)
    found = held.load()
    assert found is not None
    held.load_optimizer(fresh, found)
    assert found.step == 2
    assert fresh.state_dict()["state"][0]["step"] == 2
    assert fresh.param_groups[0]["lr"] == 0.1
    assert [path.name for path in tmp_path.iterdir()] == ["schedule.safetensors"]


def test_state_that_is_a_view_is_stored_alone(tmp_path: Path) -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    optimizer.state[parameter]["momentum_buffer"] = torch.full((1_000_000,), 7.0)[:3]
    Checkpoint(tmp_path, "it").save(Saved(), optimizer)
    assert (tmp_path / "schedule.safetensors").stat().st_size < 100_000


def without(optimizer: Any) -> Any:
    return None


def other(optimizer: Any) -> Any:
    return torch.optim.SGD([nn.Parameter(torch.ones(3))], lr=0.1)


def more(optimizer: Any) -> Any:
    return torch.optim.Adam([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))])


@pytest.mark.parametrize(
    ("saved", "given", "said"),
    [
        (without, more, "holds no state of the optimizer"),
        (other, more, "it is the state of SGD, and this one is Adam"),
        (lambda one: one, more, "does not fit the optimizer: loaded state dict"),
    ],
)
def test_another_optimizer_is_refused(saved: Any, given: Any, said: str, tmp_path: Path) -> None:
    held = Checkpoint(tmp_path, "it")
    held.save(Saved(), saved(torch.optim.Adam([nn.Parameter(torch.ones(3))])))
    found = held.load()
    assert found is not None
    with pytest.raises(CheckpointError, match=said):
        held.load_optimizer(given(None), found)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(CheckpointError, match="file"):
        job(tmp_path / "file")
