"""Metrics of weights alone: numbers by hand on small networks, and laws that hold for all."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import SpecError
from fxprune.metrics import METRICS, Normalization
from fxprune.metrics.normalizing import normalized
from tests.support.metrics_of import scores
from tests.support.small_nets import TOKENS, Attention, Chain, Residual, X, shuffled

DATA_FREE = sorted(name for name, cls in METRICS.items() if cls.needs == "nothing")
REDUCED = [name for name in DATA_FREE if hasattr(METRICS[name](), "reduction")]

BY_HAND: dict[str, tuple[str, dict[str, Any], list[float]]] = {
    "l1": ("l1", {}, [10, 5, 10]),
    "l1 of the filter": ("l1", {"reduction": "first"}, [3, 3, 4]),
    "l1, the mean of parts": ("l1", {"reduction": "mean"}, [10 / 3, 5 / 3, 10 / 3]),
    "l1, the largest part": ("l1", {"reduction": "max"}, [5, 3, 6]),
    "l2": ("l2", {}, [34**0.5, 11**0.5, 52**0.5]),
    "l2 of the filter": ("l2", {"reduction": "first"}, [5**0.5, 3, 4]),
    "linf": ("linf", {}, [5, 3, 6]),
    "linf, a sum of parts": ("linf", {"reduction": "sum"}, [9, 5, 10]),
    "fpgm": ("fpgm", {}, [8**0.5 + 37**0.5, 8**0.5 + 5, 37**0.5 + 5]),
    "lamp": ("lamp", {}, [34 / 86, 11 / 97, 1.0]),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name: str) -> None:
    metric, options, wanted = BY_HAND[name]
    found = scores(Chain(), metric, (torch.randn(2, 2),), **options)
    np.testing.assert_allclose(found["first:hidden"], wanted, rtol=1e-6)


def test_random_follows_its_seed() -> None:
    model = Residual().eval()
    first, again = scores(model, "random", X), scores(model, "random", X)
    other = scores(model, "random", X, seed=1)
    for name, found in first.items():
        assert (found == again[name]).all()
        assert (found != other[name]).all()


def test_slim_takes_the_scales_of_every_norm() -> None:
    model = Residual().eval()
    one, two = (norm.weight.detach().abs().numpy() for norm in (model.norm, model.other))
    name = "stem:channel"
    np.testing.assert_allclose(scores(model, "slim", X)[name], (one + two) / 2, rtol=1e-6)
    most = scores(model, "slim", X, reduction="max")[name]
    np.testing.assert_allclose(most, np.maximum(one, two), rtol=1e-6)


def test_slim_names_what_no_norm_scales() -> None:
    with pytest.raises(SpecError, match="no norm with a weight scales first:hidden"):
        scores(Chain(), "slim", (torch.randn(2, 2),))


def test_fpgm_of_a_shared_unit_adds_up_what_makes_it() -> None:
    model = Residual().eval()
    wanted = sum(
        torch.cdist(w, w).sum(1).numpy()
        for w in (conv.weight.detach().flatten(1).double() for conv in (model.stem, model.body))
    )
    np.testing.assert_allclose(scores(model, "fpgm", X)["stem:channel"], wanted, rtol=1e-6)


def test_fpgm_of_a_transposed_convolution_takes_what_it_makes() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.ReLU(), nn.Conv2d(4, 2, 1))
    w = model[0].weight.detach().movedim(1, 0).flatten(1).double()
    wanted = torch.cdist(w, w).sum(1).numpy()
    np.testing.assert_allclose(scores(model, "fpgm", X)["0:channel"], wanted, rtol=1e-6)


def test_heads_and_head_dims_of_a_fused_projection() -> None:
    model = Attention()
    made = model.qkv.weight.detach().double().reshape(3, 2, 3, 6)
    read = model.proj.weight.detach().double().reshape(6, 2, 3)
    bias = model.qkv.bias.detach().double().reshape(3, 2, 3)
    heads = made.abs().sum((0, 2, 3)) + bias.abs().sum((0, 2)) + read.abs().sum((0, 2))
    dims = made.abs().sum((0, 1, 3)) + bias.abs().sum((0, 1)) + read.abs().sum((0, 1))
    found = scores(model, "l1", TOKENS)
    np.testing.assert_allclose(found["qkv:head"], heads, rtol=1e-5)
    np.testing.assert_allclose(found["qkv:head_dim"], dims, rtol=1e-5)
    vectors = made.movedim(1, 0).flatten(1)
    wanted = torch.cdist(vectors, vectors).sum(1)
    np.testing.assert_allclose(scores(model, "fpgm", TOKENS)["qkv:head"], wanted, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in DATA_FREE if name != "random"])
def test_permuting_channels_permutes_scores(name: str) -> None:
    model, order = Residual().eval(), [3, 1, 5, 0, 2, 4]
    before, after = scores(model, name, X), scores(shuffled(model, order), name, X)
    assert list(before) == ["stem:channel"]
    np.testing.assert_allclose(after["stem:channel"], before["stem:channel"][order], rtol=1e-6)


@pytest.mark.parametrize("reduction", ["sum", "mean", "first", "max"])
@pytest.mark.parametrize("name", REDUCED)
def test_every_reduction_gives_finite_numbers(name: str, reduction: str) -> None:
    found = scores(Residual().eval(), name, X, reduction=reduction)["stem:channel"]
    assert found.shape == (6,)
    assert np.isfinite(found).all()
    assert (found >= 0).all()


@pytest.mark.parametrize("name", DATA_FREE)
def test_a_metric_prunes(name: str) -> None:
    spec = {"metric": name, "allocation": {"round_to": 1}, "objective": {"ratio": 0.5}}
    slim = fxprune.prune(Residual().eval(), spec, X)
    assert len(slim.state_dict()["stem.weight"]) == 3


# ---- normalisation -------------------------------------------------------------------------------

SCALED: dict[str, list[float]] = {
    "none": [10, 5, 10],
    "mean": [10 / (25 / 3), 5 / (25 / 3), 10 / (25 / 3)],
    "max": [1, 0.5, 1],
    "sum": [0.4, 0.2, 0.4],
    "l2": [10 / 15, 5 / 15, 10 / 15],
    "standard": [2**-0.5, -(2**0.5), 2**-0.5],
}


@pytest.mark.parametrize("how", SCALED)
def test_scores_are_normalised(how: str) -> None:
    found = scores(Chain(), "l1", (torch.randn(2, 2),), normalize=how)
    np.testing.assert_allclose(found["first:hidden"], SCALED[how], rtol=1e-6)


def test_scales_are_of_sizes_and_nothing_is_divided_by_zero() -> None:
    signed, zeros, none = np.array([-3.0, 1.0]), np.zeros(3), np.zeros(0)
    assert normalized(signed, "mean").tolist() == [-1.5, 0.5]
    assert normalized(signed, "max").tolist() == [-1.0, 1 / 3]
    assert normalized(signed, "sum").tolist() == [-0.75, 0.25]
    for how in get_args(Normalization):
        assert normalized(zeros, how).tolist() == [0.0, 0.0, 0.0]
        assert normalized(none, how).tolist() == []


class Uneven(nn.Module):
    """A hidden layer of large weights, and one of small."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        with torch.no_grad():
            self.one.weight *= 100

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.two(self.one(x).relu()).relu())


@pytest.mark.parametrize("how", ["none", "mean"])
def test_normalisation_decides_what_a_global_ranking_removes(how: str) -> None:
    spec = {
        "metric": {"name": "l1", "reduction": "first", "normalize": how},
        "allocation": {"name": "global", "round_to": 1, "normalize": "none"},
        "objective": {"ratio": 0.3},
    }
    slim = fxprune.prune(Uneven(), spec, (torch.randn(2, 4),))
    widths = (len(slim.state_dict()["one.weight"]), len(slim.state_dict()["two.weight"]))
    assert (widths[0] == 8) is (how == "none")
    assert widths[1] < 8


def test_a_selection_may_have_a_normalisation_of_its_own() -> None:
    metric = {"name": "l1", "reduction": "first"}
    spec = {
        "target": [
            {"include": "one", "metric": {**metric, "normalize": "max"}},
            {"include": "two", "metric": {**metric, "normalize": "none"}},
        ],
        "allocation": {"name": "global", "round_to": 1, "normalize": "none"},
        "objective": {"ratio": 0.3},
    }
    slim = fxprune.prune(Uneven(), spec, (torch.randn(2, 4),))
    assert len(slim.state_dict()["one.weight"]) < 8


def test_an_unknown_normalisation_is_named() -> None:
    spec = {"metric": {"name": "l1", "normalize": "men"}, "objective": {"ratio": 0.5}}
    with pytest.raises(SpecError, match=r"metric\.normalize"):
        fxprune.prune(Chain(), spec, (torch.randn(2, 2),))
