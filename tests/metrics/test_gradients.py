"""Metrics of gradients: what the papers write, against autograd on the model itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from fxprune.errors import CalibrationError, SpecError
from fxprune.metrics import METRICS
from tests.support.metrics_of import scores
from tests.support.noise import integers, noise
from tests.support.small_nets import TOKENS, Attention, Chain, Fixed, Residual, X, shuffled

GRADIENTS = sorted(name for name, cls in METRICS.items() if cls.needs == "batches and loss")
BATCHES = [(noise(4, 3, 6, 6, seed=k), integers(4, 4, seed=k)) for k in range(3)]
WHOLE = [tuple(torch.cat(parts) for parts in zip(*BATCHES, strict=True))]
NAME = "stem:channel"


def entropy(module: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


def total(module: nn.Module, batch: Tensor) -> Tensor:
    return module(batch).sum()


def of_channels(model: Residual, weights: Any) -> Any:
    """Sum what a function says of each parameter over the footprint of the channels."""
    stem, body, head = (weights(layer.weight) for layer in (model.stem, model.body, model.head))
    vectors = [model.stem.bias, model.body.bias]
    vectors += [p for norm in (model.norm, model.other) for p in (norm.weight, norm.bias)]
    matrices = stem.sum((1, 2, 3)) + body.sum((1, 2, 3)) + body.sum((0, 2, 3)) + head.sum(0)
    return (matrices + sum(weights(vector) for vector in vectors)).detach().numpy()


def taken(model: Residual, batches: Any) -> list[dict[Any, Tensor]]:
    """Return the gradients of every batch by parameter."""
    found = []
    for batch in batches:
        parameters = [*model.parameters()]
        gradients = torch.autograd.grad(entropy(model, batch), parameters)
        found.append(dict(zip(parameters, gradients, strict=True)))
    return found


def test_by_hand() -> None:
    x = torch.tensor([[6.0, 0.0]])  # the hidden features are 1, 19 and 0, the last of them cut off
    # gradients: of first.weight w_out·x, of first.bias w_out, of last.weight the features
    wanted = {
        "gradient": [2 * 6 + 2 + 1, 1 * 6 + 1 + 19, 0],
        "taylor-fo": [12**2 + 10**2 + 2**2, 18**2 + 1 + 19**2, 0],
    }
    for metric, numbers in wanted.items():
        found = scores(Chain(), metric, (torch.randn(2, 2),), calibrate=[x], loss=total)
        np.testing.assert_allclose(found["first:hidden"], numbers, rtol=1e-6)
    found = scores(
        Chain(), "taylor-fo", (torch.randn(2, 2),), calibrate=[x], loss=total, together=True
    )
    np.testing.assert_allclose(found["first:hidden"], [12 - 10 + 2, 18 + 1 + 19, 0], rtol=1e-6)


def test_the_footprint_of_a_residual_stream() -> None:
    model = Residual().eval()
    found = taken(model, BATCHES)
    wanted = {
        "gradient": of_channels(model, lambda w: sum(g[w] for g in found).abs() / 3),
        "taylor-fo": of_channels(model, lambda w: sum((g[w] * w) ** 2 for g in found) / 3),
    }
    for metric, numbers in wanted.items():
        score = scores(model, metric, X, calibrate=BATCHES, loss=entropy)[NAME]
        np.testing.assert_allclose(score, numbers, rtol=1e-3)


def test_fisher_takes_single_examples() -> None:
    model = Residual().eval()
    x, y = WHOLE[0]
    found = taken(model, zip(x.split(1), y.split(1), strict=True))
    wanted = of_channels(model, lambda w: sum((g[w] * w) ** 2 for g in found) / 12)
    score = scores(model, "fisher", X, calibrate=BATCHES, loss=entropy)[NAME]
    np.testing.assert_allclose(score, wanted, rtol=1e-3)
    batch = scores(model, "fisher", X, calibrate=BATCHES, loss=entropy, per="batch")[NAME]
    taylor = scores(model, "taylor-fo", X, calibrate=BATCHES, loss=entropy)[NAME]
    np.testing.assert_allclose(batch, taylor)


@pytest.mark.parametrize("metric", ["gradient", "fisher"])
def test_streaming_equals_one_big_batch(metric: str) -> None:
    model = Residual().eval()
    parts = scores(model, metric, X, calibrate=iter(BATCHES), loss=entropy)[NAME]
    whole = scores(model, metric, X, calibrate=WHOLE, loss=entropy)[NAME]
    np.testing.assert_allclose(parts, whole, rtol=1e-3)


@pytest.mark.parametrize("metric", GRADIENTS)
def test_permuting_channels_permutes_scores(metric: str) -> None:
    model, order = Residual().eval(), [3, 1, 5, 0, 2, 4]
    before = scores(model, metric, X, calibrate=BATCHES, loss=entropy)[NAME]
    after = scores(shuffled(model, order), metric, X, calibrate=BATCHES, loss=entropy)[NAME]
    np.testing.assert_allclose(after, before[order], rtol=1e-3)


def test_heads_of_a_fused_projection() -> None:
    model, x = Attention().eval(), torch.randn(4, 5, 6)
    weights = [model.qkv.weight, model.qkv.bias, model.proj.weight]
    loss = model(x).square().mean()
    shapes = [(3, 2, 3, 6), (3, 2, 3, 1), (6, 2, 3, 1)]
    wanted = sum(
        (g * w).square().detach().reshape(shape).sum((0, 2, 3)).numpy()
        for g, w, shape in zip(torch.autograd.grad(loss, weights), weights, shapes, strict=True)
    )
    found = scores(
        model, "taylor-fo", TOKENS, calibrate=[x], loss=lambda m, batch: m(batch).square().mean()
    )
    np.testing.assert_allclose(found["qkv:head"], wanted, rtol=1e-3)


def test_dicts_are_split_into_examples() -> None:
    model = Residual().eval()
    given = [{"x": x, "labels": y} for x, y in BATCHES]
    found = scores(
        model,
        "fisher",
        X,
        calibrate=given,
        loss=lambda module, batch: F.cross_entropy(module(batch["x"]), batch["labels"]),
    )
    wanted = scores(model, "fisher", X, calibrate=BATCHES, loss=entropy)
    np.testing.assert_allclose(found[NAME], wanted[NAME])


def careless(module: nn.Module, batch: Any) -> Tensor:
    """Do to the module what a loss should not."""
    module.train()
    loss = entropy(module, batch)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.zero_()
    return loss + 0 * sum(p.sum() for p in module.parameters())


@pytest.mark.parametrize("loss", [entropy, careless])
@pytest.mark.parametrize("metric", GRADIENTS)
def test_the_model_is_as_it_was(metric: str, loss: Any) -> None:
    model = Residual()
    model.stem.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if loss is entropy:
        spec = {"metric": metric, "allocation": {"round_to": 1}, "objective": {"ratio": 0.5}}
        slim = fxprune.prune(model, spec, X, calibrate=BATCHES, loss=loss)
        assert len(slim.state_dict()["stem.weight"]) == 3
    else:
        with pytest.raises(CalibrationError, match="inplace"):
            scores(model, metric, X, calibrate=BATCHES, loss=loss)
    assert model.training
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["stem.weight"]
    assert all(p.grad is None for p in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "neither": ({}, SpecError, "needs batches and loss, and calibrate and loss are missing"),
    "no loss": ({"calibrate": BATCHES}, SpecError, r"loss is missing; call prune\(…, loss=…\)"),
    "no batches": ({"loss": entropy}, SpecError, "calibrate is missing"),
    "no function": ({"calibrate": BATCHES, "loss": 3}, CalibrationError, "loss: a function of"),
    "empty": ({"calibrate": [], "loss": entropy}, CalibrationError, "there is no batch in it"),
    "no tensor": (
        {"calibrate": BATCHES, "loss": lambda m, b: entropy(m, b).item()},
        CalibrationError,
        "loss: batch 0: a scalar tensor is needed, not float",
    ),
    "no scalar": (
        {"calibrate": BATCHES, "loss": lambda m, b: m(b[0])},
        CalibrationError,
        r"not one of shape \(\d+, 4\); take its mean",
    ),
    "not a number": (
        {"calibrate": BATCHES, "loss": lambda m, b: entropy(m, b) * float("nan")},
        CalibrationError,
        "loss: batch 0: the loss is nan",
    ),
    "raising": (
        {"calibrate": BATCHES, "loss": lambda m, b: m(b[0][:, :1])},
        CalibrationError,
        "loss: batch 0: it raised RuntimeError: .*channels",
    ),
    "detached": (
        {"calibrate": BATCHES, "loss": lambda m, b: entropy(m, b).detach()},
        CalibrationError,
        "the loss depends on no parameter",
    ),
}


@pytest.mark.parametrize("metric", GRADIENTS)
@pytest.mark.parametrize("name", ERRORS)
def test_data_that_does_not_serve(name: str, metric: str) -> None:
    given, error, said = ERRORS[name]
    model = Residual()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(error, match=said) as raised:
        fxprune.prune(model, {"metric": metric, "objective": {"ratio": 0.5}}, X, **given)
    assert "\n" not in str(raised.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_fisher_of_a_fixed_batch_size_says_what_to_set() -> None:
    x, spec = torch.randn(4, 2), {"metric": "fisher", "objective": {"ratio": 0.5}}
    exported = torch.export.export(Fixed(), (x,))
    with pytest.raises(CalibrationError, match='set its option per to "batch"'):
        fxprune.prune(exported, spec, calibrate=[x], loss=total)
    per_batch = {**spec, "metric": {"name": "fisher", "per": "batch"}}
    fxprune.prune(exported, per_batch, calibrate=[x], loss=total)
