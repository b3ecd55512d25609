"""Masking: zeros exactly where the plan drops, nothing else, and nothing of the caller's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.capture import capture
from fxprune.plan import Plan
from fxprune.surgery import difference, masked, owned, relative, zeroed
from tests.support.noise import noise

X = noise(3, 8)


class Tied(nn.Module):
    """One weight under two names, a buffer, a parameter that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.last.weight = self.first.weight
        self.norm, self.spare = nn.BatchNorm1d(8), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)))


def indices(*kept: int) -> Tensor:
    return torch.tensor(kept, dtype=torch.int64)


def plan_of(model: nn.Module, name: str, *axes: Tensor) -> Plan:
    return Plan({name: tuple(axes)})


@pytest.mark.parametrize(
    ("rows", "columns"), [((0, 2), (1,)), ((0, 1, 2, 3), (0, 3)), ((3,), (0, 1, 2, 3)), ((), ())]
)
def test_zeros_are_where_the_plan_drops(rows: tuple[int, ...], columns: tuple[int, ...]) -> None:
    model = nn.Linear(4, 4)
    before = model.weight.detach().clone()
    plan = plan_of(model, "weight", indices(*rows), indices(*columns))
    expected = np.zeros((4, 4), dtype=np.float32)
    expected[np.ix_(rows, columns)] = before.numpy()[np.ix_(rows, columns)]
    assert np.array_equal(zeroed(model, plan)["weight"].numpy(), expected)
    assert torch.equal(model.weight, before)


def test_what_keeps_everything_is_not_copied() -> None:
    model = nn.Linear(4, 4)
    assert zeroed(model, plan_of(model, "weight", torch.arange(4), torch.arange(4))) == {}
    assert zeroed(model, Plan({"another": (indices(0),)})) == {}


def test_buffers_stay() -> None:
    """A mask zeroes weights: running statistics of a dropped channel are no weights."""
    model = nn.BatchNorm1d(4)
    plan = Plan({"running_var": (indices(0),), "weight": (indices(0),)})
    assert set(zeroed(model, plan)) == {"weight"}


def test_a_tied_weight_is_zeroed_once_under_both_names() -> None:
    module = capture(Tied(), X).module
    axes = (indices(0, 1), torch.arange(8))
    made = zeroed(module, Plan({"first.weight": axes, "last.weight": axes}))
    assert made["first.weight"] is made["last.weight"]
    assert not made["first.weight"][2:].any()


def test_a_copy_owns_its_tensors_and_shares_what_was_shared() -> None:
    model = Tied()
    module = capture(model, X).module
    copy = owned(module)
    mine = {t.data_ptr() for t in (*copy.parameters(), *copy.buffers())}
    assert mine.isdisjoint({t.data_ptr() for t in (*model.parameters(), *model.buffers())})
    assert copy.get_parameter("first.weight") is copy.get_parameter("last.weight")
    assert list(copy.state_dict()) == list(module.state_dict())
    torch.testing.assert_close(copy(X), module(X), rtol=0, atol=0)


def test_masked_equals_shrunk() -> None:
    """The same plan, as zeros and as smaller tensors: the same function of any input."""
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.Tanh()).eval()
    model.append(nn.Linear(16, 4))
    slim = fxprune.prune(model, {"objective": {"ratio": 0.5}}, (X,))
    module = capture(model, X).module
    whole = masked(module, slim.plan)
    other = torch.randn(9, 8)
    torch.testing.assert_close(whole(other), slim(other))
    assert (whole.get_parameter("0.weight") == 0).all(dim=1).sum() == 16
    assert difference(module, slim, slim.plan, slim.signature) < 1e-6


def test_the_mask_pass_keeps_every_size() -> None:
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    slim = fxprune.run(model, "couple,score,allocate{ratio=0.5},mask,restore", (X,))
    weight = slim.state_dict()["0.weight"]
    assert weight.shape == (32, 8)
    assert int((weight == 0).all(dim=1).sum()) == 16
    assert slim.report.parameters_after == slim.report.parameters_before


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1.0, -2.0], [1.0, -2.0], 0.0),
        ([1.0, -2.0], [1.0, -1.0], 0.5),
        ([1.0, INF], [1.5, INF], 0.5),
        ([1.0, NAN], [1.0, 3.0], INF),
        ([1.0, INF], [1.0, -INF], INF),
        ([NAN, NAN], [NAN, NAN], 0.0),
        ([0.0], [0.0], 0.0),
        ([True, False], [True, True], 1.0),
        ([3 + 4j], [3 + 3j], 0.2),
    ],
)
def test_relative_differences(a: list[float], b: list[float], expected: float) -> None:
    assert relative(torch.tensor(a), torch.tensor(b)) == pytest.approx(expected)
