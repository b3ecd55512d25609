"""Modules that hand their input on survive a capture: in training they may do more."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.ao.quantization as quantization
import torch.nn.functional as F
from torch import nn

import fxprune
from tests.support.noise import noise


class Residual(nn.Module):
    """Read a tensor again after its dropout, module and function: each must stay itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.drop = nn.Dropout(0.5)
        self.in_place = nn.Dropout(0.3, inplace=True)
        self.last = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x).relu()
        y = h * self.drop(h) + h
        y = F.dropout(y, 0.2, self.training) + h
        return self.last(self.in_place(y * 1) + y)


class Halved(nn.Module):
    """Halve its input, but only in training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2 if self.training else x


class Block(nn.Module):
    """Add a branch that is scaled in training."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Linear(8, 8)
        self.scale = Halved()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale(self.branch(x))


@pytest.mark.parametrize("make", [Residual, Block])
@pytest.mark.parametrize("training", [True, False])
def test_the_restored_module_is_the_model_in_both_modes(
    make: type[nn.Module], training: bool
) -> None:
    model = make().train(training)
    slim = fxprune.run(model, "restore", (torch.randn(6, 8),))
    x = torch.randn(5, 8)
    for mode in (training, not training):
        torch.manual_seed(1)
        expected = model.train(mode)(x)
        torch.manual_seed(1)
        torch.testing.assert_close(slim.train(mode)(x), expected)


def test_a_failing_capture_leaves_the_class_as_it_was() -> None:
    class Refusing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("never")

    with pytest.raises(fxprune.FxpruneError):
        fxprune.analyze(Refusing(), (torch.randn(2, 3),))
    assert "training" not in vars(nn.Module)


def test_what_the_capture_cannot_see_is_noted() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) + (torch.randn_like(x) if self.training else 0)

    notes = fxprune.analyze(Noisy(), (torch.randn(2, 4),)).notes
    assert any("Noisy (1)" in note and "training" in note for note in notes)


class Held(nn.Module):
    """Hand its input on, holding what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Masked(nn.Module):
    """Hand on the first of two values."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return x


class Handing(nn.Module):
    """Write to what a module handed on: the tensor that it was given is written to as well."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)
        self.same, self.held, self.masked = nn.Identity(), Held(), Masked()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(self.quant(x))
        same = self.same(h)
        same.relu_()
        same += 1.0
        h = self.masked(h, h) + self.held(same)
        return self.dequant(self.last(self.dequant(self.same(h))))


def test_modules_that_hand_their_input_on_are_kept_at_their_places() -> None:
    torch.manual_seed(0)
    model, x = Handing().eval(), noise(5, 8)
    slim = fxprune.prune(model, {"objective": {"ratio": 0.5}}, (x,))
    kinds = {name: type(child) for name, child in slim.named_children()}
    assert {name: kinds[name] for name in ("quant", "dequant", "same")} == {
        "quant": quantization.QuantStub,
        "dequant": quantization.DeQuantStub,
        "same": nn.Identity,
    }
    assert not {"held", "masked"} & set(kinds)  # one cannot be copied, one is given more
    seen = list[str]()
    for name in ("quant", "same", "dequant"):
        slim.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.append(name))
    slim(x)
    assert seen == ["quant", "same", "same", "dequant", "dequant"]
    whole = fxprune.run(model, "restore", (x,))
    torch.testing.assert_close(whole(x), model(x), rtol=0, atol=0)
