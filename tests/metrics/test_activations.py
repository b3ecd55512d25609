"""Metrics of activations, and the data that the caller gives for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import CalibrationError, SpecError
from tests.support.metrics_of import scores
from tests.support.noise import noise
from tests.support.small_nets import TOKENS, Attention, Chain, Residual, X, shuffled

STREAMED = ["activation", "activation-std", "apoz", "mean-activation"]
BATCH = noise(6, 3, 6, 6)


def statistic(metric: str, x: Tensor, dim: int) -> Any:
    """Return what a metric says of `dim` of an activation, in so many words."""
    rows = x.detach().double().movedim(dim, 0).flatten(1)
    wanted = {
        "activation": rows.square().mean(1).sqrt(),
        "mean-activation": rows.mean(1),
        "apoz": (rows != 0).double().mean(1),
        "activation-std": rows.std(1, correction=0),
    }
    return wanted[metric].numpy()


def test_by_hand() -> None:
    x = torch.tensor([[6.0, 0.0], [0.0, 1.0]])  # after the ReLU: (1, 19, 0) and (0, 1, 4)
    wanted = {
        "activation": [0.5**0.5, 181**0.5, 8**0.5],
        "mean-activation": [0.5, 10, 2],
        "apoz": [0.5, 1, 0.5],
        "activation-std": [0.5, 9, 2],
    }
    for metric, numbers in wanted.items():
        found = scores(Chain(), metric, (x,), calibrate=[x])["first:hidden"]
        np.testing.assert_allclose(found, numbers, rtol=1e-6)


@pytest.mark.parametrize("metric", STREAMED)
def test_channels_are_seen_after_the_relu_and_after_the_sum(metric: str) -> None:
    model = Residual().eval()
    first = model.norm(model.stem(BATCH)).relu()
    second = first + model.other(model.body(first))
    one, two = statistic(metric, first, 1), statistic(metric, second, 1)
    found = scores(model, metric, X, calibrate=[BATCH])["stem:channel"]
    np.testing.assert_allclose(found, (one + two) / 2, rtol=1e-4, atol=1e-6)
    found = scores(model, metric, X, calibrate=[BATCH], reduction="first")["stem:channel"]
    np.testing.assert_allclose(found, one, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("metric", STREAMED)
def test_heads_are_seen_where_attention_leaves_them(metric: str) -> None:
    model, x = Attention().eval(), torch.randn(4, 5, 6)
    mixed = model.mixed(x)
    found = scores(model, metric, TOKENS, calibrate=[x])
    np.testing.assert_allclose(found["qkv:head"], statistic(metric, mixed, 1), rtol=1e-4)
    np.testing.assert_allclose(found["qkv:head_dim"], statistic(metric, mixed, 3), rtol=1e-4)


class Separable(nn.Module):
    """A depthwise convolution passes its channels on: one place to see them, after it."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.deep = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8)
        self.back, self.pool = nn.Conv2d(8, 2, 1), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.pool(self.seen(x)))

    def seen(self, x: Tensor) -> Tensor:
        return self.deep(self.wide(x).relu()).relu()


class Flattened(nn.Module):
    """Channels that a linear layer reads with all of their places, through a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.max_pool2d(self.seen(x), 2).flatten(1))

    def seen(self, x: Tensor) -> Tensor:
        return self.conv(x).relu()


@pytest.mark.parametrize("metric", STREAMED)
@pytest.mark.parametrize("network", [Separable, Flattened])
def test_one_place_in_front_of_what_moves(network: type[Any], metric: str) -> None:
    model = network()
    (found,) = scores(model, metric, X, calibrate=[BATCH]).values()
    np.testing.assert_allclose(found, statistic(metric, model.seen(BATCH), 1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("metric", STREAMED)
def test_streaming_equals_one_big_batch(metric: str) -> None:
    model = Residual().eval()
    whole = scores(model, metric, X, calibrate=[BATCH])["stem:channel"]
    parts = scores(model, metric, X, calibrate=iter(BATCH.split([1, 2, 3])))["stem:channel"]
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


@pytest.mark.parametrize("metric", STREAMED)
def test_permuting_channels_permutes_scores(metric: str) -> None:
    model, order = Residual().eval(), [3, 1, 5, 0, 2, 4]
    before = scores(model, metric, X, calibrate=[BATCH])["stem:channel"]
    after = scores(shuffled(model, order), metric, X, calibrate=[BATCH])["stem:channel"]
    np.testing.assert_allclose(after, before[order], rtol=1e-4)


# ---- the data ------------------------------------------------------------------------------------

LABELS = torch.zeros(6, dtype=torch.int64)
FORMS: dict[str, Any] = {
    "tensors": [BATCH],
    "tuples": [(BATCH,)],
    "with labels": [(BATCH, LABELS)],
    "lists with labels": [[BATCH, LABELS]],
    "dicts": [{"x": BATCH, "labels": LABELS}],
    "a generator": (batch for batch in [BATCH]),
    "a loader": torch.utils.data.DataLoader(torch.utils.data.TensorDataset(BATCH, LABELS), 3),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("inputs", [X, {"x": X[0]}], ids=["positional", "keyword"])
def test_the_forms_of_a_batch(form: str, inputs: Any) -> None:
    model = Residual().eval()
    given = FORMS[form] if form != "a generator" else iter([BATCH])
    wanted = scores(model, "apoz", X, calibrate=[BATCH])["stem:channel"]
    np.testing.assert_allclose(
        scores(model, "apoz", inputs, calibrate=given)["stem:channel"], wanted
    )


class Counting(nn.Module):
    """Count its calls in a buffer, as some norms do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Residual()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Any:
        self.calls.add_(1)
        return self.net(x)


def test_the_model_is_as_it_was() -> None:
    model = Counting()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    spec = {"metric": "apoz", "objective": {"ratio": 0.5}}
    slim = fxprune.prune(model, spec, X, calibrate=[BATCH, BATCH])
    assert len(slim.state_dict()["net.stem.weight"]) < 6
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


ERRORS: dict[str, tuple[Any, type[Exception], str]] = {
    "none": (None, SpecError, "metric: apoz needs batches, and calibrate is missing"),
    "empty": ([], CalibrationError, "calibrate: there is no batch in it"),
    "a tensor": (BATCH, CalibrationError, "an iterable of batches is needed, not one Tensor"),
    "a number": (3, CalibrationError, "an iterable of batches is needed, not one int"),
    "a batch of text": (["a"], CalibrationError, "batch 0: a tensor, a tuple or a dict"),
    "another key": ([{"image": BATCH}], CalibrationError, "batch 0: has no x; its keys are image"),
    "an empty tuple": ([()], CalibrationError, "holds 0 values, and the model takes 1"),
    "no rows": ([BATCH[:0]], CalibrationError, "no example of the batches gets to relu"),
    "not a number": ([BATCH, BATCH * float("nan")], CalibrationError, "at relu are not numbers"),
    "another shape": (
        [BATCH, BATCH[:, :2]],
        CalibrationError,
        r"batch 1: .*refuses \(6, 2, 6, 6\)",
    ),
    "another structure": ([([BATCH],)], CalibrationError, "not nested as the example inputs"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_data_that_does_not_serve(name: str) -> None:
    calibrate, error, said = ERRORS[name]
    spec = {"metric": "apoz", "objective": {"ratio": 0.5}}
    with pytest.raises(error, match=said) as raised:
        fxprune.prune(Residual(), spec, X, calibrate=calibrate)
    assert "\n" not in str(raised.value)


def test_passes_by_name_say_what_is_missing() -> None:
    with pytest.raises(SpecError, match="calibrate is missing"):
        fxprune.run(Residual(), "couple,select,score{metric=apoz},allocate{ratio=0.5}", X)
