"""Signatures as JSON: all but the example inputs themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from fxprune.signature.conditions import Condition, parsed
from fxprune.signature.signature import FixedAxis, Signature


def written(signature: Signature) -> dict[str, Any]:
    """Return the axes of a signature as JSON data."""
    return {
        "axes": [list(names) for names in signature.axes],
        "conditions": [asdict(one) for one in signature.conditions],
        "fixed": [asdict(one) for one in signature.fixed],
        "labels": list(signature.labels),
        "unchecked": [list(place) for place in signature.unchecked],
        "outputs": None if signature.outputs is None else list(signature.outputs),
    }


def read(signature: Signature, said: Mapping[str, Any]) -> Signature:
    """Return a signature with the axes that `written` wrote; raises ValueError for others."""
    axes = tuple(tuple(None if n is None else str(n) for n in names) for names in said["axes"])
    conditions = tuple(Condition(str(c["text"]), str(c["line"])) for c in said["conditions"])
    fixed = tuple(
        FixedAxis(int(f["leaf"]), int(f["axis"]), str(f["why"]), str(f["line"]))
        for f in said["fixed"]
    )
    ranks = [leaf.ndim if isinstance(leaf, torch.Tensor) else 0 for leaf in signature.leaves]
    if axes and [len(names) for names in axes] != ranks:
        raise ValueError(f"axes: {axes} are not those of inputs with {ranks} axes")
    places = [(k, d) for k, rank in enumerate(ranks) for d in range(rank)]
    if any((one.leaf, one.axis) not in places for one in fixed):
        raise ValueError("fixed: an axis that the inputs do not have")
    free = {name for names in axes for name in names if name}
    for one in conditions:
        if not parsed(one.text)[1] <= free:
            raise ValueError(f"conditions: {one.text!r} is about axes that are not free")
    labels = tuple(map(str, said["labels"]))
    unchecked = tuple((int(leaf), int(axis)) for leaf, axis in said["unchecked"])
    if labels and len(labels) != len(ranks):
        raise ValueError(f"labels: {len(labels)} for {len(ranks)} inputs")
    named = said.get("outputs")  # files of earlier versions have none
    outputs = None if named is None else tuple(n if type(n) is int else str(n) for n in named)
    read = replace(signature, axes=axes, conditions=conditions, fixed=fixed, labels=labels)
    return replace(read, unchecked=unchecked, outputs=outputs)
