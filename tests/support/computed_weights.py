"""One small network whose weights are computed in many ways, and the same with plain weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
import torch.nn.utils.prune as pruning
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils import spectral_norm as hooked_spectral_norm
from torch.nn.utils import weight_norm as hooked_weight_norm
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from tests.support.noise import noise

X = noise(2, 3, 9, 9)
Wrap = Callable[[nn.Module], nn.Module]


class Net(nn.Module):
    """A convolution, a transposed one and a linear layer, each perhaps wrapped."""

    def __init__(self, wrap: Wrap) -> None:
        super().__init__()
        self.first = wrap(nn.Conv2d(3, 16, 3))
        self.up = wrap(nn.ConvTranspose2d(16, 12, 3))
        self.hidden = wrap(nn.Linear(12, 24))
        self.last = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.up(F.relu(self.first(x))))
        return self.last(F.relu(self.hidden(x.mean((2, 3)))))


class Tanh(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.tanh()


class Scaled(nn.Module):
    """A length a row, in plain operators."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.rand(rows) + 0.1)

    def forward(self, weight: Tensor) -> Tensor:
        rows = weight / weight.flatten(1).norm(dim=1).view(-1, *(1,) * (weight.ndim - 1))
        return rows * self.g.view(-1, *(1,) * (weight.ndim - 1))


class Standardised(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        axes = tuple(range(1, weight.ndim))
        variance, mean = torch.var_mean(weight, axes, keepdim=True)
        return (weight - mean) * (variance + 1e-5).rsqrt()


class Lengths(nn.Module):
    """A weight norm whose lengths are computed themselves."""

    def __init__(self, rows: int, rank: int) -> None:
        super().__init__()
        self.logarithm = nn.Parameter(torch.randn(rows, *(1,) * (rank - 1)))

    def forward(self, weight: Tensor) -> Tensor:
        return torch._weight_norm(weight, self.logarithm.exp(), 0)


def parametrized(make: Callable[[Tensor], nn.Module]) -> Wrap:
    def wrap(layer: nn.Module) -> nn.Module:
        parametrize.register_parametrization(layer, "weight", make(layer.weight.detach()))
        return layer

    return wrap


def masked(layer: nn.Module) -> nn.Module:
    pruning.random_structured(layer, "weight", 0.3, dim=0)
    return pruning.l1_unstructured(layer, "weight", 0.2)


def masked_direction(layer: nn.Module) -> nn.Module:
    held = weight_norm(layer).parametrizations["weight"]
    pruning.random_unstructured(held, "original1", 0.2)
    return layer


def spectral_scaled(layer: nn.Module) -> nn.Module:
    """A weight norm in plain operators, under a spectral norm."""
    return spectral_norm(parametrized(lambda weight: Scaled(len(weight)))(layer))


WRAPS: dict[str, Wrap] = {
    "weight norm": weight_norm,
    "weight norm, hooked": hooked_weight_norm,
    "weight norm of the other axis": lambda layer: weight_norm(layer, dim=1),
    "weight norm of the whole": lambda layer: weight_norm(layer, dim=None),
    "weight norm in plain operators": parametrized(lambda weight: Scaled(len(weight))),
    "weight norm of computed lengths": parametrized(lambda w: Lengths(len(w), w.ndim)),
    "spectral norm": spectral_norm,
    "spectral norm, hooked": hooked_spectral_norm,
    "spectral norm of a weight norm": spectral_scaled,
    "standardised": parametrized(lambda _: Standardised()),
    "tanh": parametrized(lambda _: Tanh()),
    "masked": masked,
    "weight norm of a masked direction": masked_direction,
}


def wrapped(name: str) -> Net:
    """Return the network, its weights of unlike sizes."""
    torch.manual_seed(0)
    net = Net(lambda layer: layer)
    with torch.no_grad():
        for layer in (net.first, net.up, net.hidden):
            for axis in (0, 1):
                size = layer.weight.shape[axis]
                along = [-1 if one == axis else 1 for one in range(layer.weight.ndim)]
                sizes = torch.logspace(-1, 1, size)[torch.randperm(size)]
                layer.weight.mul_(sizes.view(along))
            WRAPS[name](layer)
        for parameter in net.parameters():
            if parameter.ndim > 1 and parameter.numel() <= 24:  # the lengths of weight norms
                parameter.mul_(torch.rand_like(parameter) * 3)
    net(X)  # hooks compute their weights, and spectral norms iterate
    return net.eval()


def plain(net: nn.Module) -> Net:
    """Return the network with the weights that it reads as its parameters."""
    made = Net(lambda layer: layer)
    with torch.no_grad():
        net(X)
        for name in ("first", "up", "hidden", "last"):
            given, own = net.get_submodule(name), made.get_submodule(name)
            own.weight.copy_(given.weight)
            own.bias.copy_(given.bias)
    return made.eval()
