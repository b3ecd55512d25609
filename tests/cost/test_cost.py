"""Costs: MACs against PyTorch's own counter, parameters and bytes against the modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import fxprune
from fxprune.capture import capture
from tests.support.small_nets import Fused

SPEC = {"objective": {"ratio": 0.5}, "allocation": {"round_to": 1}}


class Mixed(nn.Module):
    """Attention as PyTorch has it, its result projected."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.head = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.attention(x, x, x, need_weights=False)[0])


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.body = kind(8, 16, batch_first=True, **options)
        self.head = nn.Linear(16 * (1 + self.body.bidirectional), 4)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x)[0])


class Summed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Parameter(torch.randn(8, 16)), nn.Parameter(torch.randn(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.einsum("btd,dc->btc", x, self.first).relu()
        return torch.einsum("btc,ck->btk", hidden, self.last)


class Chained(nn.Module):
    """Multiply three tensors in one equation, from left to right and in an order of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.randn(4, 16))
        self.narrow, self.last = nn.Parameter(torch.randn(16, 6)), nn.Parameter(torch.randn(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.einsum("...d,dr,rc->...c", x, self.down, self.up).relu()
        operands = [self.narrow, self.last, hidden]
        ordered = torch.ops.aten.einsum("cr,rk,btc->btk", operands, path=[0, 2, 0, 1])
        return ordered * torch.einsum("btd,btc->bc", x, hidden)[:, None, :5]


class Products(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.bias = nn.Parameter(torch.randn(8, 16)), nn.Parameter(torch.randn(16))
        self.last = nn.Parameter(torch.randn(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.addmm(self.bias, x, self.first).relu()
        gram = torch.bmm(hidden[:, :, None], hidden[:, None, :]).sum((1, 2))
        return hidden @ self.last + gram[:, None]


def convolutions() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, groups=4), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, groups=32, padding=1), nn.Conv2d(32, 5, 1)),
    )


def deconvolutions() -> nn.Module:
    first, last = nn.ConvTranspose2d(16, 8, 3, stride=2, groups=2), nn.ConvTranspose2d(8, 4, 2)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), first, nn.ReLU(), last)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def line() -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 16, 3), nn.ReLU(), nn.Conv1d(16, 4, 3, dilation=2))


def volume() -> nn.Module:
    return nn.Sequential(nn.Conv3d(3, 16, 3), nn.ReLU(), nn.Conv3d(16, 4, 2))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv2d, grouped, depthwise, strided": (convolutions, (3, 3, 12, 12)),
    "conv_transpose2d": (deconvolutions, (3, 3, 8, 8)),
    "conv1d, dilated": (line, (3, 3, 12)),
    "conv3d": (volume, (3, 3, 6, 6, 6)),
    "linear over tokens": (perceptron, (3, 7, 8)),
    "linear, batch one": (perceptron, (1, 8)),
    "multi-head attention": (Mixed, (3, 6, 32)),
    "fused attention": (Fused, (3, 6, 16)),
    "gru": (lambda: Recurrent(nn.GRU), (3, 5, 8)),
    "einsum": (Summed, (3, 5, 8)),
    "einsum of three": (Chained, (3, 5, 8)),
    "addmm, bmm, matmul": (Products, (3, 8)),
}


def counted(model: nn.Module, x: Tensor) -> float:
    """Return MACs for one example as PyTorch counts them."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        counter = FlopCounterMode(display=False)
        with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            model(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return float(counter.get_total_flops()) / 2 / len(x)


def size(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


@pytest.mark.parametrize("name", NETS)
def test_costs_are_those_of_the_modules(name: str) -> None:
    make, shape = NETS[name]
    model, x = make().eval(), torch.randn(shape)
    slim = fxprune.prune(model, SPEC, (x,))
    report = slim.report
    assert report.macs_before == counted(model, x)
    assert report.macs_after == counted(slim, x) < report.macs_before
    assert report.parameters_before == sum(p.numel() for p in model.parameters())
    assert report.parameters_after == sum(p.numel() for p in slim.parameters())
    assert report.bytes_before == size(model)
    assert report.bytes_after == size(slim)


def gates(steps: int, features: int, hidden: int) -> int:
    return steps * 4 * hidden * (features + hidden)


def test_lstm_by_hand() -> None:
    """PyTorch's counter does not see into the LSTM: two layers, two directions, five steps."""
    model = Recurrent(nn.LSTM, num_layers=2, bidirectional=True).eval()
    analysis = fxprune.analyze(model, torch.randn(3, 5, 8))
    assert analysis.macs == 2 * gates(5, 8, 16) + 2 * gates(5, 32, 16) + 5 * 32 * 4


def test_shared_modules_count_parameters_once_and_work_twice() -> None:
    shared = nn.Linear(8, 8)
    model = nn.Sequential(nn.Linear(4, 8), shared, nn.ReLU(), shared, nn.Linear(8, 2))
    analysis = fxprune.analyze(model, torch.randn(2, 4))
    assert analysis.parameters == sum(p.numel() for p in model.parameters())
    assert analysis.macs == 4 * 8 + 2 * 64 + 16


class WithAuxiliary(nn.Module):
    """A head that only training reads, and a parameter that nothing does."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.auxiliary = perceptron(), nn.Linear(4, 2), nn.Linear(4, 50)
        self.forgotten = nn.Parameter(torch.zeros(7))

    def forward(self, x: Tensor) -> Any:
        x = self.body(x)
        return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)


def test_what_nothing_reads_is_counted_before_and_reported() -> None:
    model = WithAuxiliary()
    x = torch.randn(2, 8)
    slim = fxprune.prune(model, SPEC, (x,))
    unread = 4 * 50 + 50 + 7
    assert slim.report.parameters_before == sum(p.numel() for p in model.parameters())
    assert slim.report.parameters_after == sum(p.numel() for p in slim.parameters())
    assert slim.report.bytes_before == size(model)
    assert any(f"{unread} parameters are read by nothing" in note for note in slim.report.notes)
    assert fxprune.analyze(model, x).parameters == slim.report.parameters_before


def test_half_precision_counts_half_the_bytes() -> None:
    x = torch.randn(2, 8)
    whole = fxprune.analyze(perceptron(), x)
    half = fxprune.analyze(perceptron().bfloat16(), x.bfloat16())
    assert (half.bytes * 2, half.macs) == (whole.bytes, whole.macs)


class Reshaped(nn.Module):
    """Computes with the number that its batch is, so that no other batch will do."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Linear(8 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu().view(self.size, -1))


class Unbatched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Linear(8 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu().flatten())


PER_EXAMPLE = 8 * 36 * 27 + 8 * 36 * 5
FIXED = {
    "a batch of one": (lambda: Reshaped(1), (1, 3, 8, 8)),
    "a batch of four": (lambda: Reshaped(4), (4, 3, 8, 8)),
    "no batch": (Unbatched, (3, 8, 8)),
}


@pytest.mark.parametrize("name", FIXED)
def test_macs_are_for_one_example_of_a_fixed_batch_too(name: str) -> None:
    make, shape = FIXED[name]
    model, x = make().eval(), torch.randn(shape)
    assert capture(model, x).signature.batch is None
    assert fxprune.analyze(model, x).macs == PER_EXAMPLE
    slim = fxprune.prune(model, SPEC, x)
    assert slim.report.macs_before == PER_EXAMPLE
    assert slim.report.macs_after == 4 * 36 * 27 + 4 * 36 * 5
    assert fxprune.analyze(slim).macs == slim.report.macs_after
