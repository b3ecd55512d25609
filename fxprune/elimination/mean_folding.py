"""Repair without data: what was removed is replaced by its mean, and norms expect the rest.

A layer that read removed units gives its outputs without their mean: it is added back where
constants of dead units are. Where a batch norm follows, its variance is changed as the share of the
variance that the removed units had (mean: Nagel et al. 2019, arXiv:1906.04721, who absorb biases by
the same rectified Gaussians; both are of the network's own statistics).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxprune.elimination.constant_products import PRODUCTS
from fxprune.elimination.constant_propagation import constants
from fxprune.elimination.entries import survives
from fxprune.elimination.folding import compensate, norm_after
from fxprune.elimination.moment_propagation import call_of, moments
from fxprune.elimination.moments import Moments, weighed
from fxprune.elimination.weighted_consumers import WeightedConsumer, weighted_consumer
from fxprune.graphs import arguments, attribute
from fxprune.guards import Mask
from fxprune.rules import Coupling
from fxprune.signature import Signature

LEAST = 0.01  # share of the variance that is left at least: less is a matter of the assumptions


@dataclass(frozen=True)
class MeansFolded:
    """Say where means were put, and how many norms' variances were changed.

    Of the inputs that layers `unknown` lost no mean is known; layers `homeless` have neither a bias
    nor a norm to take it.
    """

    places: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()  # their variances
    unknown: tuple[str, ...] = ()
    homeless: tuple[str, ...] = ()

    @property
    def changed(self) -> tuple[str, ...]:
        """Return the names of all tensors that have other values."""
        return (*self.places, *self.norms)

    def notes(self) -> list[str]:
        """Return what was done and what could not be, a line each."""
        said: list[str] = []
        if self.places:
            said.append(
                f"the means of removed units, as batch norms tell them, were folded into "
                f"{_some(self.places)}; the variances of {len(self.norms)} norms follow"
            )
        if self.unknown:
            said.append(
                f"what {_some(self.unknown)} lost has means that no batch norm tells: nothing "
                "makes up for it; give calibrate, and it is refitted"
            )
        if self.homeless:
            said.append(
                f"{_some(self.homeless)} have no bias and no norm of their own to take the means "
                "of what they lost; give calibrate, and they are refitted"
            )
        return said


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown}, … ({len(names)} in all)"


def fold_means(
    module: fx.GraphModule,
    coupling: Coupling,
    signature: Signature,
    smaller: fx.GraphModule,
    alive: Mask,
    *,
    grow: bool = False,
) -> MeansFolded:
    """Fold the means of what `alive` leaves out of a coupled graph into the smaller one, in place.

    Its nodes have the names of those that they came from. With `grow` a layer without a bias or a
    norm gets a new bias.
    """
    facts = constants(module, signature)
    known = moments(module, facts)
    lost: list[tuple[str, Tensor, int]] = []
    scales: dict[str, Tensor] = {}
    unknown: list[str] = []
    with torch.no_grad():
        for node in module.graph.nodes:
            if node.op != "call_function" or node.target not in PRODUCTS:
                continue
            consumer = weighted_consumer(node, coupling, facts)
            if consumer is None or survives(alive, consumer.inputs).all():
                continue
            one = Removed.of(consumer, known, facts, alive)
            if one is None:
                unknown.append(node.name)
                continue
            lost += [(node.name, one.mean, consumer.axis)] if bool((one.mean != 0).any()) else []
            scales[node.name] = one.scale
    norms = _rescale(smaller, scales)
    places = compensate(smaller, lost, grow=grow)
    homeless = [name for (name, _, _), place in zip(lost, places, strict=True) if not place]
    return MeansFolded(tuple(filter(None, places)), norms, tuple(unknown), tuple(homeless))


@dataclass(frozen=True, eq=False)
class Removed:
    """Hold what removed inputs gave to each output that is left: their mean, float64 `[outputs]`.

    `scale` is the variance without them over that with them, 1 where it is unknown.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(
        cls,
        consumer: WeightedConsumer,
        known: Mapping[fx.Node, Any],
        facts: Mapping[fx.Node, Any],
        alive: Mask,
    ) -> Removed | None:
        """Return what a consumer loses, None where nothing is known of it."""
        node, (names, _) = consumer.node, PRODUCTS[consumer.node.target]
        x = known.get(arguments(node)[names[0]])
        call = call_of(node, known, facts)
        if not isinstance(x, Moments) or call is None:
            return None
        dim = len(x.shape) + consumer.axis
        gone = torch.from_numpy(~survives(alive, consumer.inputs, x.shape[dim]))
        gone = gone.reshape([-1 if d == dim else 1 for d in range(len(x.shape))])
        mean, variance = x.whole
        if dim and x.mean.shape[0] == 1:  # all examples are alike
            mean, variance = mean[:1], variance[:1]
        if bool(mean.isnan().all(dim=dim).any()):
            return None
        weight, square = (call.args[names[1]] ** power for power in (1, 2))

        def per_output(data: Tensor, by: Tensor) -> Tensor:
            made = weighed(call, names[0], data, by)
            return made.movedim(consumer.axis, 0).flatten(1).mean(dim=1)

        shift = per_output(torch.where(gone, mean, 0.0).nan_to_num(0.0), weight)
        whole = per_output(variance, square)
        left = per_output(torch.where(gone, 0.0, variance), square)
        scale = torch.where(whole > 0, left / whole, 1.0).nan_to_num(1.0).clamp(LEAST, 1.0)
        live = torch.from_numpy(survives(alive, consumer.outputs, len(shift)))
        return cls(shift[live], scale[live])


def _rescale(smaller: fx.GraphModule, scales: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Scale the running variances of the norms that alone read what lost some of it."""
    done: list[str] = []
    for node in smaller.graph.nodes:
        scale = scales.get(node.name)
        read = norm_after(smaller, node, "running_var") if scale is not None else None
        if scale is None or read is None or bool((scale == 1).all()):
            continue
        variance = attribute(smaller, str(read.target))
        scaled = variance.detach().cpu().double() * scale
        variance.data.copy_(scaled.to(variance.dtype))
        done.append(str(read.target))
    return tuple(done)
