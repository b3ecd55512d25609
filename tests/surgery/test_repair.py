"""Repair: what is left of a network computes what it did, as far as least squares can."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxprune.errors import CalibrationError
from fxprune.surgery.repair import Terms
from tests.networks.growing import Network, networks
from tests.support.noise import noise
from tests.support.repairs import apart, cut

IMAGES = [noise(16, 3, 6, 6, seed=n) for n in range(12)]
TOKENS = [noise(16, 5, 6, seed=n) for n in range(12)]


class Images(nn.Sequential):
    """Channels, half of which are copies or sums of the others."""

    def __init__(self, *middle: nn.Module) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), *middle, nn.Flatten(), nn.Linear(4 * 16, 5))
        with torch.no_grad():
            own = self[0].state_dict()
            own["weight"][2] = own["weight"][0]
            own["bias"][2] = own["bias"][0]
            own["weight"][3] = 2.0 * own["weight"][0] - own["weight"][1]
            own["bias"][3] = 2.0 * own["bias"][0] - own["bias"][1]


class Twice(nn.Module):
    """One layer, called twice, whose input loses units that a sum of others gives."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        with torch.no_grad():
            self.first.weight[4:] = self.first.weight[:4]
            self.first.bias[4:] = self.first.bias[:4]
            self.again.weight[4:], self.again.bias[4:] = self.again.weight[:4], self.again.bias[:4]

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.again(F.relu(self.again(self.first(x))))))


class Heads(nn.Module):
    """Attention, the second head of which repeats the first."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 8) for _ in range(3))
        self.out = nn.Linear(8, 6)
        with torch.no_grad():
            for part in (self.q, self.k, self.v):
                part.weight[4:], part.bias[4:] = part.weight[:4], part.bias[:4]

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Experts(nn.Module):
    """Two experts with hidden features that repeat each other."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(noise(2, 6, 8)), nn.Parameter(noise(2, 8, 6, seed=1))
        with torch.no_grad():
            self.up[:, :, 4:] = self.up[:, :, :4]

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(torch.einsum("btd,edh->bteh", x, self.up))
        return torch.einsum("bteh,ehd->btd", hidden, self.down)


REDUNDANT: dict[str, tuple[Callable[[], nn.Module], list[Tensor], dict[str, list[int]]]] = {
    "copied channels": (lambda: Images(nn.ReLU()), IMAGES, {"0:channel": [2]}),
    "dependent channels": (Images, IMAGES, {"0:channel": [2, 3]}),
    "in place": (lambda: Images(nn.ReLU(inplace=True)), IMAGES, {"0:channel": [0]}),
    "behind a norm": (lambda: Images(nn.BatchNorm2d(4), nn.ReLU()), IMAGES, {"0:channel": [2]}),
    "called twice": (Twice, TOKENS, {"first:hidden": [4, 5, 6, 7]}),
    "a head": (Heads, TOKENS, {"q:head": [1]}),
    "experts": (Experts, TOKENS, {"up:hidden": [4, 5, 6, 7]}),
}


@pytest.mark.parametrize(("made", "batches", "drop"), REDUNDANT.values(), ids=REDUNDANT)
def test_what_is_redundant_is_made_up_for(
    made: Callable[[], nn.Module], batches: list[Tensor], drop: dict[str, list[int]]
) -> None:
    torch.manual_seed(0)
    model = made()
    found = cut(model, (batches[0],), drop=drop)
    wanted = model(batches[0])
    assert apart(wanted, found.smaller(batches[0])) > 1e-2
    repaired = found.repaired(batches)
    assert repaired.report.after < repaired.report.before
    assert apart(wanted, found.write(repaired)(batches[0])) < 1e-4


class Plain(nn.Module):
    """A hidden layer between two others, and a norm behind the first."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8) if norm else nn.Identity()
        self.middle, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.middle(F.relu(self.norm(self.first(x))))))


ROWS = [noise(16, 6, seed=n) for n in range(4)]


def test_more_is_spilled_the_less_memory_there_is_and_nothing_changes() -> None:
    torch.manual_seed(0)
    found = cut(Plain(), (ROWS[0],))
    wide, narrow = (found.repaired(ROWS, Terms(memory=limit)) for limit in (1 << 30, 0))
    assert wide.tensors.keys() == narrow.tensors.keys()
    assert narrow.report.bytes == 0 < wide.report.bytes
    for name, tensor in wide.tensors.items():
        torch.testing.assert_close(tensor, narrow.tensors[name])


def test_repair_writes_nothing_into_either_graph() -> None:
    torch.manual_seed(0)
    model = Plain()
    found = cut(model, (ROWS[0],))
    states = [copy.deepcopy(one.state_dict()) for one in (model, found.smaller)]
    assert found.repaired(ROWS).tensors
    for state, one in zip(states, (model, found.smaller), strict=True):
        for name, tensor in one.state_dict().items():
            torch.testing.assert_close(tensor, state[name], rtol=0.0, atol=0.0)


def test_what_is_not_cut_stays_as_it_is() -> None:
    torch.manual_seed(0)
    found = cut(Plain(), (ROWS[0],), drop={"middle:hidden": [0]})
    repaired = found.repaired(ROWS)
    assert [one.tensor for one in repaired.report.operators] == ["last.weight"]
    assert repaired.tensors.keys() == {"last.weight", "last.bias"}


def test_statistics_are_carried_along_and_not_estimated_anew() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    norm = model[2]
    with torch.no_grad():
        norm.running_mean.copy_(noise(8))
        norm.running_var.copy_(noise(8, seed=1).square() + 0.5)
    found = cut(model, (ROWS[0],), drop={"0:hidden": [0, 1, 2]})
    spared = {"1.weight": "for the test"}
    ours = found.write(found.repaired(ROWS, spared=spared))
    x = torch.cat(ROWS)
    hidden = model[1](model[0](x))
    cut_hidden = F.linear(
        F.linear(x, *(ours.get_parameter(f"0.{name}") for name in ("weight", "bias"))),
        *(ours.get_parameter(f"1.{name}") for name in ("weight", "bias")),
    )
    ratio = cut_hidden.std(0, unbiased=False) / hidden.std(0, unbiased=False)
    mean = cut_hidden.mean(0) + (norm.running_mean - hidden.mean(0)) * ratio
    torch.testing.assert_close(ours.get_buffer("2.running_mean"), mean.detach())
    variance = norm.running_var * ratio.square()
    torch.testing.assert_close(ours.get_buffer("2.running_var"), variance.detach())


def test_a_tied_weight_is_left_and_said_to_be() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.hidden = nn.Embedding(10, 6), nn.Linear(6, 6)

        def forward(self, ids: Tensor) -> Tensor:
            return F.linear(self.hidden(self.table(ids)), self.table.weight)

    torch.manual_seed(0)
    ids = torch.arange(20).reshape(4, 5) % 10
    found = cut(Tied(), (ids,))
    left = {one.operator: one.why for one in found.repaired([ids]).report.operators if one.why}
    assert left == {"linear_1": "embedding reads its weight too"}


def test_one_batch_of_fewer_rows_than_features_stays_near_the_kept_weights() -> None:
    torch.manual_seed(0)
    found = cut(Plain(), (noise(4, 6),))
    repaired = found.repaired([noise(4, 6)])
    assert repaired.report.after < repaired.report.before
    own = dict(found.smaller.named_parameters())
    for name, tensor in repaired.tensors.items():
        if name in own:
            kept = own[name].detach()
            assert float((tensor - kept).norm()) < 2.0 * float(kept.norm())


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_hardly_any_data_is_still_some(rows: int) -> None:
    torch.manual_seed(0)
    found = cut(Plain(), (noise(4, 6),))
    repaired = found.repaired([noise(rows, 6)])
    assert repaired.report.after <= repaired.report.before
    assert all(bool(tensor.isfinite().all()) for tensor in repaired.tensors.values())


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    torch.manual_seed(0)
    model = Plain()
    with torch.no_grad():
        model.first.weight[:3] = 0.0
        model.first.bias[:3] = -1.0
        model.norm.weight.fill_(0.5)
    found = cut(model, (ROWS[0],))
    repaired = found.repaired(ROWS)
    assert repaired.report.after < repaired.report.before
    assert all(bool(tensor.isfinite().all()) for tensor in repaired.tensors.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_computed_in_double(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows = [one.to(dtype) for one in ROWS]
    found = cut(Plain().to(dtype), (rows[0],))
    repaired = found.repaired(rows)
    assert repaired.report.after < repaired.report.before
    assert {tensor.dtype for tensor in repaired.tensors.values()} == {dtype}


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_batch_that_is_not_finite_is_named(value: float) -> None:
    torch.manual_seed(0)
    found = cut(Plain(), (ROWS[0],))
    wrong = ROWS[1].clone()
    wrong[3, 2] = value
    with pytest.raises(CalibrationError, match=r"batch 1, .* is not finite"):
        found.repaired([ROWS[0], wrong])


def test_a_batch_that_the_model_refuses_is_named() -> None:
    torch.manual_seed(0)
    found = cut(Plain(), (ROWS[0],))
    with pytest.raises(CalibrationError, match="calibrate: batch 1"):
        found.repaired([ROWS[0], noise(16, 5)])


def _error(wanted: list[Any], module: nn.Module, batches: list[Any]) -> float:
    """Return the squared error of the outputs, relative, averaged over them."""
    found = [pytree.tree_leaves(module(*batch)) for batch in batches]
    leaves = [pytree.tree_leaves(one) for one in wanted]
    total = 0.0
    for place in range(len(leaves[0])):
        a, b = (torch.cat([one[place].detach().double() for one in x]) for x in (leaves, found))
        total += float((a - b).square().sum() / a.square().sum().clamp(min=1e-300))
    return total / len(leaves[0])


def never_worse(network: Network, ratio: float, seed: int) -> None:
    """Repair a network, and compare every operator and all outputs with those as cut."""
    torch.manual_seed(seed)
    batches = [(torch.randn(4, 3, 4, 4), torch.randn(4, 5)) for _ in range(3)]
    found = cut(network, batches[0], ratio=ratio, seed=seed)
    repaired = found.repaired(batches)
    assert repaired.report.after <= repaired.report.before
    for one in repaired.report.operators:
        assert one.after <= one.before, one
    wanted = [found.original(*batch) for batch in batches]
    errors = [_error(wanted, found.smaller, batches)]
    errors.append(_error(wanted, found.write(repaired), batches))
    assert errors[1] <= errors[0] * (1 + 1e-6) + 1e-12


@settings(max_examples=15, deadline=None)
@given(networks(), st.floats(0.1, 0.9), st.integers(0, 99))
def test_no_reconstruction_error_rises(network: Network, ratio: float, seed: int) -> None:
    never_worse(network, ratio, seed)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(networks(), st.floats(0.1, 0.9), st.integers(0, 99))
def test_no_reconstruction_error_rises_on_many(network: Network, ratio: float, seed: int) -> None:
    never_worse(network, ratio, seed)
