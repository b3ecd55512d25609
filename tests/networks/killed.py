"""Random chains of layers with random units killed by hand, and a slow oracle of what is dead.

The oracle runs the network on several inputs and looks at what each reader of a unit sees: whether
its weights there are zero, and whether what it is fed is the same whatever goes in, and whatever
the weights are that are not zero: that a ReLU happens not to fire proves nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.networks.whole import randomise

Kill = Literal["unread", "zero", "scale", "negative"]
POOLS = {
    "none": lambda x: x,
    "avg": lambda x: F.avg_pool2d(x, 2, 1),
    "padded avg": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "avg of what is there": lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "padded max": lambda x: F.max_pool2d(x, 3, 1, 1),
    "larger": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
}
ACTS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "hardswish": F.hardswish, "tanh": F.tanh}


@dataclass(frozen=True)
class Stage:
    """Say what a stage is made of, and which of its units are killed how."""

    width: int
    kernel: int
    padding: int
    act: str
    pool: str
    norm: bool
    depthwise: bool
    squeeze: bool
    kills: tuple[tuple[int, Kill], ...]


KILLS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["unread", "zero", "scale", "negative"])),
    max_size=3,
    unique_by=lambda kill: kill[0],
).map(tuple)
STAGES = st.builds(
    Stage,
    width=st.integers(7, 9),  # one unit at least is never killed
    kernel=st.sampled_from([1, 3]),
    padding=st.integers(0, 1),
    act=st.sampled_from([*ACTS]),
    pool=st.sampled_from([*POOLS]),
    norm=st.booleans(),
    depthwise=st.booleans(),
    squeeze=st.booleans(),
    kills=KILLS,
)


class Chain(nn.Module):
    """Run stages: convolution, norm, activation, depthwise, squeeze-and-excite, pooling."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.stages, wide = tuple(stages), 3
        for name in ("conv", "norm", "deep", "less", "more"):
            self.add_module(name, nn.ModuleDict())
        for k, s in enumerate(stages):
            key = str(k)
            self.conv[key] = nn.Conv2d(wide, s.width, s.kernel, padding=s.padding)
            wide = s.width
            if s.norm:
                self.norm[key] = nn.BatchNorm2d(wide)
            if s.depthwise:
                self.deep[key] = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
            if s.squeeze:
                self.less[key], self.more[key] = nn.Linear(wide, 5), nn.Linear(5, wide)
        self.head = nn.Linear(wide, 4)

    def forward(self, x: Tensor) -> Any:
        for k, s in enumerate(self.stages):
            key = str(k)
            x = self.conv[key](x)
            x = self.norm[key](x) if s.norm else x
            x = ACTS[s.act](x)
            x = ACTS[s.act](self.deep[key](x)) if s.depthwise else x
            if s.squeeze:
                gate = self.more[key](F.relu(self.less[key](x.mean((2, 3))))).sigmoid()
                x = x * gate[:, :, None, None]
            x = POOLS[s.pool](x)
        return self.head(x.mean((2, 3)))

    def readers(self, k: int) -> list[str]:
        """Return the names of the modules that read the units of a stage and hand on others."""
        last = "head" if k == len(self.stages) - 1 else f"conv.{k + 1}"
        return [last, f"less.{k}"] if self.stages[k].squeeze else [last]


def killed(stages: Sequence[Stage], seed: int) -> Chain:
    """Return a chain with random weights whose units are killed as its stages say."""
    torch.manual_seed(seed)
    model = Chain(stages).eval()
    randomise(model)
    with torch.no_grad():
        for k, stage in enumerate(stages):
            for unit, how in stage.kills:
                _kill(model, k, unit, how)
    return model


def _kill(model: Any, k: int, unit: int, how: Kill) -> None:
    conv, key = model.conv[str(k)], str(k)
    if how == "unread":
        for reader in model.readers(k):
            model.get_submodule(reader).weight[:, unit] = 0
        return
    if model.stages[k].norm and how != "zero":
        model.norm[key].weight[unit] = 0
        model.norm[key].bias[unit] = -1e30 if how == "negative" else 0.8
    else:
        conv.weight[unit] = 0
        conv.bias[unit] = {"zero": 0.0, "scale": 0.8, "negative": -1e30}[how]


def expected(model: Chain) -> list[int]:
    """Return how many units of every stage stay, found from the last stage to the first."""
    fed = _fed(model)
    others = [_fed(_other(model, seed)) for seed in range(4)]
    varies = {
        reader: [*map(any, zip(*(_varies(one[reader]) for one in (fed, *others)), strict=True))]
        for reader in fed
    }
    alive: dict[str, np.ndarray[Any, Any]] = {"head": np.ones(4, dtype=bool)}
    left = []
    for k in reversed(range(len(model.stages))):
        readers = model.readers(k)
        if model.stages[k].squeeze:  # which outputs of the gate stay depends on which units do
            outside = _needed(model, k, alive, readers[:1], fed, varies)
            alive[f"less.{k}"] = _read(model, f"more.{k}", fed, varies, outside)
        mine = _needed(model, k, alive, readers, fed, varies)
        if model.stages[k].squeeze:
            alive[f"less.{k}"] = _read(model, f"more.{k}", fed, varies, mine)
            mine = _needed(model, k, alive, readers, fed, varies)
        alive[f"conv.{k}"] = mine
        left.append(int(mine.sum()))
    return left[::-1]


def _needed(
    model: Chain, k: int, alive: Any, readers: Sequence[str], fed: Any = None, varies: Any = None
) -> np.ndarray[Any, Any]:
    need = np.zeros(model.stages[k].width, dtype=bool)
    for reader in readers:
        need |= _read(model, reader, fed, varies, alive[reader])
    return need


def _read(model: Chain, name: str, fed: Any, varies: Any, outputs: Any) -> np.ndarray[Any, Any]:
    """Return which inputs a reader needs: with weights, and of what cannot become a constant."""
    reader: Any = model.get_submodule(name)
    weight = reader.weight.detach()
    reads = (weight != 0).reshape(*weight.shape[:2], -1).any(2).numpy()
    need = reads[np.asarray(outputs)].any(0)
    if fed is None:
        return np.asarray(need)
    padded = isinstance(reader, nn.Conv2d) and reader.padding != (0, 0)
    for unit in range(len(need)):
        values = fed[name][:, unit]
        flat = float(values.max() - values.min()) <= 1e-6 * (1 + float(values.abs().max()))
        if not varies[name][unit] and (not values.any() or (flat and not padded)):
            need[unit] = False
    return np.asarray(need)


def _varies(fed: Tensor) -> list[bool]:
    """Return of every unit whether any of its entries is not the same for all examples."""
    away = (fed - fed[:1]).abs() > 1e-6 * (1 + fed[:1].abs())
    return away.transpose(0, 1).flatten(1).any(1).tolist()


def _fed(model: Chain) -> dict[str, Tensor]:
    """Return what every convolution and linear layer is fed, `[examples, units, …]`."""
    fed: dict[str, Tensor] = {}
    hooks = [
        one.register_forward_pre_hook(lambda m, args, name=name: fed.update({name: args[0]}))
        for name, one in model.named_modules()
        if isinstance(one, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        model(3 * torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(0)))
    for hook in hooks:
        hook.remove()
    return fed


def _other(model: Chain, seed: int) -> Chain:
    """Return the network with other weights where they are not zero."""
    other, made = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for one in other.modules():
            if isinstance(one, nn.Conv2d | nn.Linear):
                one.weight.mul_(torch.randn(one.weight.shape, generator=made).mul(2))
    return other
