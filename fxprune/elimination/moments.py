"""Means and variances of activations, as far as a network's own norms tell them: no data is seen.

A batch norm knows the mean and the variance of what it is given, and so of what it gives. (Other
norms hold no statistics: of a single feature they say nothing.) Further on, an entry is taken as
normally distributed and independent of the others: what a pointwise operator makes of it is
computed at quantiles (a rectified Gaussian is such a result), products and sums add means and
variances up. Where nothing varies nothing is assumed, and the mean is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor, fx

from fxprune.elimination.constant_products import PRODUCTS
from fxprune.elimination.constant_propagation import AVERAGES, LARGEST
from fxprune.elimination.constant_values import INDICES, Call
from fxprune.rules import is_pointwise, name_of
from fxprune.rules.movements import MOVES

QUANTILES = 64  # at which a pointwise operator is evaluated
ALIKE = 0.5  # the correlation of neighbours in a window of which the largest is taken


@dataclass(frozen=True, eq=False)
class Moments:
    """Hold mean and variance of each entry of a tensor of `shape`, float64, NaN where unknown.

    An axis along which they are all the same has size 1.
    """

    mean: Tensor
    variance: Tensor
    shape: tuple[int, ...]

    @classmethod
    def of(cls, mean: Tensor, variance: Tensor, shape: Sequence[int]) -> Moments | None:
        """Return moments with equal entries held once; None where all are unknown."""
        if bool(mean.isnan().all()):
            return None
        variance = variance.expand(mean.shape) if variance.ndim < mean.ndim else variance
        for dim in range(mean.ndim):
            if all(_same(one, dim) for one in (mean, variance)):
                mean, variance = (one.narrow(dim, 0, 1) for one in (mean, variance))
        return cls(mean, variance.clamp_min(0.0), tuple(shape))

    @classmethod
    def nothing(cls, shape: Sequence[int]) -> Moments:
        """Return a tensor of which nothing is known."""
        unknown = torch.full([1] * len(shape), torch.nan, dtype=torch.float64)
        return cls(unknown, unknown, tuple(shape))

    @property
    def whole(self) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the tensor's shape."""
        return self.mean.expand(self.shape), self.variance.expand(self.shape)


def _same(one: Tensor, dim: int) -> bool:
    if one.shape[dim] < 2:
        return one.shape[dim] == 1
    first = one.narrow(dim, 0, 1)
    return bool(((one == first) | (one.isnan() & first.isnan())).all())


Rule = Callable[[Call, tuple[int, ...]], Any]  # moments, a tuple of them, or None


def rule_of(target: Any) -> Rule | None:
    """Return how an operator makes moments of moments, or None where it is not known."""
    if target in NORMS:
        return NORMS[target]
    if target in PRODUCTS:
        return product
    if not isinstance(target, torch._ops.OpOverload):
        return None
    name = name_of(target)
    if name in MOVES:
        return moved
    if is_pointwise(target):
        return pointwise
    if name in AVERAGES:
        return averaged
    if name in LARGEST:
        return largest
    return attention if "scaled_dot_product" in name else None


def _moments(call: Call) -> dict[str, Moments]:
    return {name: one for name, one in call.args.items() if isinstance(one, Moments)}


# ---- norms: where moments come from --------------------------------------------------------------


def batch_norm(call: Call, shape: tuple[int, ...]) -> Moments | None:
    """Tell what a norm gives from the statistics of what it is given, which it holds."""
    mean, variance = call.args.get("running_mean"), call.args.get("running_var")
    if call.args.get("training") or mean is None or variance is None:
        return None
    share = variance / (variance + float(call.args["eps"]))
    return _scaled(call, share, shape)


def instance_norm(call: Call, shape: tuple[int, ...]) -> Moments | None:
    """Tell that each channel of an example has mean 0 and variance 1 before it is scaled."""
    if not call.args.get("use_input_stats", True):
        return batch_norm(call, shape)
    return _scaled(call, torch.ones((), dtype=torch.float64), shape)


def _scaled(call: Call, variance: Tensor, shape: tuple[int, ...]) -> Moments | None:
    """Scale channels that are normalised but for their variance."""
    weight, bias = call.args.get("weight"), call.args.get("bias")
    if any(isinstance(one, Moments) for one in (weight, bias)):
        return None
    mean = torch.zeros(1, dtype=torch.float64) if bias is None else bias
    variance = variance if weight is None else variance * weight.square()
    mean, variance = torch.broadcast_tensors(mean, variance)
    along = [-1 if d == 1 else 1 for d in range(len(shape))]
    return Moments.of(mean.reshape(along), variance.reshape(along), shape)


aten = torch.ops.aten
NORMS: Mapping[Any, Rule] = {
    aten.batch_norm.default: batch_norm,
    aten._native_batch_norm_legit_no_training.default: batch_norm,
    aten.instance_norm.default: instance_norm,
}


# ---- what becomes of them ------------------------------------------------------------------------


def moved(call: Call, shape: tuple[int, ...]) -> Any:
    """Move the moments as the entries are; what fills up (padding) does not vary."""
    if any(isinstance(one, Moments) for name in INDICES for one in _listed(call.args.get(name))):
        return None
    mean = _run(call, lambda one: one.whole[0])
    variance = _run(call, lambda one: one.whole[1], torch.zeros_like)
    return _made(mean, variance, shape)


def _made(mean: Any, variance: Any, shape: tuple[int, ...]) -> Any:
    if isinstance(mean, (list, tuple)):
        pairs = zip(mean, variance, strict=True)
        return tuple(Moments.of(a, b, tuple(a.shape)) for a, b in pairs)
    return Moments.of(mean, variance, shape)


def _run(
    call: Call, read: Callable[[Moments], Tensor], known: Callable[[Tensor], Tensor] | None = None
) -> Any:
    """Call an operator on a part of the moments, and on what `known` makes of known tensors."""

    def value(one: Any, index: bool) -> Any:
        if isinstance(one, Moments):
            return read(one)
        if isinstance(one, (list, tuple)):
            return type(one)(value(each, index) for each in one)
        floating = isinstance(one, Tensor) and one.is_floating_point() and not index
        return known(one) if floating and known is not None else one

    changed = {name: value(one, name in INDICES) for name, one in call.args.items()}
    if known is not None and isinstance(call.args.get("value"), (int, float)):
        changed["value"] = 0
    return call.run(changed)


def _listed(arg: Any) -> list[Any]:
    return list(arg) if isinstance(arg, (list, tuple)) else [arg]


@cache
def quantiles() -> Tensor:
    """Return values that stand for a normal distribution, of mean 0 and variance 1."""
    found = ndtri((torch.arange(QUANTILES, dtype=torch.float64) + 0.5).numpy() / QUANTILES)
    values = torch.from_numpy(found)
    return values / values.square().mean().sqrt()


def pointwise(call: Call, shape: tuple[int, ...]) -> Moments | None:
    """Evaluate an operator at quantiles of its operands, which are paired as if independent."""
    if "dropout" in call.name and not call.args.get("train", True):
        return call.args["input"]  # type: ignore[no-any-return]
    if torch.Tag.nondeterministic_seeded in call.node.target.tags:  # type: ignore[union-attr]
        return None
    operands, source = _moments(call), torch.Generator().manual_seed(0)
    points: dict[fx.Node, Tensor] = {}
    changed: dict[str, Tensor] = {}
    for name, one in operands.items():
        given = call.given[name]
        if given not in points:
            first = not points
            order = (
                torch.arange(QUANTILES) if first else torch.randperm(QUANTILES, generator=source)
            )
            points[given] = quantiles()[order]
        lead = points[given].reshape(-1, *[1] * len(shape))
        flat = (1,) * (len(shape) - one.mean.ndim)
        mean, spread = (t.reshape(*flat, *t.shape) for t in (one.mean, one.variance.sqrt()))
        changed[name] = mean + lead * spread
    values = call.run(changed)
    if not isinstance(values, Tensor) or not values.is_floating_point():
        return None
    values = values.double()
    return Moments.of(values.mean(0), values.var(0, unbiased=False), shape)


def product(call: Call, shape: tuple[int, ...]) -> Moments | None:
    """Add up terms, each a factor that varies times one that does not."""
    names, _ = PRODUCTS[call.node.target]
    varying = [name for name in names if isinstance(call.args.get(name), Moments)]
    if len(varying) != 1 or len(names) != 2:
        return None
    x = call.args[varying[0]]
    (other,) = (call.args[name] for name in names if name != varying[0])
    mean, variance = applied(call, varying[0], x.whole[0], other), None
    variance = weighed(call, varying[0], x.whole[1], other.square())
    return Moments.of(mean, variance, shape)


def applied(call: Call, name: str, x: Tensor, weight: Tensor) -> Tensor:
    """Call a product on other data, with its own bias."""
    names, _ = PRODUCTS[call.node.target]
    made: Tensor = call.run({one: x if one == name else weight for one in names})
    return made


def weighed(call: Call, name: str, x: Tensor, weight: Tensor) -> Tensor:
    """Call a product on other data and weights, without its bias."""
    names, extra = PRODUCTS[call.node.target]
    changed: dict[str, Any] = {one: x if one == name else weight for one in names}
    bias = call.args.get(extra) if extra is not None else None
    if extra is not None:
        changed[extra] = torch.zeros_like(bias) if isinstance(bias, Tensor) else None
    made: Tensor = call.run(changed | {one: 1 for one in ("alpha", "beta") if one in call.args})
    return made


def averaged(call: Call, shape: tuple[int, ...]) -> Any:
    """Average means; entries that are averaged are taken to vary together."""
    return _made(_run(call, lambda o: o.whole[0]), _run(call, lambda o: o.whole[1]), shape)


def largest(call: Call, shape: tuple[int, ...]) -> Any:
    """Tell the mean of the largest of several, neighbours being correlated by `ALIKE`."""
    (x,) = _moments(call).values()
    mean, variance = (_run(call, read) for read in (lambda o: o.whole[0], lambda o: o.whole[1]))
    several = isinstance(mean, tuple)
    mean, variance = (one[0] if several else one for one in (mean, variance))
    rise, left = _extreme(max(1, round(x.mean.expand(x.shape).numel() / mean.numel())))
    found = Moments.of(mean + rise * variance.sqrt(), left * variance, tuple(mean.shape))
    return (found, None) if several else found


@cache
def _extreme(count: int) -> tuple[float, float]:
    """Return by how many deviations the largest of so many exceeds the mean, and its variance."""
    z = torch.linspace(-8.0, 8.0, 4001, dtype=torch.float64).numpy()
    density = count * np.exp(-z * z / 2.0) * ndtr(z) ** (count - 1)  # up to a factor
    density = density / density.sum()
    mean = float((density * z).sum())
    spread = float((density * z * z).sum()) - mean * mean
    return (1.0 - ALIKE) ** 0.5 * mean, ALIKE + (1.0 - ALIKE) * spread


def attention(call: Call, shape: tuple[int, ...]) -> Any:
    """Average the values of all keys: the weights of a softmax add up to one."""
    value = call.args["value"]
    if not isinstance(value, Moments) or call.args.get("attn_mask") is not None:
        return None
    if call.args.get("enable_gqa"):
        return None
    mean, variance = (one.mean(dim=-2, keepdim=True) for one in value.whole)
    found = Moments.of(mean, variance, shape)
    return found if isinstance(call.node.meta["val"], Tensor) else (found,)
