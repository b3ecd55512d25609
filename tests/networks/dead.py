"""Small networks with units killed by hand, and how wide what is left must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.networks.structures import IMAGE, TOKENS
from tests.networks.whole import randomise


@dataclass(frozen=True)
class Case:
    """Kill units of a network; `shapes` are the parameters that become smaller, and only those."""

    name: str
    build: Callable[[], nn.Module]
    kill: Callable[[Any], object]
    shapes: dict[str, tuple[int, ...]]
    note: str = ""
    inputs: tuple[torch.Tensor, ...] = IMAGE

    def made(self) -> nn.Module:
        torch.manual_seed(0)
        model = self.build().eval()
        randomise(model)
        with torch.no_grad():
            self.kill(model)
        return model


class Net(nn.Module):
    """Run a function of the network, which may have any layers."""

    def __init__(self, run: Callable[[Any, torch.Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self, x)


def conv(i: int, o: int, k: int = 1, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, **more)


def zero(tensor: torch.Tensor, *rows: int, dim: int = 0) -> None:
    tensor.index_fill_(dim, torch.tensor(rows), 0)


def chain(**more: Any) -> Callable[[], nn.Module]:
    """Return convolution, batch norm, ReLU and another convolution, which `more` is about."""
    return lambda: Net(
        lambda n, x: n.b(F.relu(n.n(n.a(x)))),
        a=conv(3, 8, 3, padding=1),
        n=nn.BatchNorm2d(8),
        b=conv(8, 4, **more),
    )


def norm_off(m: Any) -> None:
    zero(m.n.weight, 1, 6)
    m.n.bias[1], m.n.bias[6] = 0.7, -0.4


def negative(m: Any) -> None:
    zero(m.a.weight, 2)
    m.a.bias[2], m.n.bias[2] = -3.0, -9.0


SMALLER = {"a.weight": (6, 3, 3, 3), "a.bias": (6,), "n.weight": (6,), "n.bias": (6,)}
ONE = {"a.weight": (7, 3, 3, 3), "a.bias": (7,), "n.weight": (7,), "n.bias": (7,)}


def constant_conv(m: Any) -> None:
    zero(m.a.weight, 3)
    m.a.bias[3], m.n.bias[3] = 2.0, 2.0


def residual() -> nn.Module:
    return Net(
        lambda n, x: n.last((y := F.relu(n.stem(x))) + n.body(y)),
        stem=conv(3, 8),
        body=conv(8, 8),
        last=conv(8, 4),
    )


def one_branch(m: Any) -> None:
    zero(m.body.weight, 2)


def both_branches(m: Any) -> None:
    zero(m.body.weight, 2)
    zero(m.stem.weight, 2)
    m.stem.bias[2] = 0.8


def concat() -> nn.Module:
    return Net(
        lambda n, x: n.last(torch.cat([n.a(x), F.relu(n.b(x))], 1)),
        a=conv(3, 5),
        b=conv(3, 6),
        last=conv(11, 4),
    )


def killed_concat(m: Any) -> None:
    zero(m.a.weight, 1)
    zero(m.last.weight, 5, 9, dim=1)


def depthwise() -> nn.Module:
    return Net(
        lambda n, x: n.last(F.relu(n.depth(F.relu(n.a(x))))),
        a=conv(3, 8),
        depth=conv(8, 8, 3, groups=8),
        last=conv(8, 4),
    )


def grouped() -> nn.Module:
    return Net(
        lambda n, x: n.last(F.relu(n.group(F.relu(n.a(x))))),
        a=conv(3, 8),
        group=conv(8, 12, groups=4),
        last=conv(12, 4),
    )


def whole_group(m: Any) -> None:
    zero(m.group.weight, 3, 4, 5)
    m.group.bias[3:6] = -1.0


def shared() -> nn.Module:
    return Net(
        lambda n, x: n.last(F.relu(n.twice(F.relu(n.twice(F.relu(n.a(x))))))),
        a=conv(3, 8),
        twice=conv(8, 8, bias=False),
        last=conv(8, 4),
    )


def killed_shared(m: Any) -> None:
    zero(m.twice.weight, 5)
    zero(m.a.weight, 5)
    m.a.bias[5] = 1.5  # a constant at the first call, nothing at the second


def shared_with_bias() -> nn.Module:
    model = shared()
    model.twice = conv(8, 8)
    return model


def mlp() -> nn.Module:
    return Net(
        lambda n, x: x + n.down(F.gelu(n.up(x))),
        up=nn.Linear(5, 9),
        down=nn.Linear(9, 5),
    )


def killed_mlp(m: Any) -> None:
    zero(m.up.weight, 0, 4)
    zero(m.down.weight, 7, dim=1)


def gated() -> nn.Module:
    def run(n: Any, x: torch.Tensor) -> torch.Tensor:
        gate, value = n.up(x).chunk(2, -1)
        return n.down(F.silu(gate) * value)

    return Net(run, up=nn.Linear(5, 12), down=nn.Linear(6, 5))


def killed_gate(m: Any) -> None:
    zero(m.up.weight, 1)
    zero(m.up.bias, 1)  # the gate is closed, whatever the value


FEWER = SMALLER | {"b.weight": (4, 6, 1, 1)}
LESS = ONE | {"b.weight": (4, 7, 3, 3)}
SEEN = {"a.weight": (4, 3, 1, 1), "a.bias": (4,), "b.weight": (4, 3, 1, 1), "b.bias": (4,)}

CASES = (
    Case("dense", chain(), lambda m: None, {}, "nothing was removed"),
    Case("unread", chain(), lambda m: zero(m.b.weight, 2, 5, dim=1), FEWER),
    Case("scale of zero", chain(), norm_off, FEWER, "folded into b.bias"),
    Case("negative constant", chain(k=3, padding=1), negative, LESS),
    Case("constant, padded", chain(k=3, padding=1), constant_conv, {}, "zero padding"),
    Case(
        "constant, not padded",
        chain(k=3),
        constant_conv,
        LESS,
        "b.bias",
    ),
    Case("reflected", chain(k=3, padding=1, padding_mode="reflect"), constant_conv, LESS, "b.bias"),
    Case(
        "no bias to fold into",
        chain(bias=False),
        norm_off,
        SMALLER | {"b.weight": (4, 6, 1, 1), "b.bias": (4,)},
        "b.bias",
    ),
    Case("one branch", residual, one_branch, {}, "nothing was removed"),
    Case(
        "every branch",
        residual,
        both_branches,
        {"stem.weight": (7, 3, 1, 1), "stem.bias": (7,), "body.weight": (7, 7, 1, 1)}
        | {"body.bias": (7,), "last.weight": (4, 7, 1, 1)},
        "last.bias",
    ),
    Case("concat", concat, killed_concat, SEEN | {"last.weight": (4, 8, 1, 1)}, "last.bias"),
    Case(
        "depthwise, unread",
        depthwise,
        lambda m: zero(m.last.weight, 3, dim=1),
        {"a.weight": (7, 3, 1, 1), "a.bias": (7,), "depth.weight": (7, 1, 3, 3)}
        | {"depth.bias": (7,), "last.weight": (4, 7, 1, 1)},
    ),
    Case(
        "depthwise, off",
        depthwise,
        lambda m: zero(m.depth.weight, 3),
        {"a.weight": (7, 3, 1, 1), "a.bias": (7,), "depth.weight": (7, 1, 3, 3)}
        | {"depth.bias": (7,), "last.weight": (4, 7, 1, 1)},
        "last.bias",
    ),
    Case(
        "a group",
        grouped,
        whole_group,
        {"a.weight": (6, 3, 1, 1), "a.bias": (6,), "group.weight": (9, 2, 1, 1)}
        | {"group.bias": (9,), "last.weight": (4, 9, 1, 1)},
    ),
    Case("part of a group", grouped, lambda m: zero(m.group.weight, 3), {}, "nothing was removed"),
    Case(
        "shared",
        shared,
        killed_shared,
        {"a.weight": (7, 3, 1, 1), "a.bias": (7,), "twice.weight": (7, 7, 1, 1)}
        | {"last.weight": (4, 7, 1, 1)},
        "folded into conv2d_1_constant",
    ),
    Case(
        "shared with a bias",
        shared_with_bias,
        killed_shared,
        {"a.weight": (7, 3, 1, 1), "a.bias": (7,), "twice.weight": (7, 7, 1, 1)}
        | {"twice.bias": (7,), "last.weight": (4, 7, 1, 1)},
        "folded into conv2d_1_constant, conv2d_2_constant, last.bias",
    ),
    Case(
        "MLP",
        mlp,
        killed_mlp,
        {"up.weight": (6, 5), "up.bias": (6,), "down.weight": (5, 6)},
        "down.bias",
        TOKENS,
    ),
    Case(
        "gate",
        gated,
        killed_gate,
        {"up.weight": (10, 5), "up.bias": (10,), "down.weight": (5, 5)},
        inputs=TOKENS,
    ),
)
