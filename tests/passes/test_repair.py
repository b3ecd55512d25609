"""The pass `repair`, and the key of a specification that asks for it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from fxprune.errors import CalibrationError, FxpruneError, SpecError
from tests.support.noise import noise
from tests.support.repairs import apart

ROWS = [noise(32, 6, seed=n) for n in range(4)]
HALF = {"metric": "l2", "allocation": "uniform", "objective": {"ratio": 0.5}}


class Net(nn.Module):
    """Two hidden layers, each of half as many independent features as it has units."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(6, 16), nn.BatchNorm1d(16)
        self.b, self.c = nn.Linear(16, 16), nn.Linear(16, 3)
        with torch.no_grad():
            self.b.weight[:, 8:] *= 0.5  # so that the copies are of less weight
            self.c.weight[:, 8:] *= 0.5
            for layer in (self.a, self.b):
                layer.weight[8:], layer.bias[8:] = 0.5 * layer.weight[:8], 0.5 * layer.bias[:8]
            self.norm.running_var[8:] = 0.25 * self.norm.running_var[:8]
            self.norm.eps = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(F.relu(self.norm(self.a(x))))))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def test_with_batches_it_is_repaired_unless_said_otherwise(model: nn.Module) -> None:
    wanted, before = model(ROWS[0]), copy.deepcopy(model.state_dict())
    plain = fxprune.prune(model, {**HALF, "repair": "none"}, (ROWS[0],), calibrate=ROWS)
    bare = fxprune.prune(model, HALF, (ROWS[0],))
    found = fxprune.prune(model, HALF, (ROWS[0],), calibrate=ROWS)
    assert plain.report.repair is bare.report.repair is None
    assert apart(plain(ROWS[0]), bare(ROWS[0])) == 0.0
    assert apart(wanted, plain(ROWS[0])) > 0.01
    assert apart(wanted, found(ROWS[0])) < 1e-4
    told = found.report.repair
    assert [one.tensor for one in told.operators] == ["b.weight", "c.weight"]
    assert told.before > 1e-4 > 1e-8 > told.after
    assert "repair: 2 of 2 operators refitted" in str(found.report)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0.0, atol=0.0)


def test_the_report_of_a_repair_is_kept_in_files(model: nn.Module, tmp_path: Any) -> None:
    found = fxprune.prune(model, HALF, (ROWS[0],), calibrate=ROWS)
    fxprune.save(found, tmp_path / "slim.pt2")
    assert fxprune.load(tmp_path / "slim.pt2").report.repair == found.report.repair


PASSES = {
    "last": "couple,score,allocate{ratio=0.5},shrink,restore,repair",
    "before modules are restored": "couple,score,allocate{ratio=0.5},shrink,repair,restore",
    "with options": "couple,score,allocate{ratio=0.5},shrink,restore,"
    "repair{method=least-squares,damping=1e-9,samples=64}",
}


@pytest.mark.parametrize("passes", PASSES.values(), ids=PASSES)
def test_it_is_a_pass(model: nn.Module, passes: str) -> None:
    found = fxprune.run(model, passes, (ROWS[0],), calibrate=ROWS)
    assert found.report.seconds.keys() >= {"verify", "repair"}
    assert apart(model(ROWS[0]), found(ROWS[0])) < 1e-4


def test_every_step_of_a_schedule_is_repaired(model: nn.Module) -> None:
    spec = {**HALF, "schedule": {"name": "linear", "steps": 2}}
    heard: list[str] = []
    fxprune.prune(model, spec, (ROWS[0],), calibrate=ROWS, progress=heard.append)
    assert len([line for line in heard if line.startswith("repair: ")]) == 2


def test_masked_weights_are_left_and_said_to_be(model: nn.Module) -> None:
    spec = {
        "target": {"kind": "block", "block": {"n": 2, "m": 4}, "include": ["b"]},
        "metric": "l1",
        "objective": {"ratio": 0.5},
    }
    found = fxprune.prune(model, spec, (ROWS[0],), calibrate=ROWS)
    told = {one.tensor or one.operator: one.why for one in found.report.repair.operators}
    assert told == {"linear_1": "its weights are masked", "c.weight": ""}
    zeros = found.get_parameter("b.weight") == 0.0
    assert float(zeros.float().mean()) == pytest.approx(0.5, abs=0.02)


def test_an_iterator_that_serves_once_is_noted(model: nn.Module) -> None:
    found = fxprune.prune(model, HALF, (ROWS[0],), calibrate=iter(ROWS))
    assert any("only once, so nothing was repaired" in note for note in found.report.notes)
    spec = {**HALF, "repair": "least-squares"}
    found = fxprune.prune(model, spec, (ROWS[0],), calibrate=iter(ROWS))
    assert found.report.repair.after < found.report.repair.before


WRONG: dict[str, tuple[Any, Any, type[FxpruneError], str]] = {
    "no batches": ("least-squares", None, SpecError, "least-squares needs batches, and calibrate"),
    "an empty list": ("auto", [], CalibrationError, "there is no batch in it"),
    "a name": ("least-square", ROWS, SpecError, 'did you mean "least-squares"?'),
    "an option": ({"name": "auto", "dampin": 1.0}, ROWS, SpecError, 'did you mean "damping"?'),
    "a value": ({"damping": -1.0}, ROWS, SpecError, "damping=-1.0 is no number of 0 or more"),
    "no rows": ({"samples": 0}, ROWS, SpecError, "samples=0 (1 or more)"),
    "not finite": ("auto", [ROWS[0] / 0.0], CalibrationError, "is not finite"),
    "of another size": ("auto", [noise(4, 5)], CalibrationError, "calibrate: batch 0"),
}


@pytest.mark.parametrize(("repair", "batches", "kind", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_clear_error(
    model: nn.Module, repair: Any, batches: Any, kind: type[FxpruneError], said: str
) -> None:
    with pytest.raises(kind) as caught:
        fxprune.prune(model, {**HALF, "repair": repair}, (ROWS[0],), calibrate=batches)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
