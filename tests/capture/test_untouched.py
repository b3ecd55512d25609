"""Capture leaves the model as it was, keeps any batch size, and says what it refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import fxprune
from fxprune.capture import capture
from fxprune.errors import CaptureError, InputError
from tests.capture.called import HALF, Called, Counting, X, plain
from tests.support.noise import noise

# ---- the model is left as it was -----------------------------------------------------------------


def snapshot(model: nn.Module) -> list[Any]:
    """Return everything that a capture could change."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [
        *(
            (name, t.detach().clone().tolist(), t.requires_grad, id(t), t.grad)
            for name, t in tensors
        ),
        *((name, module.training) for name, module in model.named_modules()),
        *((len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()),
        vars(nn.Module).get("training"),
    ]


def mixed_modes() -> nn.Module:
    """A network in training, its first norm frozen and in evaluation."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout()),
        *(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Flatten()),
    ).train()
    model[1].eval().requires_grad_(False)
    return model


PICTURES = noise(2, 3, 5, 5)


def test_a_pruning_leaves_the_model_bit_for_bit() -> None:
    model = mixed_modes()
    before = snapshot(model)
    slim = fxprune.prune(model, HALF, (PICTURES,))
    assert snapshot(model) == before
    slim.train()(PICTURES)
    for parameter in slim.parameters():
        parameter.data.zero_()
    assert snapshot(model) == before
    assert [p.requires_grad for p in slim.get_submodule("1").parameters()] == [False, False]


class Refusing(Counting):
    """Count, then branch on data, which the exporter refuses but the model does not."""

    def forward(self, x: Tensor) -> Any:
        self.calls.add_(1)
        return self.body(x) if x.sum() > 0 else x


class Broken(Counting):
    def forward(self, x: Tensor) -> Any:
        self.calls.add_(1)
        raise RuntimeError("a mistake\nin two lines")


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (Refusing, CaptureError, "torch.export cannot trace Refusing"),
        (Broken, InputError, r"Broken refuses \(4, 8\) float32: a mistake"),
    ],
)
def test_a_failing_capture_leaves_the_model_too(
    make: Any, error: Any, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = make().train()
    model.last.eval()
    before = snapshot(model)
    with pytest.raises(error, match=said) as raised:
        fxprune.prune(model, HALF, (X,))
    assert snapshot(model) == before
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_two_threads_capture_at_once() -> None:
    done: list[Any] = []

    def work() -> None:
        done.append(fxprune.analyze(mixed_modes(), (PICTURES,)).coverage)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(done) == 3
    assert len(set(done)) == 1
    assert "training" not in vars(nn.Module)


# ---- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("example", [1, 2, 3])
def test_any_batch(example: int, batch: int) -> None:
    slim = fxprune.prune(plain(), HALF, (torch.randn(example, 8),))
    assert slim(torch.randn(batch, 8)).shape == (batch, 4)
    assert slim.report.notes == ()


class Fixed(Called):
    def __init__(self) -> None:
        super().__init__(len)

    def forward(self, x: Tensor) -> Any:
        return self.body(x.view(4, 8))


class Added(Fixed):
    def forward(self, x: Tensor) -> Any:
        return self.body(x) + torch.arange(4.0)[:, None]


@pytest.mark.parametrize("make", [Fixed, Added])
def test_a_fixed_batch_is_noted(make: Any) -> None:
    slim = fxprune.prune(make(), HALF, (X,))
    assert slim(X).shape == (4, 4)
    assert any("batch size is fixed" in note for note in slim.report.notes)
    assert not any(slim.signature.dynamic)


# ---- exported programs ---------------------------------------------------------------------------


def test_an_exported_program_stands_for_the_model() -> None:
    exported = torch.export.export(plain(), (X,), dynamic_shapes=({0: Dim("b")},))
    before = {name: tensor.clone() for name, tensor in exported.state_dict.items()}
    slim = fxprune.prune(exported, HALF)
    assert slim(torch.randn(7, 8)).shape == (7, 4)
    with torch.no_grad():
        slim.get_parameter("0.weight").zero_()
    assert all(torch.equal(exported.state_dict[name], old) for name, old in before.items())


def test_an_exported_program_of_one_size_says_so() -> None:
    slim = fxprune.prune(torch.export.export(plain(), (X[:1],)), HALF)
    assert slim(X[:1]).shape == (1, 4)
    assert any("exported so" in note for note in slim.report.notes)


@pytest.mark.parametrize("wrong", [torch.ones(4, 9), torch.ones(4, 8).long(), (X, X)])
def test_an_exported_program_refuses_other_inputs(wrong: Any) -> None:
    exported = torch.export.export(plain(), (X,))
    with pytest.raises(InputError, match="the ExportedProgram refuses"):
        capture(exported, wrong)


REFUSED: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "no inputs": (plain, None, "example inputs are needed"),
    "a text": (plain, "x", "not str"),
    "a wrong width": (plain, (torch.ones(4, 9),), r"refuses \(4, 9\) float32"),
    "a wrong type": (plain, (X.double(),), r"refuses \(4, 8\) float64"),
    "too many": (plain, (X, X), "takes 2 positional arguments"),
    "no model": (lambda: "plain", (X,), "this is a str"),
    "a state dict": (lambda: plain().state_dict(), (X,), "torch.nn.Module"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_inputs_that_cannot_be(name: str) -> None:
    make, inputs, said = REFUSED[name]
    model = make()
    with pytest.raises(InputError, match=said) as error:
        fxprune.prune(model, HALF, inputs)
    assert "\n" not in str(error.value)
